//! Tests of the links over loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::noise::{Progress, Session, Suite, TAG_BYTES, handshake};
use super::*;

fn identity(node: NodeId) -> Identity {
    let (key_out, key_in) = match node {
        NodeId::A => ([1; 32], [2; 32]),
        NodeId::B => ([2; 32], [1; 32]),
    };
    Identity { cluster_id: 77, node, key_out, key_in, encrypt: true, silence_max: Duration::from_secs(5) }
}

fn opening(volume: &str) -> Opening {
    Opening { config_hash: [9; 32], channel: 3, volume: volume.to_string() }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A listening node B that knows the volume "mail" and hands out what it accepts.
fn listener() -> (Listener, Receiver<(Opening, Connection)>) {
    listener_of(identity(NodeId::B))
}

fn listener_of(who: Identity) -> (Listener, Receiver<(Opening, Connection)>) {
    let (send, receive) = channel();
    let send = Mutex::new(send);
    let listener = Listener::bind(
        &[any_port()],
        vec!["127.0.0.2".parse::<IpAddr>().unwrap()],
        who,
        Box::new(|opening| match opening.volume.as_str() {
            "mail" => Ok(()),
            other => Err(format!("there is no volume \"{other}\" here")),
        }),
        Box::new(move |opening, connection| {
            let _ = send.lock().unwrap().send((opening, connection));
        }),
    );
    (listener.unwrap(), receive)
}

fn path(remote: SocketAddr) -> Path {
    Path { local: None, remote }
}

fn dial(who: Identity, remote: SocketAddr, volume: &str) -> Result<Connection, LinkError> {
    let paths = Paths::new(who, &[path(remote)], Duration::from_secs(3));
    paths.connect(&opening(volume)).map(|(_, connection)| connection)
}

fn pair() -> (Connection, Connection, Listener) {
    pair_with(true)
}

fn pair_with(encrypt: bool) -> (Connection, Connection, Listener) {
    let who = |node| Identity { encrypt, ..identity(node) };
    let (listener, accepted) = listener_of(who(NodeId::B));
    let near = dial(who(NodeId::A), listener.addresses()[0], "mail").unwrap();
    let (_, far) = accepted.recv_timeout(Duration::from_secs(5)).unwrap();
    (near, far, listener)
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn frames_of_every_length_arrive_whole_and_in_order_both_ways() {
    [true, false].into_iter().for_each(frames_of_every_length);
}

fn frames_of_every_length(encrypt: bool) {
    let (near, far, _listener) = pair_with(encrypt);
    let lengths = [0, 1, 65_514, 65_515, 65_516, 65_519, 131_038, 300_000, FRAME_BYTES_MAX];
    let sender = std::thread::spawn(move || {
        for len in lengths {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let (head, tail) = bytes.split_at(len / 3);
            near.send(&[head, tail]).unwrap();
        }
        near
    });
    let mut frame = Vec::new();
    for len in lengths {
        far.recv(&mut frame).unwrap();
        assert_eq!(frame.len(), len);
        assert!(frame.iter().enumerate().all(|(i, byte)| *byte == u8::try_from(i % 251).unwrap()));
    }
    let near = sender.join().unwrap();
    far.send(&[b"back"]).unwrap();
    near.recv(&mut frame).unwrap();
    assert_eq!(frame, b"back");
}

#[test]
fn frames_of_many_threads_do_not_mix() {
    let (near, far, _listener) = pair();
    let near = Arc::new(near);
    let threads: Vec<_> = (1..=4u8)
        .map(|id| {
            let near = Arc::clone(&near);
            std::thread::spawn(move || (0..50).for_each(|n| near.send(&[&vec![id; 1000 * n + 1]]).unwrap()))
        })
        .collect();
    let mut frame = Vec::new();
    for _ in 0..200 {
        far.recv(&mut frame).unwrap();
        assert!(frame.iter().all(|byte| *byte == frame[0]));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_opening_names_the_volume_and_an_unknown_one_is_refused_with_a_reason() {
    let (listener, accepted) = listener();
    let address = listener.addresses()[0];
    let error = dial(identity(NodeId::A), address, "news").err().unwrap().to_string();
    assert_eq!(error, "the peer refused: there is no volume \"news\" here");
    let _near = dial(identity(NodeId::A), address, "mail").unwrap();
    assert_eq!(accepted.recv_timeout(Duration::from_secs(5)).unwrap().0, opening("mail"));
    assert!(accepted.try_recv().is_err(), "the refused one was delivered");
}

#[test]
fn each_wrong_partner_is_told_apart() {
    let (listener, accepted) = listener();
    let address = listener.addresses()[0];
    let wrong_key = Identity { key_out: [8; 32], ..identity(NodeId::A) };
    assert!(matches!(dial(wrong_key, address, "mail"), Err(LinkError::Key)));
    let reflected = Identity { key_out: [2; 32], ..identity(NodeId::A) };
    assert!(matches!(dial(reflected, address, "mail"), Err(LinkError::Key)));
    let other_cluster = Identity { cluster_id: 78, ..identity(NodeId::A) };
    assert!(matches!(dial(other_cluster, address, "mail"), Err(LinkError::Cluster)));
    assert!(matches!(dial(identity(NodeId::B), address, "mail"), Err(LinkError::SameNode)));
    let nobody = "127.0.0.1:1".parse().unwrap();
    assert!(matches!(dial(identity(NodeId::A), nobody, "mail"), Err(LinkError::Unreachable { .. })));
    assert!(accepted.try_recv().is_err());
    wait_for("all four are counted", || listener.refused_count() == 4);
}

#[test]
fn another_version_and_another_program_are_named() {
    let answer = |bytes: Vec<u8>| {
        let fake = TcpListener::bind(any_port()).unwrap();
        let address = fake.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = fake.accept().unwrap();
            let mut hello = [0u8; 32];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let error = dial(identity(NodeId::A), address, "mail").err().unwrap().to_string();
        thread.join().unwrap();
        error
    };
    let mut newer = b"twinfs\r\n".to_vec();
    newer.extend_from_slice(&[9, 0]);
    newer.resize(32, 0);
    assert_eq!(answer(newer), "the peer speaks protocol version 9, this program 1: upgrade the older one");
    let http = b"HTTP/1.1 400 Bad Request\r\n\r\n          ".to_vec();
    assert_eq!(answer(http), "what answers there does not speak the twinfs protocol");
}

/// A man in the middle: forwards both ways, after `change` had a look at each chunk from the dialling side.
fn relay(target: SocketAddr, change: impl Fn(usize, &mut Vec<u8>) + Send + 'static) -> SocketAddr {
    let door = TcpListener::bind(any_port()).unwrap();
    let address = door.local_addr().unwrap();
    std::thread::spawn(move || {
        let (near, _) = door.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let (mut near_read, mut far_write) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut &far, &mut &near);
            let _ = near.shutdown(std::net::Shutdown::Both);
        });
        let (mut seen, mut buffer) = (0, vec![0u8; 65_536]);
        while let Ok(count @ 1..) = near_read.read(&mut buffer) {
            let mut chunk = buffer[..count].to_vec();
            change(seen, &mut chunk);
            seen += count;
            if far_write.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = far_write.shutdown(std::net::Shutdown::Both);
    });
    address
}

/// Bytes that the dialling side sends up to and including its opening frame: hello, 2 + 48 of Noise, then
/// 2 + 4 + (32 + 2 + 4) + 16.
const OPENING_END: usize = 32 + 50 + 60;

#[test]
fn a_flipped_bit_anywhere_ends_the_stream_and_delivers_nothing() {
    for place in (0..OPENING_END + 40).step_by(7).chain([OPENING_END + 1, OPENING_END + 30]) {
        let (listener, accepted) = listener();
        let through = relay(listener.addresses()[0], move |seen, chunk| {
            if let Some(at) = place.checked_sub(seen).filter(|at| *at < chunk.len()) {
                chunk[at] ^= 0x10;
            }
        });
        match dial(identity(NodeId::A), through, "mail") {
            Err(_) => assert!(place < OPENING_END, "byte {place} should have passed"),
            Ok(near) => {
                assert!(place >= OPENING_END, "byte {place} was changed and nobody noticed");
                let (_, far) = accepted.recv_timeout(Duration::from_secs(5)).unwrap();
                let _ = near.send(&[b"forty bytes of data, some of it changed."]);
                // A longer length makes the receiver wait for bytes that never come.
                near.close();
                let mut frame = vec![1];
                let error = far.recv(&mut frame).unwrap_err();
                assert!(matches!(error, LinkError::Forged | LinkError::Closed), "{place}: {error}");
                assert!(frame.is_empty() && far.is_closed());
            }
        }
    }
}

#[test]
fn a_recorded_session_played_again_delivers_nothing() {
    let (listener, accepted) = listener();
    let record = Arc::new(Mutex::new(Vec::new()));
    let tape = Arc::clone(&record);
    let through =
        relay(listener.addresses()[0], move |_, chunk| tape.lock().unwrap().extend_from_slice(chunk));
    let near = dial(identity(NodeId::A), through, "mail").unwrap();
    let (_, far) = accepted.recv_timeout(Duration::from_secs(5)).unwrap();
    near.send(&[b"pay once"]).unwrap();
    let mut frame = Vec::new();
    far.recv(&mut frame).unwrap();
    let recorded = record.lock().unwrap().clone();
    assert!(recorded.len() > OPENING_END);
    let mut again = TcpStream::connect(listener.addresses()[0]).unwrap();
    again.write_all(&recorded).unwrap();
    wait_for("the replay is refused", || listener.refused_count() == 1);
    assert!(accepted.try_recv().is_err());
}

#[test]
fn garbage_and_oversized_handshakes_cost_one_session_each() {
    let (listener, accepted) = listener();
    let address = listener.addresses()[0];
    let mut seed = 0x9e37_79b9_u32;
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_le_bytes()[3]
            })
            .collect();
        if round % 2 == 0 {
            // A good hello, then a handshake message that claims 65,535 bytes, or garbage.
            let hello = [b"twinfs\r\n".as_slice(), &[1, 0, 1, 0, 0, 0, 0, 0], &77u128.to_le_bytes()].concat();
            bytes.splice(..32, hello);
            if round % 4 == 0 {
                bytes[32..34].copy_from_slice(&[0xff, 0xff]);
            }
        }
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&bytes);
        // Wait for the end, so that slots never run out: this test is about content.
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    wait_for("all are refused", || listener.refused_count() == 60);
    assert!(accepted.try_recv().is_err());
    dial(identity(NodeId::A), address, "mail").unwrap();
}

