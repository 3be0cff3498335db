//! A pair whose witness is an etcd cluster, with certificates: who goes on, and what silence, loss of memory and foreign
//! hands cost.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::Duration;

use harness::node::Running;
use harness::pair::{MOUNT, Pair, Plan};
use harness::{need, wait_for};
use nix::sys::signal::Signal;

const PROGRAMS: &[need::Program] =
    &[("etcd", "etcd-server"), ("openssl", "openssl"), ("/usr/bin/python3", "python3")];
/// Of gamma.
const ADDRESS: &str = "192.0.2.13";
const DIR: &str = "/etc/etcd-test";

/// Makes an authority, and certificates for the server and for a node.
const CERTIFICATES: &str = r#"set -e
mkdir -p DIR && cd DIR
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
  -keyout ca.key -out ca.pem
for who in server node; do
  printf 'subjectAltName=IP:ADDRESS\nextendedKeyUsage=serverAuth,clientAuth\n' > $who.ext
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
  openssl x509 -req -days 2 -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile $who.ext -out $who.pem
done
"#;

struct Rig {
    pair: Pair,
    etcd: Option<Running>,
}

impl Rig {
    fn start(test: &str) -> Rig {
        let plan = Plan {
            arbitration: "etcd",
            cluster: format!(
                "etcd = [\"https://{ADDRESS}:2379\"]\netcd_ca = \"{DIR}/ca.pem\"\n\
                 etcd_cert = \"{DIR}/node.pem\"\netcd_key = \"{DIR}/node.key\"\n"
            ),
            ..Plan::default()
        };
        let pair = Pair::prepare(test, &plan);
        let script = CERTIFICATES.replace("DIR", DIR).replace("ADDRESS", ADDRESS);
        pair.node("gamma").sh(&script).ok();
        for name in ["alpha", "beta"] {
            let through = pair.world.dir.join("certificates").display().to_string();
            pair.node("gamma").sh(&format!("rm -rf {through} && cp -r {DIR} {through}")).ok();
            pair.node(name).sh(&format!("cp -r {through} {DIR} && rm {DIR}/ca.key {DIR}/server.*")).ok();
        }
        let mut rig = Rig { pair, etcd: None };
        rig.start_etcd();
        for name in ["alpha", "beta"] {
            rig.pair.start_daemon(name);
        }
        rig.pair.wait_in_sync("alpha");
        rig.wait_known();
        rig
    }

    fn start_etcd(&mut self) {
        let (client, peer) = (format!("https://{ADDRESS}:2379"), "http://127.0.0.1:2380");
        let file = |name: &str| format!("{DIR}/{name}");
        let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
        let words = [
            "etcd",
            "--name",
            "one",
            "--data-dir",
            "/var/lib/etcd-test",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            &format!("one={peer}"),
            "--cert-file",
            &cert,
            "--key-file",
            &key,
            "--trusted-ca-file",
            &ca,
            "--client-cert-auth",
        ];
        self.etcd = Some(self.pair.node("gamma").spawn("etcd.log", &words));
    }

    fn stop_etcd(&mut self) {
        self.pair.node("gamma").signal("etcd", Signal::SIGKILL);
        self.etcd = None;
    }

