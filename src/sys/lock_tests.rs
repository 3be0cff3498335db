//! The image lock: exclusion, the name of the holder, waiting.

use super::*;

#[test]
fn a_second_opener_is_told_who_holds_the_image_and_gets_it_afterwards() {
    let path = std::env::temp_dir().join(format!("twinfs-lock-{}", std::process::id()));
    std::fs::write(&path, b"x").expect("file");
    let held = ImageLock::take(&path, Duration::ZERO).expect("free");
    let error = ImageLock::take(&path, Duration::from_millis(30)).err().expect("held");
    let own = std::process::id();
    assert!(matches!(error, LockError::InUse { pid: Some(pid), .. } if pid == own), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {own}")));
    assert!(ImageLock::shared(&path, Duration::ZERO).is_err());
    drop(held);
    let first = ImageLock::shared(&path, Duration::ZERO).expect("free");
    let second = ImageLock::shared(&path, Duration::ZERO).expect("readers share");
    assert!(ImageLock::take(&path, Duration::ZERO).is_err());
    drop((first, second));
    ImageLock::take(&path, Duration::ZERO).expect("free again");
    std::fs::remove_file(&path).expect("remove");
}
