//! Moves with a crash before every step, on plain directories in place of a mounted volume.

use std::collections::BTreeMap;

use super::*;

struct World {
    top: PathBuf,
    places: Places,
    dir: PathBuf,
}

impl World {
    fn new(name: &str) -> World {
        let top = std::env::temp_dir().join(format!("twinfs-adopt-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&top);
        std::fs::create_dir_all(top.join("volume")).unwrap();
        let dir = top.join("var/spool/mail");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("letter"), b"dear all").unwrap();
        std::fs::write(dir.join("sub/more"), vec![3; 10_000]).unwrap();
        std::fs::hard_link(dir.join("letter"), dir.join("copy of letter")).unwrap();
        let needed = vec![top.join("images/a.img")];
        let places = Places { mount: top.join("volume"), state_dir: top.join("state"), needed };
        World { top, places, dir }
    }

    /// A second node: its own directories, the same volume at the same place.
    fn peer(&self) -> World {
        let top = self.top.join("peer");
        let dir = top.join("var/spool/mail");
        let places = Places { state_dir: top.join("state"), ..self.places.clone() };
        World { top, places, dir }
    }

    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        content(&self.dir)
    }

    fn target(&self) -> PathBuf {
        target_of(&self.places.mount, &self.dir)
    }

    fn end(self) {
        std::fs::remove_dir_all(&self.top).unwrap();
    }
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let relative = path.strip_prefix(dir).unwrap().to_path_buf();
        if path.is_dir() {
            all.extend(content(&path).into_iter().map(|(inner, bytes)| (relative.join(inner), bytes)));
        } else {
            all.insert(relative, std::fs::read(&path).unwrap());
        }
    }
    all
}

type Act = fn(&Path, &Places, Step<'_>, tree::OnEntry<'_>) -> Result<Report, AdoptError>;

/// Runs `act`, stopping before its `n`th step or entry; `true` if it came to its end.
fn crash_at(n: usize, act: Act, world: &World) -> bool {
    let mut left = n;
    let mut entries_left = usize::MAX;
    let mut step = |_: &'static str| {
        if left == 0 {
            return Err(AdoptError::Tree(TreeError::Stopped));
        }
        left -= 1;
        Ok(())
    };
    // Half of the rounds crash in the middle of the copy instead.
    if n >= 100 {
        entries_left = n - 100;
    }
    let mut on_entry = |_: Tally| {
        entries_left = entries_left.saturating_sub(1);
        entries_left > 0
    };
    match act(&world.dir, &world.places, &mut step, &mut on_entry) {
        Ok(_) => true,
        Err(AdoptError::Tree(TreeError::Stopped)) => false,
        Err(other) => panic!("step {n}: {other}"),
    }
}

fn to_the_end(act: Act, world: &World) -> Report {
    act(&world.dir, &world.places, &mut |_| Ok(()), &mut |_| true).unwrap()
}

/// Every crash point of `act`: steps 0.. until it ends, then entries of the copy.
fn every_crash(
    name: &str,
    act: Act,
    prepare: fn(&World),
    check: fn(&World, &BTreeMap<PathBuf, Vec<u8>>),
) -> usize {
    let mut crashes = 0;
    for start in [0, 101] {
        for n in start.. {
            let world = World::new(name);
            let before = world.content();
            prepare(&world);
            let ended = crash_at(n, act, &world);
            assert_eq!(world.content(), before, "after a crash at {n} the content is where the path leads");
            check(&world, &before);
            world.end();
            if ended {
                break;
            }
            crashes += 1;
        }
    }
    crashes
}

fn is_adopted(world: &World, before: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(found(&world.dir).unwrap(), Found::Symlink(world.target()));
    assert_eq!(&world.content(), before);
    assert_eq!(&content(&world.target()), before);
    assert_eq!(&content(&beside(&world.dir, "adopted")), before, "the original is kept");
    assert_eq!(found(&beside(&world.dir, "link")).unwrap(), Found::Nothing);
    assert_eq!(Journal::new(&world.places.state_dir).open_moves(), []);
    assert_eq!(list(&world.places.mount).unwrap(), [Adopted { dir: world.dir.clone(), adopted: true }]);
}