    /// What the status of a node says about its witness.
    fn problem(&self, node: &str) -> Option<String> {
        let ran = self.pair.node(node).run(&["twinfs", "--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap_or("")).ok()?;
        status["witness"]["problem"].as_str().map(str::to_string)
    }

    #[track_caller]
    fn wait_problem(&self, node: &str, part: &str) {
        let told = || self.problem(node).is_some_and(|text| text.contains(part));
        assert!(wait_for(Duration::from_secs(40), told), "{node}: {:?}, not {part}", self.problem(node));
    }

    /// Until both nodes made the volume known.
    #[track_caller]
    fn wait_known(&self) {
        let known = || {
            ["alpha", "beta"].iter().all(|node| {
                let volume = self.pair.volume(node);
                self.problem(node).is_none() && volume["witness_unknown"] != true && volume.is_object()
            }) && !self.keys().is_empty()
        };
        assert!(wait_for(Duration::from_secs(40), known), "{:#}", self.pair.volume("alpha"));
    }

    /// Asks etcd's gateway as anybody with a certificate may.
    fn post(&self, path: &str, body: &str) -> String {
        let program = format!(
            "import ssl, urllib.request as r; c = ssl.create_default_context(cafile='{DIR}/ca.pem'); \
             c.load_cert_chain('{DIR}/node.pem', '{DIR}/node.key'); \
             print(r.urlopen(r.Request('https://{ADDRESS}:2379{path}', data=b'''{body}'''), context=c).read().decode())"
        );
        self.pair.node("gamma").run(&["/usr/bin/python3", "-c", &program]).out
    }

    /// The keys below twinfs/, as etcd shows them.
    fn keys(&self) -> Vec<String> {
        // "twinfs/" up to "twinfs0".
        let found = self.post("/v3/kv/range", r#"{"key":"dHdpbmZzLw==","range_end":"dHdpbmZzMA=="}"#);
        let found: serde_json::Value = serde_json::from_str(found.trim()).unwrap_or_default();
        let all = found["kvs"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|one| one["key"].as_str().map(str::to_string)).collect()
    }

    fn write(&self, node: &str, name: &str) {
        self.pair.node(node).sh(&format!("echo {name} > {MOUNT}/{name} && sync {MOUNT}/{name}")).ok();
    }
}

#[test]
fn of_two_nodes_that_ask_etcd_one_goes_on() {
    let name = "of_two_nodes_that_ask_etcd_one_goes_on";
    if !need::have_nodes(name, PROGRAMS) {
        return;
    }
    let mut rig = Rig::start("etcd-one");
    rig.write("alpha", "before");
    // The link is cut: one of them, and never both.
    rig.pair.world.part("alpha", "beta");
    let mut winner = None;
    let alone = |rig: &Rig, node: &str| {
        let volume = rig.pair.volume(node);
        volume["state"] == "alone" && volume["serving"] == true && volume["mounted"] == true
    };
    assert!(
        wait_for(Duration::from_secs(30), || {
            winner = ["alpha", "beta"].into_iter().find(|node| alone(&rig, node));
            winner.is_some()
        }),
        "nobody goes on: {:#}",
        rig.pair.volume("alpha")
    );
    let winner = winner.unwrap_or("alpha");
    let other = if winner == "alpha" { "beta" } else { "alpha" };
    rig.write(winner, "cut");
    std::thread::sleep(Duration::from_secs(8));
    assert_ne!(rig.pair.volume(other)["serving"], true, "both serve");
    rig.pair.world.heal();
    rig.pair.wait_in_sync(winner);
    // The machine of the primary dies.
    rig.pair.node(winner).kill_all();
    rig.pair.wait_serving(other);
    let seen = rig.pair.node(other).sh(&format!("cat {MOUNT}/before {MOUNT}/cut")).ok().out;
    assert_eq!(seen, "before\ncut\n");
    rig.pair.start_daemon(winner);
    rig.pair.wait_in_sync(other);
    rig.pair.node(other).run(&["twinfs", "switchover"]).ok();
    rig.pair.wait_in_sync(winner);
    rig.pair.compare_images();
}

#[test]
fn etcd_that_is_silent_or_forgot_or_was_written_by_others_makes_no_second_primary() {
    let name = "etcd_that_is_silent_or_forgot_or_was_written_by_others_makes_no_second_primary";
    if !need::have_nodes(name, PROGRAMS) {
        return;
    }
    let mut rig = Rig::start("etcd-silent");
    // Silent while nobody needs it: told, and nothing else.
    rig.stop_etcd();
    rig.wait_problem("alpha", "etcd does not answer");
    rig.write("alpha", "silent");
    // Silent when it is needed: nobody goes on, until it answers.
    rig.pair.world.part("alpha", "beta");
    let serves = |rig: &Rig, node: &str| rig.pair.volume(node)["serving"] == true;
    assert!(wait_for(Duration::from_secs(20), || !serves(&rig, "alpha")), "it serves without any right");
    std::thread::sleep(Duration::from_secs(6));
    assert!(!serves(&rig, "alpha") && !serves(&rig, "beta"), "somebody goes on without a judge");
    rig.start_etcd();
    let one = || ["alpha", "beta"].iter().filter(|node| serves(&rig, node)).count() == 1;
    assert!(wait_for(Duration::from_secs(30), one), "not one: {:#}", rig.pair.volume("alpha"));
    rig.pair.world.heal();
    rig.pair.wait_either_in_sync();
    // It lost its memory: both make the volume known again.
    rig.stop_etcd();
    rig.pair.node("gamma").sh("rm -rf /var/lib/etcd-test").ok();
    rig.start_etcd();
    rig.wait_known();
    let primary = rig.pair.primary().expect("somebody serves");
    let other = if primary == "alpha" { "beta" } else { "alpha" };
    let events = rig.pair.node(primary).run(&["twinfs", "events", "-n", "1000"]).out;
    assert!(events.contains("knows no record"), "{events}");
    // Somebody else wrote there: it is named, left alone, and no right comes from it.
    let keys = rig.keys();
    let [key] = keys.as_slice() else { panic!("one volume has {keys:?}") };
    rig.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"Z2FyYmFnZQ=="}}"#));
    rig.wait_problem(primary, "not written with this cluster's key");
    rig.pair.node(other).kill_all();
    assert!(wait_for(Duration::from_secs(20), || !serves(&rig, primary)), "it goes on without a judge");
    let still = rig.post("/v3/kv/range", &format!(r#"{{"key":"{key}"}}"#));
    assert!(still.contains("Z2FyYmFnZQ=="), "it was overwritten: {still}");
    rig.pair.start_daemon(other);
    rig.pair.wait_either_in_sync();
    rig.post("/v3/kv/deleterange", &format!(r#"{{"key":"{key}"}}"#));
    rig.wait_known();
    rig.pair.compare_images();
}
