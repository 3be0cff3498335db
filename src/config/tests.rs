//! Tests of the configuration: every refusal by its text.

use std::path::PathBuf;

use super::*;
use crate::base::{NodeId, Span};

const GOOD: &str = r#"
[cluster]
name = "office"
arbitration = "witness"
witness = "quorum.example.com:8791"

[node.beta]
addresses = ["10.0.0.2:8790", "192.168.7.2"]

[node.alpha]
addresses = ["10.0.0.1:8790", "192.168.7.1"]

[volume.mail]
image = { alpha = "/var/lib/twinfs/mail.img", beta = "/dev/vg0/mail" }
size = "20G"
mount = "/replicated"
address = "10.0.0.100/24"
services = ["postfix.service", "exec:/etc/twinfs/services/dovecot"]
failback = "alpha"
"#;

/// The problems of GOOD with `from` replaced by `to`, as printed.
fn problems(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Config::parse(&GOOD.replacen(from, to, 1)).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_good_file_is_understood() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.node(NodeId::A).name, "beta", "the first in the file is A");
    assert_eq!(config.node_id("alpha"), Some(NodeId::B));
    assert_eq!(config.node(NodeId::A).addresses[1].to_string(), "192.168.7.2:8790");
    assert_eq!(config.cluster.key_file, PathBuf::from("/etc/twinfs/key"));
    assert_eq!(config.cluster.witness.as_ref().unwrap().to_string(), "quorum.example.com:8791");
    let mail = config.volume("mail").unwrap();
    assert_eq!(mail.image_on(NodeId::A), &PathBuf::from("/dev/vg0/mail"));
    assert_eq!(mail.size, 20 << 30);
    assert_eq!(mail.address[0].to_string(), "10.0.0.100/24");
    assert_eq!(mail.services[0], Service::Unit("postfix.service".to_string()));
    assert_eq!(mail.services[1], Service::Exec("/etc/twinfs/services/dovecot".into()));
    assert_eq!((mail.prefer, mail.failback), (Some(NodeId::B), Failback::WhenSynced));
    assert_eq!(config.timing, Timing::defaults(Arbitration::Witness));
}

#[test]
fn what_is_rendered_is_read_back_the_same() {
    for arbitration in ["witness", "yield", "manual"] {
        let text = GOOD.replace("\"witness\"", &format!("\"{arbitration}\""));
        let text = if arbitration == "witness" { text } else { text.replace("witness = \"quorum", "#") };
        let config = Config::parse(&text).unwrap();
        let rendered = config.render();
        assert_eq!(Config::parse(&rendered).unwrap(), config, "{rendered}");
        assert!(rendered.lines().all(|line| line.len() <= 160 && line.is_ascii()));
    }
    let mut odd = Config::parse(GOOD).unwrap();
    odd.volumes[0].image[0] = "/srv/a \"quoted\"\\path\u{7}".into();
    odd.volumes[0].device = [Some("eth0".to_string()), None];
    odd.timing.keepalive = Span(333_333_333);
    assert_eq!(Config::parse(&odd.render()).unwrap(), odd);
}

/// Two versions of the program must agree on a file that both read, or an upgrade node by node stops the service.
#[test]
fn neither_a_comment_nor_a_key_with_its_default_counts_in_the_hash() {
    let config = Config::parse(GOOD).unwrap();
    let meaning = config.meaning();
    for key in super::keys::KEYS {
        assert!(!meaning.contains(key.help), "the comment of {} counts:\n{meaning}", key.name);
    }
    for name in ["encrypt", "keepalive", "fence_delay", "keep_awake", "write_ack"] {
        assert!(config.render().contains(name) && !meaning.contains(name), "{name} counts:\n{meaning}");
    }
    let off = GOOD.replacen("[cluster]", "[cluster]\nencrypt = \"off\"", 1);
    let off = Config::parse(&off).unwrap();
    assert!(off.meaning().contains("encrypt = \"off\"") && off.hash() != config.hash());
    assert_eq!(Config::parse(&config.render()).unwrap().hash(), config.hash());
}

#[test]
fn the_hash_sees_meaning_and_not_spelling() {
    let hash = Config::parse(GOOD).unwrap().hash();
    let spelled = GOOD.replace("\"20G\"", "\"20480MiB\" # twenty").replace("[timing]", "");
    assert_eq!(Config::parse(&spelled).unwrap().hash(), hash);
    let other = GOOD.replace("\"20G\"", "\"21G\"");
    assert_ne!(Config::parse(&other).unwrap().hash(), hash);
}

