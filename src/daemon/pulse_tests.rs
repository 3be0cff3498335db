//! Tests of the pulse over loopback: what arrived is known in time, and counts from when it arrived.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use super::*;
use crate::base::Generation;
use crate::sys::serial::tests::pty;

const CONFIG: &str = "[cluster]\nname = \"x\"\narbitration = \"manual\"\nrealtime = \"off\"\n\
    [timing]\nkeepalive = \"100ms\"\ndeadtime = \"10s\"\nwarntime = \"250ms\"\ninitdead = \"20s\"\n\
    [node.alpha]\naddresses = [\"10.0.0.1\"]\n[node.beta]\naddresses = [\"10.0.0.2\"]\n[volume.mail]\n\
    image = \"/var/lib/mail.img\"\nsize = \"1G\"\nmount = \"/srv/mail\"\n";

const VOLUME: VolumeId = VolumeId(7);

/// The pulses of both nodes, without their threads.
fn pair() -> [Arc<Pulse>; 2] {
    let config = Config::parse(CONFIG).unwrap();
    let ports: Vec<SocketAddr> =
        (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).collect();
    [NodeId::A, NodeId::B].map(|me| {
        let (mine, theirs) = (usize::from(me.index()), usize::from(me.other().index()));
        let path = Path { local: Some(ports[mine]), remote: ports[theirs] };
        Pulse::new(&config, &ClusterKey::from_bytes([3; 32]), me, &[path], &[VOLUME]).unwrap()
    })
}

fn beat(from: NodeId, seq: u64) -> Heartbeat {
    Heartbeat {
        volume: VOLUME,
        from,
        boot_epoch: 1,
        seq,
        record: None,
        head: Generation(1),
        serving: false,
        released: false,
        nonce: 5,
        nonce_echo: 0,
        echo_seq: 0,
    }
}

/// The machine speaks and the sender runs.
fn send(pulse: &Pulse, heartbeat: &Heartbeat) {
    pulse.post(heartbeat);
    pulse.datagrams.turn(Duration::ZERO);
}

fn numbers(events: impl IntoIterator<Item = Event>) -> Vec<u64> {
    let seq = |event| match event {
        Event::Heartbeat { heartbeat, .. } => Some(heartbeat.seq),
        _ => None,
    };
    events.into_iter().filter_map(seq).collect()
}

#[test]
fn what_has_arrived_is_known_before_silence_is_judged() {
    let [alpha, beta] = pair();
    let seat = Arc::clone(beta.seat(VOLUME).unwrap());
    // The thread of beta's sockets does not get to run at all.
    (1..=3).for_each(|seq| send(&alpha, &beat(NodeId::A, seq)));
    assert!(seat.arrived().is_empty());
    beta.take_all_in();
    assert_eq!(numbers(seat.arrived()), [1, 2, 3], "the clock would have judged without them");
    assert!(seat.arrived().is_empty(), "each is handed over once");
    assert!(seat.heard().is_some());
}

#[test]
fn a_heap_of_rubbish_does_not_hide_a_heartbeat_nor_take_more_than_its_share() {
    let [alpha, beta] = pair();
    let target = beta.datagrams.local_addr(0).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        stranger.send_to(b"twrubbish", target).unwrap();
    }
    send(&alpha, &beat(NodeId::A, 1));
    assert!(beta.take_in(), "one go looked at everything");
    assert!(beta.seat(VOLUME).unwrap().arrived().is_empty());
    beta.take_all_in();
    assert_eq!(numbers(beta.seat(VOLUME).unwrap().arrived()), [1]);
    assert_eq!(beta.book().refused().forged, 100);
}

#[test]
fn a_late_look_is_no_silence_of_the_peer() {
    let [alpha, beta] = pair();
    // The kernel begins to stamp a moment after the first socket asked for it.
    std::thread::sleep(Duration::from_millis(200));
    // On time every 100 ms, while beta looks at nothing for a second.
    for seq in 1..=10 {
        send(&alpha, &beat(NodeId::A, seq));
        std::thread::sleep(Duration::from_millis(100));
    }
    beta.take_all_in();
    send(&alpha, &beat(NodeId::A, 11));
    beta.take_all_in();
    let book = beta.book();
    let flow = &book.paths[0].flow;
    let (worst, _) = flow.gaps.worst().expect("silences are counted");
    assert_eq!((flow.received, flow.lost, flow.gaps.count()), (11, 0, 10));
    assert!(worst >= Span::from_millis(95), "they count from when they arrived: {worst}");
    assert!(worst < Span::from_millis(700), "the second in which nobody looked counts as silence: {worst}");
    assert!(book.pause.is_some_and(|(pause, _)| pause >= Span::from_millis(700)), "it is this node's own");
}