#[test]
fn slow_strangers_run_out_of_slots_and_of_time_while_the_peer_gets_in() {
    let (listener, accepted) = listener();
    let address = listener.addresses()[0];
    let idle: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_for("those without a slot are dropped", || listener.refused_count() == 30 - 4);
    // The peer comes from its own address, which has slots of its own.
    let local = Some("127.0.0.2:0".parse().unwrap());
    let paths = Paths::new(identity(NodeId::A), &[Path { local, remote: address }], Duration::from_secs(3));
    let (_, _near) = paths.connect(&opening("mail")).unwrap();
    accepted.recv_timeout(Duration::from_secs(5)).unwrap();
    // One that drips a byte at a time does not get more time than one that sends nothing.
    let mut dripping = &idle[0];
    let begun = Instant::now();
    while listener.refused_count() < 30 && begun.elapsed() < Duration::from_secs(8) {
        let _ = dripping.write_all(b"t");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(listener.refused_count(), 30, "a slot was held for longer than the limit");
}

#[test]
fn close_wakes_a_waiting_receiver_and_every_later_call_fails() {
    let (near, far, _listener) = pair();
    let near = Arc::new(near);
    let waiting = Arc::clone(&near);
    let thread = std::thread::spawn(move || waiting.recv(&mut Vec::new()));
    std::thread::sleep(Duration::from_millis(50));
    near.close();
    assert!(matches!(thread.join().unwrap(), Err(LinkError::Closed)));
    assert!(matches!(near.send(&[b"x"]), Err(LinkError::Closed)));
    assert!(matches!(far.recv(&mut Vec::new()), Err(LinkError::Closed)));
    assert!(matches!(far.recv(&mut Vec::new()), Err(LinkError::Closed)));
}

#[test]
fn a_frame_too_long_is_refused_before_it_is_sent_and_the_stream_goes_on() {
    let (near, far, _listener) = pair();
    let error = near.send(&[&vec![0; FRAME_BYTES_MAX], &[1]]).unwrap_err();
    assert!(matches!(error, LinkError::TooLong { len } if len == FRAME_BYTES_MAX + 1));
    near.send(&[b"fine"]).unwrap();
    let mut frame = Vec::new();
    far.recv(&mut frame).unwrap();
    assert_eq!(frame, b"fine");
}

#[test]
fn an_authentic_frame_that_claims_too_much_is_refused_before_memory_is_taken() {
    let (near, far, _listener) = pair();
    near.send_raw_for_tests(&[0xff, 0xff, 0xff, 0x7f, 1, 2, 3]);
    let mut frame = Vec::new();
    assert!(matches!(far.recv(&mut frame), Err(LinkError::TooLong { .. })));
    assert!(frame.capacity() < 1 << 20);
}

#[test]
fn a_dead_path_is_left_for_the_next_one_and_rests() {
    let (listener, _accepted) = listener();
    let dead = path("127.0.0.1:1".parse().unwrap());
    let good = path(listener.addresses()[0]);
    let paths = Paths::new(identity(NodeId::A), &[dead, good], Duration::from_secs(3));
    assert_eq!(paths.connect(&opening("mail")).unwrap().0, 1);
    let begun = Instant::now();
    assert_eq!(paths.connect(&opening("mail")).unwrap().0, 1);
    assert!(begun.elapsed() < Duration::from_secs(1));
    // The heartbeat prefers what it hears.
    let both = Paths::new(identity(NodeId::A), &[good, good], Duration::from_secs(3));
    assert_eq!(both.connect(&opening("mail")).unwrap().0, 0);
    both.set_alive(0, false);
    assert_eq!(both.connect(&opening("mail")).unwrap().0, 1);
    // A refusal by the peer is a better reason than an unreachable address.
    assert!(matches!(paths.connect(&opening("none")), Err(LinkError::Refused(_))));
}

#[test]
fn both_ciphers_change_their_key_after_the_agreed_bytes() {
    for suite in [Suite::Aes, Suite::ChaCha] {
        let mut near = handshake(suite, true, &[5; 32], b"p").unwrap();
        let mut far = handshake(suite, false, &[5; 32], b"p").unwrap();
        let (mut message, mut out) = ([0u8; 256], [0u8; 256]);
        let len = near.write_message(&[], &mut message).unwrap();
        far.read_message(&message[..len], &mut out).unwrap();
        let len = far.write_message(&[], &mut message).unwrap();
        near.read_message(&message[..len], &mut out).unwrap();
        let (near, far) = (Session::new(near).unwrap(), Session::new(far).unwrap());
        let before = Session::bytes_to_rekey() - 1;
        let (mut sent, mut received) = (Progress::at(before), Progress::at(before));
        for round in 0..3u8 {
            let mut sealed = Vec::new();
            near.seal(&mut sent, &[round; 10], &mut sealed).unwrap();
            let mut plain = [0u8; 64];
            assert_eq!(far.open(&mut received, &sealed, &mut plain).unwrap(), 10);
            assert_eq!(plain[..10], [round; 10]);
        }
        // A receiver that did not change its key at the same place cannot read on.
        let mut sealed = Vec::new();
        let mut behind = Progress::at(before);
        near.seal(&mut behind, b"x", &mut sealed).unwrap();
        assert!(far.open(&mut Progress::at(0), &sealed, &mut [0u8; 64]).is_ok(), "same key, same nonce");
        let mut sealed = Vec::new();
        near.seal(&mut behind, b"y", &mut sealed).unwrap();
        let mut stale = Progress::at(0);
        stale.skip();
        assert!(matches!(far.open(&mut stale, &sealed, &mut [0u8; 64]), Err(LinkError::Forged)));
    }
}

#[test]
fn openings_survive_their_encoding_and_mutations_never_panic() {
    let good = opening("mail").encode().unwrap();
    assert_eq!(Opening::decode(&good), Some(opening("mail")));
    for cut in 0..good.len() {
        assert_eq!(Opening::decode(&good[..cut]), None);
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert_ne!(Opening::decode(&bytes), Some(opening("mail")));
        }
    }
}