#[test]
fn the_ways_of_failback_read_back_and_the_short_one_means_what_it_meant() {
    let short = Config::parse(GOOD).unwrap();
    let with = |text: &str| Config::parse(&GOOD.replace("failback = \"alpha\"", text)).unwrap();
    let long = with("prefer = \"alpha\"\nfailback = \"when-synced\"");
    assert_eq!(long, short);
    assert!(long.meaning().contains("\nfailback = \"alpha\"\n") && !long.meaning().contains("prefer"));
    let window = with("prefer = \"beta\"\nfailback = \"23:30-04:00 sat,sun utc\"");
    assert_eq!(Config::parse(&window.render()).unwrap(), window);
    assert_ne!(window.hash(), short.hash());
    let never = with("failback = \"never\"");
    assert!(!never.meaning().contains("failback"), "a default counts as nothing said");
    assert_eq!(Config::parse(&never.render()).unwrap(), never);
}

#[test]
fn an_unknown_key_is_refused_at_its_place_with_a_suggestion() {
    assert_eq!(problems("mount = ", "muont = ").lines().count(), 2);
    assert!(
        problems("failback =", "failbak =")
            .starts_with("19:1: unknown key \"failbak\": did you mean \"failback\"?")
    );
    assert!(
        problems("failback =", "zzz =")
            .contains("unknown key \"zzz\": the keys here are image, size, mount,")
    );
    assert!(
        problems("[cluster]", "[clutser]").contains("unknown section \"clutser\": did you mean \"cluster\"?")
    );
    assert!(problems("[volume.mail]", "[volumes.mail]").contains("did you mean \"volume\"?"));
}