#[test]
fn an_adoption_interrupted_anywhere_is_completed_by_repeating_it() {
    let crashes = every_crash(
        "complete",
        adopt,
        |_| {},
        |world, before| {
            to_the_end(adopt, world);
            is_adopted(world, before);
            // Once more does nothing.
            let again = to_the_end(adopt, world);
            assert_eq!(again.tally, Tally::default());
            is_adopted(world, before);
        },
    );
    assert!(crashes > 12, "only {crashes} crash points");
}

#[test]
fn an_adoption_interrupted_anywhere_can_be_undone() {
    every_crash(
        "undo",
        adopt,
        |_| {},
        |world, before| {
            match release(&world.dir, &world.places, &mut |_| Ok(()), &mut |_| true) {
                // It had not begun, as far as the disk knows.
                Err(AdoptError::NotAdopted(_)) => {}
                other => drop(other.unwrap()),
            }
            assert_eq!(found(&world.dir).unwrap(), Found::Directory);
            assert_eq!(&world.content(), before);
            assert_eq!(found(&beside(&world.dir, "partial")).unwrap(), Found::Nothing);
            assert_eq!(Journal::new(&world.places.state_dir).open_moves(), []);
        },
    );
}

#[test]
fn a_release_interrupted_anywhere_is_completed_by_repeating_it() {
    let prepare = |world: &World| drop(to_the_end(adopt, world));
    let crashes = every_crash("release", release, prepare, |world, before| {
        match release(&world.dir, &world.places, &mut |_| Ok(()), &mut |_| true) {
            // The crash came after the last step that matters, or it had come to its end.
            Err(AdoptError::NotAdopted(_)) => {}
            other => drop(other.unwrap()),
        }
        assert_eq!(found(&world.dir).unwrap(), Found::Directory);
        assert_eq!(&world.content(), before);
        assert_eq!(found(&world.target()).unwrap(), Found::Nothing, "the volume's copy is put aside");
        assert_eq!(&content(&beside(&world.target(), "released")), before, "and kept");
        assert_eq!(Journal::new(&world.places.state_dir).open_moves(), []);
        assert_eq!(list(&world.places.mount).unwrap(), [Adopted { dir: world.dir.clone(), adopted: false }]);
    });
    assert!(crashes > 8, "only {crashes} crash points");
}

#[test]
fn the_other_node_follows_whatever_it_has_there() {
    let world = World::new("peer");
    let peer = world.peer();
    let entry = |adopted| [Adopted { dir: peer.dir.clone(), adopted }];
    let target = target_of(&peer.places.mount, &peer.dir);
    // Nothing there: the link is made, and goes again on release.
    assert_eq!(follow(&entry(true), &peer.places).len(), 1);
    assert_eq!(found(&peer.dir).unwrap(), Found::Symlink(target.clone()));
    assert!(follow(&entry(true), &peer.places).is_empty(), "done before");
    follow(&entry(false), &peer.places);
    assert_eq!(found(&peer.dir).unwrap(), Found::Nothing);
    // Its own directory: put aside, and back on release.
    std::fs::create_dir_all(&peer.dir).unwrap();
    std::fs::write(peer.dir.join("old"), b"old").unwrap();
    follow(&entry(true), &peer.places);
    assert_eq!(found(&peer.dir).unwrap(), Found::Symlink(target));
    assert_eq!(content(&beside(&peer.dir, "adopted")).len(), 1);
    follow(&entry(false), &peer.places);
    assert_eq!(found(&peer.dir).unwrap(), Found::Directory);
    assert_eq!(peer.content().len(), 1);
    assert!(follow(&entry(false), &peer.places).is_empty());
    world.end();
}