/// Two ends of two paths.
fn two_ends() -> (Datagrams, Datagrams) {
    let ports: Vec<SocketAddr> =
        (0..4).map(|_| std::net::UdpSocket::bind(any_port()).unwrap().local_addr().unwrap()).collect();
    let way = |from: usize, to: usize| Path { local: Some(ports[from]), remote: ports[to] };
    // The first datagrams after a bind may meet an unbound peer; here both are bound.
    let near = Datagrams::bind(&[way(0, 2), way(1, 3)], &[]).unwrap();
    (near, Datagrams::bind(&[way(2, 0), way(3, 1)], &[]).unwrap())
}

/// All that waits at `end`, by path.
fn arrived(end: &Datagrams) -> Vec<(usize, Vec<u8>)> {
    let mut buffer = [0u8; datagrams::DATAGRAM_BYTES_MAX];
    let mut all = Vec::new();
    for path in 0..end.count() {
        while let Some(Received { len, .. }) = end.recv(path, &mut buffer) {
            all.push((path, buffer[..len].to_vec()));
        }
    }
    all
}

#[test]
fn datagrams_go_over_every_path_and_tell_which() {
    let (near, far) = two_ends();
    near.post(Sender::Volume(1), b"beat".to_vec());
    near.turn(Duration::from_secs(20));
    far.turn(Duration::from_secs(20));
    assert_eq!(arrived(&far), [(0, b"beat".to_vec()), (1, b"beat".to_vec())]);
    near.send(1, Sender::Question, b"probe");
    assert_eq!(arrived(&far), [(1, b"probe".to_vec())]);
}

