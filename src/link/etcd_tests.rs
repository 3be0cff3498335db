//! What counts as an answer, shown with servers that answer one fixed text.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

/// Answers each connection with the next text; the address, and what was asked.
fn server(answers: Vec<String>) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            let mut buffer = [0; 4096];
            // Until the body is whole: it is one JSON object.
            while !whole(&question) {
                let count = stream.read(&mut buffer).unwrap();
                question.extend_from_slice(&buffer[..count]);
                if count == 0 {
                    break;
                }
            }
            let _ = asked.send(String::from_utf8_lossy(&question).into_owned());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, heard)
}

fn whole(question: &[u8]) -> bool {
    let text = String::from_utf8_lossy(question);
    text.split_once("\r\n\r\n").is_some_and(|(_, body)| serde_json::from_str::<Value>(body).is_ok())
}

fn http(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Word\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn etcd(urls: &[String]) -> Etcd {
    let timeout = Duration::from_millis(500);
    Etcd::new(&EtcdAccess { urls: urls.to_vec(), ca: None, cert: None, key: None, timeout }).unwrap()
}

const HEADER: &str =
    r#""header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"7","raft_term":"2"}"#;

#[test]
fn a_value_its_absence_and_a_swap_are_understood() {
    let value = STANDARD.encode(b"bytes");
    let there =
        format!(r#"{{{HEADER},"kvs":[{{"key":"aw==","mod_revision":"5","value":"{value}"}}],"count":"1"}}"#);
    let answers = [
        there,
        format!("{{{HEADER}}}"),
        format!(r#"{{{HEADER},"succeeded":true,"responses":[{{}}]}}"#),
        format!("{{{HEADER}}}"),
    ];
    let (url, asked) = server(answers.iter().map(|body| http(200, body)).collect());
    let etcd = etcd(&[url]);
    let found = etcd.read("k").unwrap();
    assert_eq!(found.value.as_deref(), Some(b"bytes".as_slice()));
    assert_eq!((found.changed_at, found.cluster, found.revision), (5, 14_841_639_068_965_178_418, 7));
    let absent = etcd.read("k").unwrap();
    assert_eq!((absent.value, absent.changed_at), (None, 0));
    assert!(etcd.swap("k", 5, b"new").unwrap());
    assert!(!etcd.swap("k", 5, b"new").unwrap());
    let questions: Vec<String> = asked.try_iter().collect();
    assert!(questions[0].starts_with("POST /v3/kv/range ") && !questions[0].contains("serializable"));
    assert!(questions[2].starts_with("POST /v3/kv/txn ") && questions[2].contains(r#""modRevision":"5""#));
}

#[test]
fn what_is_no_answer_of_etcd_is_never_an_absent_value() {
    let bodies = [
        "{}".to_string(),
        "[]".to_string(),
        "no json".to_string(),
        r#"{"header":{}}"#.to_string(),
        r#"{"header":{"cluster_id":"x","revision":"1"}}"#.to_string(),
        format!(r#"{{{HEADER},"kvs":[],"count":"1"}}"#),
        format!(r#"{{{HEADER},"kvs":{{}}}}"#),
        format!(r#"{{{HEADER},"count":"1"}}"#),
        format!(r#"{{{HEADER},"kvs":[{{"value":"aw=="}}]}}"#),
        format!(r#"{{{HEADER},"kvs":[{{"value":"!","mod_revision":"5"}}]}}"#),
        format!(r#"{{{HEADER},"kvs":[{{"mod_revision":"0"}}]}}"#),
        format!(r#"{{{HEADER},"kvs":[{{"mod_revision":"5"}},{{"mod_revision":"6"}}]}}"#),
    ];
    let (url, _asked) = server(bodies.iter().map(|body| http(200, body)).collect());
    let etcd = etcd(&[url]);
    for body in &bodies {
        let error = etcd.read("k").unwrap_err();
        assert!(matches!(error, EtcdError::Strange { .. }), "{body}: {error}");
    }
    let long = format!(r#"{{{HEADER},"x":"{}"}}"#, "x".repeat(100_000));
    let (url, _asked) = server(vec![http(200, &long)]);
    assert!(matches!(self::etcd(&[url]).read("k"), Err(EtcdError::Silent(_))));
}

#[test]
fn a_dead_member_is_passed_over_and_a_refusal_is_told() {
    let good = http(200, &format!("{{{HEADER}}}"));
    let (leaderless, _asked) = server(vec![http(503, r#"{"error":"etcdserver: no leader","code":14}"#)]);
    let (works, _asked_too) = server(vec![good.clone(), good]);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", dead.local_addr().unwrap());
    let urls = [nobody.clone(), leaderless, works];
    let etcd = etcd(&urls);
    assert_eq!(etcd.read("k").unwrap().value, None);
    // The next question goes to the member that answered.
    let began = std::time::Instant::now();
    assert_eq!(etcd.read("k").unwrap().value, None);
    assert!(began.elapsed() < Duration::from_millis(400));
    let refusal = http(401, r#"{"error":"etcdserver: user name is empty","code":3}"#);
    let (url, _asked) = server(vec![refusal]);
    let text = self::etcd(&[url]).read("k").unwrap_err().to_string();
    assert!(text.contains("user name is empty") && text.contains("401"), "{text}");
    let text = self::etcd(std::slice::from_ref(&nobody)).read("k").unwrap_err().to_string();
    assert!(text.starts_with("etcd does not answer") && text.contains(&nobody), "{text}");
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let missing = EtcdAccess {
        urls: vec!["https://127.0.0.1:1".into()],
        ca: Some("/nonexistent/ca.pem".into()),
        cert: None,
        key: None,
        timeout: Duration::from_secs(1),
    };
    let text = Etcd::new(&missing).err().unwrap().to_string();
    assert!(text.contains("/nonexistent/ca.pem"), "{text}");
    let empty = std::env::temp_dir().join(format!("twinfs-no-ca-{}", std::process::id()));
    std::fs::write(&empty, "nothing").unwrap();
    let text = Etcd::new(&EtcdAccess { ca: Some(empty.clone()), ..missing }).err().unwrap().to_string();
    assert!(text.contains("no PEM certificate"), "{text}");
    std::fs::remove_file(empty).unwrap();
}