#[test]
fn a_follower_that_crashed_in_the_exchange_finishes_it() {
    let world = World::new("half");
    let target = world.target();
    let mut steps = 0;
    loop {
        let _ = std::fs::remove_dir_all(&world.dir);
        let _ = std::fs::remove_file(&world.dir);
        let _ = std::fs::remove_dir_all(beside(&world.dir, "adopted"));
        let _ = std::fs::remove_dir_all(beside(&world.dir, "link"));
        let _ = std::fs::remove_file(beside(&world.dir, "link"));
        std::fs::create_dir_all(&world.dir).unwrap();
        std::fs::write(world.dir.join("own"), b"own").unwrap();
        let mut left = steps;
        let result = put_link(&world.dir, &target, &mut |_| {
            if left == 0 {
                return Err(AdoptError::Tree(TreeError::Stopped));
            }
            left -= 1;
            Ok(())
        });
        follow(&[Adopted { dir: world.dir.clone(), adopted: true }], &world.places);
        assert_eq!(found(&world.dir).unwrap(), Found::Symlink(target.clone()), "crash at {steps}");
        assert_eq!(content(&beside(&world.dir, "adopted")).len(), 1, "crash at {steps}");
        assert_eq!(found(&beside(&world.dir, "link")).unwrap(), Found::Nothing, "crash at {steps}");
        if result.is_ok() {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 3);
    world.end();
}

#[test]
fn what_must_not_move_is_refused_and_nothing_changes() {
    let world = World::new("refuse");
    let try_it = |dir: &Path| adopt(dir, &world.places, &mut |_| Ok(()), &mut |_| true).unwrap_err();
    assert!(matches!(try_it(&world.top), AdoptError::Holds { .. }));
    assert!(matches!(try_it(Path::new("/proc")), AdoptError::MountPoint(_)));
    assert!(matches!(try_it(Path::new("var/spool")), AdoptError::BadPath(_)));
    assert!(matches!(try_it(&world.top.join("nothing")), AdoptError::Missing(_)));
    assert!(matches!(try_it(&world.places.mount.join("x")), AdoptError::OnVolume(_)));
    let link = world.top.join("link");
    std::os::unix::fs::symlink("/elsewhere", &link).unwrap();
    assert!(matches!(try_it(&link), AdoptError::NotADirectory(_)));
    std::fs::create_dir_all(world.target()).unwrap();
    assert!(matches!(try_it(&world.dir), AdoptError::InTheWay(_)));
    assert_eq!(found(&world.dir).unwrap(), Found::Directory);
    assert!(Journal::new(&world.places.state_dir).open_moves().is_empty());
    world.end();
}

#[test]
fn a_directory_that_changes_during_the_copy_stays_where_it_is() {
    let world = World::new("busy");
    let letter = world.dir.join("letter");
    let mut on_entry = |_: Tally| {
        std::fs::write(&letter, b"dear everybody").unwrap();
        std::fs::write(world.dir.join("new"), b"new").unwrap();
        true
    };
    let error = adopt(&world.dir, &world.places, &mut |_| Ok(()), &mut on_entry).unwrap_err();
    assert!(error.to_string().contains("stop its services"), "{error}");
    assert_eq!(found(&world.dir).unwrap(), Found::Directory);
    assert_eq!(found(&world.target()).unwrap(), Found::Nothing);
    assert_eq!(found(&beside(&world.target(), "partial")).unwrap(), Found::Nothing);
    world.end();
}

#[test]
fn programs_with_open_files_are_named() {
    let world = World::new("open");
    let open = File::open(world.dir.join("letter")).unwrap();
    let users = users_of(&world.dir);
    assert!(users.iter().any(|user| user.contains(&format!("({})", std::process::id()))), "{users:?}");
    drop(open);
    world.end();
}

#[test]
fn mount_points_with_blanks_are_read() {
    let line = b"36 35 98:0 / /mnt/a\\040b rw - ext4 /dev/x rw\n";
    assert_eq!(check::mount_points(line), [PathBuf::from("/mnt/a b")]);
}