#[test]
fn a_sender_that_was_held_up_sends_the_newest_only_and_each_volume_its_own() {
    let (near, far) = two_ends();
    for (sender, text) in [(1, "one"), (2, "other"), (1, "two"), (1, "three")] {
        near.post(Sender::Volume(sender), text.as_bytes().to_vec());
    }
    near.turn(Duration::from_secs(20));
    let got: Vec<Vec<u8>> =
        arrived(&far).into_iter().filter(|(path, _)| *path == 0).map(|(_, b)| b).collect();
    assert_eq!(got, [b"three".to_vec(), b"other".to_vec()]);
}

#[test]
fn a_machine_that_decides_nothing_more_is_silent_however_often_its_sender_runs() {
    let (near, far) = two_ends();
    near.post(Sender::Volume(1), b"last word".to_vec());
    for _ in 0..200 {
        near.turn(Duration::from_millis(1));
    }
    assert_eq!(arrived(&far).len(), 2, "it left once on each path, and never again");
    for _ in 0..200 {
        near.wake();
        near.turn(Duration::from_millis(1));
    }
    assert_eq!(arrived(&far), [], "a stuck machine looks alive");
}

#[test]
fn an_address_that_is_not_ours_is_refused_with_a_question() {
    let foreign: SocketAddr = "192.0.2.77:8790".parse().unwrap();
    let bound =
        Listener::bind(&[foreign], vec![], identity(NodeId::A), Box::new(|_| Ok(())), Box::new(|_, _| {}));
    let text = bound.err().unwrap().to_string();
    assert!(
        text.starts_with("cannot listen on 192.0.2.77:8790:") && text.contains("address of this machine"),
        "{text}"
    );
}