#[test]
fn whoever_reads_the_book_holds_up_no_heartbeat() {
    let [alpha, beta] = pair();
    let seat = Arc::clone(beta.seat(VOLUME).unwrap());
    let reader = beta.book();
    send(&alpha, &beat(NodeId::A, 1));
    let begun = Instant::now();
    let other = Arc::clone(&beta);
    std::thread::spawn(move || other.take_all_in()).join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(numbers(seat.arrived()), [1]);
    assert_eq!(reader.paths[0].flow.received, 0);
    drop(reader);
    beta.take_all_in();
    assert_eq!(beta.book().paths[0].flow.received, 1, "it was entered later");
}

#[test]
fn repeated_and_strangers_heartbeats_are_counted_and_a_flood_keeps_the_newest() {
    let [alpha, beta] = pair();
    let seat = Arc::clone(beta.seat(VOLUME).unwrap());
    send(&alpha, &beat(NodeId::A, 1));
    send(&alpha, &beat(NodeId::A, 1));
    send(&alpha, &Heartbeat { volume: VolumeId(8), ..beat(NodeId::A, 2) });
    send(&alpha, &beat(NodeId::B, 3));
    beta.take_all_in();
    let refused = beta.book().refused();
    assert_eq!((refused.replayed, refused.foreign, refused.forged), (1, 2, 0));
    assert_eq!(numbers(seat.arrived()), [1, 1], "the machine judges what is repeated by itself");
    for seq in 10..10 + 2 * ARRIVED_MAX as u64 {
        send(&alpha, &beat(NodeId::A, seq));
        beta.take_in();
    }
    let kept = numbers(seat.arrived());
    assert_eq!((kept.len(), kept.last()), (ARRIVED_MAX, Some(&(9 + 2 * ARRIVED_MAX as u64))));
}

#[test]
fn a_probe_is_answered_by_the_thread_of_the_sockets() {
    let [alpha, beta] = pair();
    alpha.book().paths[0].probes.ask(clock::now(), 77);
    alpha.ask(0, 77);
    beta.take_all_in();
    alpha.take_all_in();
    assert_eq!(alpha.book().paths[0].probes.answered, 1);
}