#[test]
fn each_wrong_value_gets_one_line_that_says_what_to_write() {
    for (from, to, text) in [
        (
            "\"20G\"",
            "\"20\"",
            "15:8: size: \"20\" has no unit: write a size such as \"512M\", \"20G\" or \"1.5TiB\"",
        ),
        ("\"20G\"", "20", "15:8: size: must be a text in quotes, with its unit if it is a number"),
        ("\"20G\"", "true", "15:8: size: must be a text in quotes, not a boolean"),
        ("\"20G\"", "\"1M\"", "15:8: size: \"1M\" is out of range: 64M to 64T"),
        ("\"20G\"", "\"20X\"", "15:8: size: \"20X\" has no known unit"),
        (
            "\"/replicated\"",
            "\"replicated\"",
            "16:9: mount: \"replicated\" must be an absolute path without \"..\"",
        ),
        ("\"/replicated\"", "\"/a/../b\"", "must be an absolute path"),
        ("\"/replicated\"", "\"/\"", "16:1: the root directory cannot be a mount point"),
        ("\"10.0.0.100/24\"", "\"10.0.0.100\"", "17:11: address: \"10.0.0.100\" must be IP/PREFIX"),
        ("\"10.0.0.100/24\"", "\"10.0.0.100/33\"", "must be IP/PREFIX"),
        ("\"10.0.0.100/24\"", "[\"10.0.0.1/24\"]", "10.0.0.1 belongs to a node"),
        (
            "postfix.service",
            "postfix",
            "\"postfix\" is no service: write \"exec:/path/to/script\" or a systemd unit",
        ),
        ("postfix.service", "ocf:heartbeat:x", "OCF agents are not available in this version"),
        (
            "failback = \"alpha\"",
            "failback = \"gamma\"",
            "failback: \"gamma\" is no window: write \"never\", \"when-synced\" or a window such as",
        ),
        (
            "failback = \"alpha\"",
            "failback = \"when-synced\"",
            "failback = \"when-synced\" needs prefer = NODE, where it goes: \"beta\" or \"alpha\"",
        ),
        (
            "failback = \"alpha\"",
            "failback = \"never\"\nprefer = \"gamma\"",
            "20:1: prefer = \"gamma\" must name a node: \"beta\" or \"alpha\"",
        ),
        ("failback = \"alpha\"", "failback = \"alpha\"\nprefer = \"beta\"", "name different nodes"),
        (
            "failback = \"alpha\"",
            "failback = \"02:00-04:00 someday\"\nprefer = \"beta\"",
            "failback: \"02:00-04:00 someday\" has no day \"someday\"",
        ),
        ("failback = \"alpha\"", "failback = \"never\"\nprefers = \"beta\"", "did you mean \"prefer\"?"),
        (
            "arbitration = \"witness\"",
            "arbitration = \"fence\"",
            "arbitration = \"fence\" needs an agent that stops \"beta\": add [fence.NAME]",
        ),
        (
            "arbitration = \"witness\"",
            "arbitration = \"deadtime\"",
            "to accept that, write i_accept_split_brain = \"yes, losing writes go to salvage\"",
        ),
        ("arbitration = \"witness\"", "arbitration = \"wittness\"", "did you mean \"witness\"?"),
        (
            "arbitration = \"witness\"",
            "arbitration = \"manual\"",
            "a witness is not used with arbitration = \"manual\"",
        ),
        (
            "witness = \"quorum.example.com:8791\"",
            "",
            "arbitration = \"witness\" needs witness = \"HOST:PORT\"",
        ),
        ("quorum.example.com:8791", "quo rum:1", "must be HOST:PORT"),
        ("quorum.example.com:8791", "quorum:0", "must be HOST:PORT"),
        ("name = \"office\"", "", "[cluster] needs the key \"name\""),
        ("name = \"office\"", "name = \"my office\"", "cannot be a name"),
        ("[volume.mail]", "[volume.\"a/b\"]", "\"a/b\" cannot be a name"),
        ("10.0.0.2:8790", "10.0.0.2:0", "cannot be an address of a node"),
        ("10.0.0.2:8790", "0.0.0.0:1", "cannot be an address of a node"),
        ("10.0.0.2:8790", "beta:1", "must be IP:PORT"),
        ("10.0.0.2:8790", "10.0.0.1:8790", "10.0.0.1:8790 is used twice"),
        ("10.0.0.2:8790", "[fd00::2]:8790", "are of two IP versions"),
        (", \"192.168.7.2\"", "", "\"beta\" has 1 addresses and \"alpha\" 2"),
        (
            "[node.beta]",
            "[node.beta]\naddresses = [\"10.1.1.1\"]\n[node.gamma]",
            "exactly two sections [node.NAME], and there are 3",
        ),
        (
            "beta = \"/dev/vg0/mail\"",
            "gamma = \"/x\"",
            "image names \"gamma\", but the nodes are \"beta\" and \"alpha\"",
        ),
        (", beta = \"/dev/vg0/mail\"", "", "image says nothing for node \"beta\""),
        ("\"/dev/vg0/mail\"", "\"/replicated/x\"", "image lies below the volume's own mount"),
        ("[cluster]", "[cluster", "not valid TOML"),
        ("[cluster]", "node = 3\n[cluster]", "not valid TOML"),
    ] {
        let told = problems(from, to);
        assert!(told.contains(text), "{to}: expected {text:?} in {told:?}");
    }
}

#[test]
fn times_that_do_not_fit_together_are_refused_with_the_formula() {
    let timing = |lines: &str| problems("[node.beta]", &format!("[timing]\n{lines}\n[node.beta]"));
    assert_eq!(timing(""), "");
    for (lines, text) in [
        (
            "deadtime = \"3s\"",
            "leaves no lease: deadtime / 1.01 must be longer than release_time + 2 * keepalive (2s + 2 * 500ms)",
        ),
        ("slow_peer = \"6s\"", "slow_peer + 2 * witness_timeout (7s) must be shorter than the lease"),
        ("slow_peer = \"900ms\"", "slow_peer must be at least 2 * keepalive (1s)"),
        ("initdead = \"19s\"", "initdead must be at least 2 * deadtime (20s)"),
        ("warntime = \"10s\"", "warntime must lie between keepalive (500ms) and deadtime (10s)"),
        ("keepalive = \"10ms\"", "keepalive: \"10ms\" is out of range: 50ms to 10s"),
        ("keepalive = \"fast\"", "has no known unit: write a duration such as"),
        ("release_time = \"1s\"", "release_time must be at least 1500ms while a volume has an address"),
    ] {
        let told = timing(lines);
        assert!(told.contains(text), "{lines}: expected {text:?} in {told:?}");
        assert!(told.starts_with("9:") || told.starts_with("8:"), "{told}");
    }
}