#[test]
fn a_node_that_encrypts_and_one_that_does_not_say_so_and_exchange_nothing() {
    for encrypt in [true, false] {
        let who = |node, encrypt| Identity { encrypt, ..identity(node) };
        let (listener, accepted) = listener_of(who(NodeId::B, encrypt));
        let error =
            dial(who(NodeId::A, !encrypt), listener.addresses()[0], "mail").err().unwrap().to_string();
        assert!(error.contains("one node encrypts and the other does not"), "{error}");
        assert!(accepted.try_recv().is_err(), "a stream was delivered");
    }
}

/// Both ends of a session without encryption, with these halves.
fn clear_session(dialler: &[u8; 32], listener: &[u8; 32]) -> (Session, Session) {
    let mut near = handshake(Suite::Clear, true, &[5; 32], b"p").unwrap();
    let mut far = handshake(Suite::Clear, false, &[5; 32], b"p").unwrap();
    let (mut message, mut out) = ([0u8; 256], [0u8; 256]);
    let len = near.write_message(dialler, &mut message).unwrap();
    assert!(!message[..len].windows(32).any(|part| part == dialler), "the half can be read");
    far.read_message(&message[..len], &mut out).unwrap();
    let len = far.write_message(listener, &mut message).unwrap();
    assert!(!message[..len].windows(32).any(|part| part == listener), "the half can be read");
    near.read_message(&message[..len], &mut out).unwrap();
    (Session::clear(&near, true, dialler, listener), Session::clear(&far, false, dialler, listener))
}

