//! Tests of serial lines: the pace by itself, the rest over pseudo terminals.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::sys::serial::tests::pty;
use crate::wire::HEARTBEAT_BYTES;

fn at(ms: u64) -> Moment {
    Moment(0) + Span::from_millis(1_000_000 + ms)
}

fn outbox(baud: u32) -> Outbox {
    let line = SerialLine { device: PathBuf::new(), baud };
    let hold = Span::from_millis(200);
    Outbox { line, hold, waiting: VecDeque::new(), free_at: Moment(0), number: 0 }
}

/// The datagram and the number in a frame.
fn inside(frame: &[u8]) -> (u16, Vec<u8>) {
    let mut deframer = Deframer::default();
    match frame.iter().find_map(|byte| deframer.push(*byte)) {
        Some(Frame::Whole { number, datagram }) => (number, datagram),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slow_line_carries_the_newest_of_each_volume_in_turn_and_queues_nothing() {
    let mut outbox = outbox(9_600);
    // Three volumes each 100 ms are four times what fits.
    let (mut bytes, mut got, mut last) = (0, [0_u64; 3], None);
    for ms in 0..20_000 {
        if ms % 100 == 0 {
            for volume in 0..3_u8 {
                let mut datagram = vec![volume; HEARTBEAT_BYTES];
                datagram[1..9].copy_from_slice(&u64::to_le_bytes(ms));
                outbox.post(at(ms), Sender::Volume(u128::from(volume)), &datagram);
            }
        }
        assert!(outbox.waiting.len() <= 3);
        if let Some(frame) = outbox.next(at(ms)) {
            bytes += frame.len();
            let (number, datagram) = inside(&frame);
            assert_eq!(last.map_or(number, |last: u16| last + 1), number);
            last = Some(number);
            let said = u64::from_le_bytes(datagram[1..9].try_into().unwrap());
            assert!(ms - said < 100, "at {ms} the word of {said} left, and there was a newer one");
            got[usize::from(datagram[0])] += 1;
        }
    }
    assert!(bytes <= 20 * 960 + SerialLine::FRAME_BYTES_MAX, "{bytes} bytes in 20 s");
    assert!(bytes >= 18 * 960, "{bytes} bytes in 20 s");
    assert!(got.iter().all(|count| count.abs_diff(got[0]) <= 1), "{got:?}");
}

#[test]
fn what_waited_too_long_is_not_said_any_more() {
    let mut outbox = outbox(9_600);
    outbox.post(at(0), Sender::Volume(1), b"first");
    assert!(outbox.next(at(0)).is_some());
    outbox.post(at(0), Sender::Volume(1), b"last word");
    outbox.post(at(0), Sender::Question, b"?");
    assert_eq!(outbox.next(at(1)), None, "the line is not free");
    assert_eq!(outbox.next(at(201)), None);
    assert_eq!(outbox.due(), None, "it is gone, not kept");
    outbox.post(at(300), Sender::Answer, b"!");
    assert_eq!(inside(&outbox.next(at(300)).unwrap()), (1, b"!".to_vec()), "only heartbeats are numbered");
}

/// An open line, and the far end of its cable.
fn line() -> (Line, std::fs::File, PathBuf) {
    let (far, device) = pty();
    let line = Line::new(&SerialLine { device: device.clone(), baud: 115_200 }, Span::from_secs(1));
    assert!(line.open(), "{:?}", line.trouble());
    (line, far, device)
}

/// What has come: its bytes, or nothing for noise.
fn arrived(line: &Line) -> Vec<Vec<u8>> {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    std::iter::from_fn(|| line.recv(&mut buffer).map(|got| buffer[..got.len].to_vec())).collect()
}

#[test]
fn datagrams_pass_both_ways_and_noise_is_told_and_harms_nothing() {
    let (line, mut far, _) = line();
    line.post(at(0), Sender::Volume(1), b"old");
    line.post(at(0), Sender::Volume(1), b"beat");
    assert_eq!(line.flush(at(0)), None);
    let mut sent = [0; 64];
    let len = far.read(&mut sent).unwrap();
    assert_eq!(inside(&sent[..len]), (1, b"beat".to_vec()));
    assert!(arrived(&line).is_empty(), "nothing is echoed");
    // A getty at the other end, a frame in the middle of it, and one in two parts.
    far.write_all(b"\r\nlogin: ").unwrap();
    far.write_all(&sent[..len]).unwrap();
    far.write_all(&sent[..5]).unwrap();
    assert_eq!(arrived(&line), [b"".to_vec(), b"beat".to_vec()]);
    far.write_all(&sent[5..len]).unwrap();
    assert_eq!(arrived(&line), [b"beat".to_vec()]);
}

#[test]
fn a_flood_of_noise_ends_each_look() {
    let (line, mut far, _) = line();
    let mut poured = 0;
    while let Ok(count) = far.write(&[0; 4_096]) {
        poured += count;
        if poured > 1 << 20 {
            break;
        }
    }
    assert!(poured > READS_MAX * CHUNK_BYTES, "{poured}");
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    let look = line.recv(&mut buffer).expect("there is more");
    assert_eq!((look.len, look.number), (0, None));
}

#[test]
fn a_device_that_goes_is_named_and_taken_up_again_when_it_is_back() {
    let dir = std::env::temp_dir().join(format!("twinfs-serial-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let device = dir.join("cable");
    let plug = |to: &PathBuf| {
        let _ = std::fs::remove_file(&device);
        std::os::unix::fs::symlink(to, &device).unwrap();
    };
    let (far, end) = pty();
    plug(&end);
    let line = Line::new(&SerialLine { device: device.clone(), baud: 9_600 }, Span::from_secs(1));
    assert!(line.open() && line.trouble().is_none());
    assert!(!line.open(), "it is open");
    drop(far);
    std::fs::remove_file(&device).unwrap();
    assert!(arrived(&line).is_empty());
    assert!(line.port().is_none() && line.trouble().is_some(), "{:?}", line.trouble());
    assert!(!line.open() && line.trouble().unwrap().contains("No such file"), "{:?}", line.trouble());
    line.post(at(0), Sender::Volume(1), b"into the void");
    assert_eq!(line.flush(at(0)), None);
    let (mut far, end) = pty();
    plug(&end);
    assert!(line.open() && line.trouble().is_none());
    line.post(at(1), Sender::Volume(1), b"again");
    line.flush(at(1));
    let mut sent = [0; 64];
    let len = far.read(&mut sent).unwrap();
    assert_eq!(inside(&sent[..len]).1, b"again", "what was said meanwhile is not said now");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_device_that_takes_nothing_holds_nobody_up() {
    let (line, _far, _) = line();
    let begun = Instant::now();
    // A minute of heartbeats that nobody takes off: more than the device holds.
    for ms in 0..60_000 {
        line.post(at(ms * 20), Sender::Volume(1), &[7; HEARTBEAT_BYTES]);
        line.flush(at(ms * 20));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(line.port().is_some(), "{:?}", line.trouble());
}