/// Pulses whose only way to each other is a serial line that this test carries bytes over, and the ends in its hand.
fn pair_on_a_line() -> ([Arc<Pulse>; 2], [std::fs::File; 2]) {
    let ends = [pty(), pty()];
    let serial =
        ends.each_ref().map(|(_, device)| format!("\"]\nserial = [\"{}@115200\"]", device.display()));
    let text = CONFIG.replace("0.0.1\"]", &format!("0.0.1{}", serial[0]));
    let config = Config::parse(&text.replace("0.0.2\"]", &format!("0.0.2{}", serial[1]))).unwrap();
    let pulses = [NodeId::A, NodeId::B]
        .map(|me| Pulse::new(&config, &ClusterKey::from_bytes([3; 32]), me, &[], &[VOLUME]).unwrap());
    let ends = ends.map(|(far, _)| far);
    for (pulse, far) in pulses.iter().zip(&ends) {
        // The thread that opens lines has no reason to hurry.
        let begun = Instant::now();
        while take(pulse, far, &beat(NodeId::A, 1)).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", pulse.trouble(0));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    (pulses, ends)
}

/// Has `pulse` say something on its line and takes the bytes.
fn take(pulse: &Pulse, mut far: &std::fs::File, heartbeat: &Heartbeat) -> Vec<u8> {
    send(pulse, heartbeat);
    // Until the line is free again.
    std::thread::sleep(Duration::from_millis(15));
    let mut bytes = vec![0; 4096];
    let len = far.read(&mut bytes).unwrap_or(0);
    bytes.truncate(len);
    bytes
}

/// What a node makes of bytes on the line: numbers for the machine; forged, replayed, foreign so far; when the peer
/// was heard.
fn put(pulse: &Pulse, mut far: &std::fs::File, bytes: &[u8]) -> (Vec<u64>, (u64, u64, u64), Option<Moment>) {
    far.write_all(bytes).unwrap();
    pulse.take_all_in();
    let refused = pulse.book().refused();
    let seat = pulse.seat(VOLUME).unwrap();
    (numbers(seat.arrived()), (refused.forged, refused.replayed, refused.foreign), seat.heard())
}

#[test]
fn forged_replayed_reordered_and_reflected_frames_of_a_line_do_nothing() {
    let ([alpha, beta], [near, far]) = pair_on_a_line();
    let frames: Vec<Vec<u8>> = (10..14).map(|seq| take(&alpha, &near, &beat(NodeId::A, seq))).collect();
    let (arrived, refused, heard) = put(&beta, &far, &frames[0]);
    assert_eq!((arrived, refused), (vec![10], (0, 0, 0)));
    let heard_first = heard.expect("it counts");
    // One is lost, and the line still knows how many.
    let (arrived, refused, heard) = put(&beta, &far, &frames[3]);
    assert_eq!((arrived, refused), (vec![13], (0, 0, 0)));
    let newest = heard.filter(|at| *at > heard_first).expect("it counts");
    assert_eq!(beta.book().paths[0].flow.lost, 2);
    // Replayed: shown to the machine, which has a window of its own, and counted for nothing.
    assert_eq!(put(&beta, &far, &frames[3]), (vec![13], (0, 1, 0), Some(newest)));
    // Flipped on the way: noise.
    let mut hurt = frames[1].clone();
    hurt[40] ^= 0x40;
    let (arrived, refused, heard) = put(&beta, &far, &hurt);
    assert_eq!((arrived, refused.0, refused.1, heard), (Vec::new(), 0, 1, Some(newest)));
    // Forged, in a frame without fault.
    let (there, device) = pty();
    let forge = |datagram: &[u8]| {
        let line = SerialLine { device: device.clone(), baud: 115_200 };
        let told = std::thread::spawn({
            let datagram = datagram.to_vec();
            move || crate::link::say_over(&line, &datagram)
        });
        let (mut bytes, mut len) = (vec![0; 4096], 0);
        while len == 0 {
            len = (&there).read(&mut bytes).unwrap_or(0);
        }
        told.join().unwrap().unwrap();
        bytes.truncate(len);
        bytes
    };
    let mut forged = encode_heartbeat(&beat(NodeId::A, 99), &alpha.keys.mine);
    let authentic = put(&beta, &far, &forge(&encode_heartbeat(&beat(NodeId::A, 14), &alpha.keys.mine)));
    assert_eq!(authentic.0, [14], "what follows is refused for what it is");
    let newest = authentic.2.filter(|at| *at > newest).expect("it counts");
    forged[30] ^= 1;
    let foreign = beta.book().refused().foreign;
    assert_eq!(put(&beta, &far, &forge(&forged)), (Vec::new(), (1, 1, foreign), Some(newest)));
    // Reflected: its own word comes back to alpha.
    assert_eq!(put(&alpha, &near, &frames[2]), (Vec::new(), (1, 0, 0), None));
    // Overtaken: it fills a gap and makes nothing look newer.
    let (arrived, refused, heard) = put(&beta, &far, &frames[2]);
    assert_eq!((arrived, refused.1), (vec![12], 1));
    assert!(heard >= Some(newest));
    assert_eq!(beta.book().any.received, 4);
}

#[test]
fn a_probe_is_answered_over_a_line() {
    let ([alpha, beta], [mut near, mut far]) = pair_on_a_line();
    let carry = |from: &mut std::fs::File, to: &mut std::fs::File| {
        let mut bytes = [0; 512];
        let len = from.read(&mut bytes).expect("something was said");
        to.write_all(&bytes[..len]).unwrap();
    };
    alpha.book().paths[0].probes.ask(clock::now(), 77);
    alpha.ask(0, 77);
    alpha.datagrams.turn(Duration::ZERO);
    carry(&mut near, &mut far);
    beta.take_all_in();
    beta.datagrams.turn(Duration::ZERO);
    carry(&mut far, &mut near);
    alpha.take_all_in();
    assert_eq!(alpha.book().paths[0].probes.answered, 1);
}