#[test]
fn without_encryption_nothing_can_be_forged_changed_replayed_reordered_reflected_or_cut() {
    let (near, far) = clear_session(&[1; 32], &[2; 32]);
    let mut sent = Progress::default();
    let sealed: Vec<Vec<u8>> = [b"one".as_slice(), b"two", &[7; 50_000]]
        .into_iter()
        .map(|plain| {
            let mut out = Vec::new();
            near.seal(&mut sent, plain, &mut out).unwrap();
            assert_eq!(out[..plain.len()], *plain, "it is plain text");
            out
        })
        .collect();
    let mut out = vec![0u8; 65_535];
    let refused = |session: &Session, progress: &mut Progress, bytes: &[u8]| {
        let mut out = vec![0u8; 65_535];
        matches!(session.open(progress, bytes, &mut out), Err(LinkError::Forged))
    };
    for at in [0, 2, 3, sealed[0].len() - 1] {
        let mut changed = sealed[0].clone();
        changed[at] ^= 1;
        assert!(refused(&far, &mut Progress::default(), &changed), "byte {at}");
    }
    assert!(refused(&far, &mut Progress::default(), &sealed[1]), "out of order");
    assert!(refused(&far, &mut Progress::default(), &sealed[2][..40_000]), "cut");
    assert!(refused(&far, &mut Progress::default(), &sealed[0][..TAG_BYTES - 1]), "less than a tag");
    assert!(refused(&near, &mut Progress::default(), &sealed[0]), "reflected to who sent it");
    let mut received = Progress::default();
    for (bytes, plain) in sealed.iter().zip([b"one".as_slice(), b"two", &[7; 50_000]]) {
        let len = far.open(&mut received, bytes, &mut out).unwrap();
        assert_eq!(out[..len], *plain);
        assert!(refused(&far, &mut received, bytes), "replayed");
    }
    // A recorded first message and what followed it: the listening side's half is another one.
    let (_, later) = clear_session(&[1; 32], &[3; 32]);
    assert!(refused(&later, &mut Progress::default(), &sealed[0]), "replayed into another session");
    // The same halves, another handshake.
    let (_, later) = clear_session(&[1; 32], &[2; 32]);
    assert!(refused(&later, &mut Progress::default(), &sealed[0]), "the handshake is part of the keys");
}