#[test]
fn leases_are_those_of_the_table_in_the_manual() {
    for (arbitration, low, high) in
        [(Arbitration::Witness, 6_800, 6_900), (Arbitration::Yield, 23_000, 24_000)]
    {
        let timing = Timing::defaults(arbitration);
        assert!((low..high).contains(&timing.lease().as_millis()), "{:?}", timing.lease());
        // In true time: the lease plus what its holder needs to stop ends before the peer may act.
        let true_lease = timing.lease().0 * 100 / 99 + timing.release_time.0;
        assert!(true_lease <= timing.deadtime.0 * 100 / 101);
    }
}

#[test]
fn two_volumes_may_not_share_anything() {
    let second = |text: &str| {
        let more = format!("{GOOD}\n[volume.web]\nsize = \"1G\"\n{text}");
        Config::parse(&more).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(second("image = \"/i\"\nmount = \"/web\""), "");
    assert!(
        second("image = \"/i\"\nmount = \"/replicated/web\"")
            .contains("mount lies at or below that of volume \"mail\"")
    );
    assert!(
        second("image = \"/dev/vg0/mail\"\nmount = \"/web\"")
            .contains("image is also that of volume \"mail\"")
    );
    let address = second("image = \"/i\"\nmount = \"/web\"\naddress = \"10.0.0.100/16\"");
    assert!(address.contains("10.0.0.100 is also an address of volume \"mail\""), "{address}");
}

#[test]
fn every_default_of_the_key_table_is_what_the_parser_assumes() {
    let bare = Config::parse(GOOD).unwrap();
    for key in KEYS.iter().filter(|key| key.section == Section::Timing && key.name != "warntime") {
        let line = format!("[timing]\n{} = \"{}\"\n[node.beta]", key.name, key.default.unwrap());
        let config = Config::parse(&GOOD.replace("[node.beta]", &line)).unwrap();
        assert_eq!(config.timing, bare.timing, "{}", key.name);
    }
    for (name, section) in [
        ("service_timeout", Section::Volume),
        ("write_ack", Section::Volume),
        ("keep_awake", Section::Volume),
        ("key_file", Section::Cluster),
    ] {
        let key = KEYS.iter().find(|key| key.section == section && key.name == name).unwrap();
        let head = if section == Section::Volume { "mount = " } else { "arbitration = " };
        let line = format!("{name} = \"{}\"\n{head}", key.default.unwrap());
        assert_eq!(Config::parse(&GOOD.replacen(head, &line, 1)).unwrap(), bare);
    }
}

#[test]
fn mutations_of_a_file_are_refused_or_understood_but_never_panic() {
    let mut seed = 1u64;
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let pieces = [
        "\"",
        "[",
        "]",
        "=",
        "\n",
        ".",
        "{",
        "\u{20ac}",
        "99999999999999999999G",
        "0",
        "'''",
        "-",
        "\\u0000",
    ];
    for _ in 0..3_000 {
        let mut text: Vec<char> = GOOD.chars().collect();
        for _ in 0..1 + next(4) {
            let at = next(text.len());
            match next(3) {
                0 => drop(text.remove(at)),
                1 => drop(text.splice(at..at, pieces[next(pieces.len())].chars())),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = Config::parse(&text) {
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|p| p.line >= 1 && !p.text.contains('\n')), "{error}");
        }
    }
}

#[test]
fn units_are_read_and_written() {
    for (text, bytes) in
        [("64MiB", 64 << 20), ("1.5T", 3 << 39), ("7 G", 7 << 30), ("12B", 12), ("0.5K", 512)]
    {
        assert_eq!(units::parse_size(text), Ok(bytes));
        assert_eq!(units::parse_size(&units::format_size(bytes)), Ok(bytes));
    }
    for (text, span) in
        [("500ms", 500_000_000), ("1.5s", 1_500_000_000), ("2m", 120_000_000_000), ("1d", 86_400_000_000_000)]
    {
        assert_eq!(units::parse_span(text), Ok(Span(span)));
        assert_eq!(units::parse_span(&units::format_span(Span(span))), Ok(Span(span)));
    }
    for wrong in
        ["", "G", "-1G", "1.G", ".5G", "1e3G", "1 GB", "99999999999999999999T", "18446744073709551615K"]
    {
        assert!(units::parse_size(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn keys_of_different_purposes_directions_and_clusters_all_differ() {
    let key = ClusterKey::from_bytes([7; 32]);
    let mut all = Vec::new();
    for cluster in ["one", "two"] {
        for node in [NodeId::A, NodeId::B] {
            all.push(key.derive(cluster, Purpose::Stream, node));
            all.push(key.derive(cluster, Purpose::Heartbeat, node));
        }
        let witness = key.witness(cluster);
        all.extend(witness.request.iter().chain(&witness.reply));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(!all.contains(&[7; 32]));
}

#[test]
fn key_files_are_read_back_and_wrong_ones_named() {
    let key = ClusterKey::from_bytes([0xa5; 32]);
    assert_eq!(ClusterKey::parse(&key.render()), Ok(key.clone()));
    let witness = key.witness("office");
    assert!(WitnessKeys::parse(&witness.render()) == Ok(witness.clone()));
    assert_eq!(ClusterKey::parse(&witness.render()), Err(KeyError::WitnessKeyForNode));
    assert_eq!(WitnessKeys::parse(&key.render()).err(), Some(KeyError::ClusterKeyForWitness));
    for (text, found) in [("", "the wrong length"), ("ab", "the wrong length"), ("zz", "not hexadecimal")] {
        let told = ClusterKey::parse(text).unwrap_err().to_string();
        assert!(told.contains(found) && told.contains("twinfs key generate"), "{told}");
    }
    let short = &witness.render()[..101];
    assert!(WitnessKeys::parse(short).err().unwrap().to_string().contains("the wrong length"));
    assert!(!format!("{key:?}{witness:?}").contains("a5"), "no key material in a debug print");
}

const FENCED: &str = r#"
[cluster]
name = "office"
arbitration = "fence"

[timing]
fence_delay = "7s"

[node.alpha]
addresses = "10.0.0.1"

[node.beta]
addresses = "10.0.0.2"

[fence.bmc-alpha]
target = "alpha"
agent = "/usr/sbin/fence_ipmilan"
options = ["ip=10.9.0.1", "username=twinfs"]
secrets = "/etc/twinfs/bmc"

[fence.switch-alpha]
target = "alpha"
level = 2
agent = ["/usr/sbin/fence_apc", "--verbose"]
action = "off"

[fence.bmc-beta]
target = "beta"
agent = "/usr/sbin/fence_ipmilan"

[volume.mail]
image = "/i"
size = "1G"
mount = "/replicated"
"#;

const SILENT: &str = r#"
[cluster]
name = "office"
arbitration = "deadtime"
i_accept_split_brain = "yes, losing writes go to salvage"
after_split_brain = "manual"
ping = ["10.0.0.254"]

[node.alpha]
addresses = ["10.0.0.1", "10.1.0.1"]

[node.beta]
addresses = ["10.0.0.2", "10.1.0.2"]

[volume.mail]
image = "/i"
size = "1G"
mount = "/replicated"
"#;

#[test]
fn agents_are_tried_level_after_level_and_only_against_their_node() {
    let config = Config::parse(FENCED).unwrap();
    let levels = config.fence_levels(NodeId::A);
    let names: Vec<Vec<&str>> =
        levels.iter().map(|level| level.iter().map(|agent| agent.name.as_str()).collect()).collect();
    assert_eq!(names, [["bmc-alpha"], ["switch-alpha"]]);
    assert_eq!(levels[1][0].argv, ["/usr/sbin/fence_apc", "--verbose"]);
    assert_eq!((levels[0][0].action, levels[1][0].action), (FenceAction::Reboot, FenceAction::Off));
    assert_eq!(levels[0][0].secrets, Some(PathBuf::from("/etc/twinfs/bmc")));
    assert_eq!(config.fence_levels(NodeId::B).len(), 1);
    assert_eq!(config.timing.fence_delay, Span::from_secs(7));
    assert_eq!(Config::parse(&config.render()).unwrap(), config, "{}", config.render());
    let silent = Config::parse(SILENT).unwrap();
    assert_eq!(silent.timing.deadtime, Span::from_secs(120));
    assert_eq!(Config::parse(&silent.render()).unwrap(), silent, "{}", silent.render());
}

#[test]
fn what_does_not_go_with_a_way_of_arbitration_is_refused_with_the_reason() {
    let told = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Config::parse(&text.replacen(from, to, 1)).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (from, to, why) in [
        ("target = \"beta\"", "target = \"alpha\"", "needs an agent that stops \"beta\""),
        ("target = \"beta\"", "target = \"gamma\"", "must be the node that it stops: \"alpha\" or \"beta\""),
        ("\"fence\"", "\"witness\"\nwitness = \"w\"", "beside a witness would be a second judge"),
        ("\"fence\"", "\"manual\"", "does not go with arbitration = \"manual\""),
        ("\"/usr/sbin/fence_ipmilan\"", "\"fence_ipmilan\"", "must be an absolute path"),
        ("ip=10.9.0.1", "action=on", "what an agent does is said by the key \"action\""),
        ("ip=10.9.0.1", "nothing", "must be key=value"),
        ("username=twinfs", "username=x\\naction=on", "must be one line"),
        ("fence_delay = \"7s\"", "fence_delay = \"0ms\"", "out of range"),
        ("level = 2", "level = 0", "must be a number from 1 to 9"),
        ("action = \"off\"", "action = \"of\"", "did you mean \"off\"?"),
        ("target = \"beta\"", "targets = \"beta\"", "did you mean \"target\"?"),
        ("arbitration = \"fence\"", "arbitration = \"fence\"\nping = \"gateway\"", "IP address"),
    ] {
        let told = told(FENCED, from, to);
        assert!(told.contains(why), "{to}: expected {why:?} in {told:?}");
    }
    for (from, to, why) in [
        ("i_accept_split_brain = \"yes, losing writes go to salvage\"", "", "makes two primaries whenever"),
        ("\"yes, losing writes go to salvage\"", "\"yes\"", "to accept that, write i_accept_split_brain"),
        ("after_split_brain = \"manual\"", "", "needs after_split_brain"),
        (", \"10.1.0.2\"", ", \"10.0.0.2:99\"", "at least 2 independent links: node \"beta\""),
        ("[node.alpha]", "[timing]\ndeadtime = \"29s\"\n[node.alpha]", "at least 30s"),
        ("[node.alpha]", "[timing]\ninitdead = \"200s\"\n[node.alpha]", "at least 2 * deadtime"),
        ("\"deadtime\"", "\"yield\"", "i_accept_split_brain goes with arbitration = \"deadtime\" only"),
        ("10.0.0.254", "gateway", "must be the IP address of a machine"),
    ] {
        let told = told(SILENT, from, to);
        assert!(told.contains(why), "{to}: expected {why:?} in {told:?}");
    }
}

#[test]
fn a_program_to_be_told_is_read_with_its_defaults_and_written_back() {
    let text = |lines: &str| format!("{GOOD}\n[notify]\n{lines}\n");
    let config = Config::parse(&text("run = \"/usr/local/sbin/tell\"")).unwrap();
    let notify = config.notify.clone().unwrap();
    assert_eq!(notify.argv, ["/usr/local/sbin/tell"]);
    assert_eq!((notify.timeout, notify.degraded_after), (Span::from_secs(30), Span::from_secs(600)));
    assert_eq!(Config::parse(&config.render()).unwrap(), config, "{}", config.render());
    let other =
        Config::parse(&text("run = [\"/t\", \"-a b\"]\ntimeout = \"5s\"\ndegraded_after = \"1h\"")).unwrap();
    assert_eq!(Config::parse(&other.render()).unwrap(), other);
    assert_ne!(other.hash(), config.hash());
    for (lines, why) in [
        ("timeout = \"5s\"", "[notify] needs the key \"run\""),
        ("run = \"mail root\"", "must be an absolute path"),
        ("run = []", "must name a program"),
        ("run = \"/t\"\ndegraded_afer = \"1h\"", "did you mean \"degraded_after\"?"),
        ("run = \"/t\"\ntimeout = \"0s\"", "out of range"),
    ] {
        let told = Config::parse(&text(lines)).unwrap_err().to_string();
        assert!(told.contains(why), "{lines}: {told}");
    }
    let told = Config::parse(&format!("{GOOD}\n[notfy]\nrun = \"/t\"\n")).unwrap_err().to_string();
    assert!(told.contains("did you mean \"notify\"?"), "{told}");
}
