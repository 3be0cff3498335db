//! Which judge is asked, and what of it is refused.

use super::super::Config;

const BASE: &str = r#"
[cluster]
name = "office"
arbitration = "WAY"
JUDGE
[node.alpha]
addresses = ["10.0.0.1"]
[node.beta]
addresses = ["10.0.0.2"]
[volume.mail]
image = "/var/lib/twinfs/mail.img"
size = "20G"
mount = "/replicated"
"#;

fn parse(way: &str, judge: &str) -> Result<Config, String> {
    Config::parse(&BASE.replace("WAY", way).replace("JUDGE", judge)).map_err(|e| e.to_string())
}

#[test]
fn members_with_their_certificates_are_understood_and_written_back() {
    let judge = "etcd = [\"https://10.0.0.5:2379\", \"https://[fd00::6]:2379/\"]\netcd_ca = \"/etc/ca.pem\"\n\
                 etcd_cert = \"/etc/node.pem\"\netcd_key = \"/etc/node.key\"";
    let config = parse("witness", judge).unwrap();
    let etcd = config.cluster.etcd.clone().unwrap();
    assert_eq!(etcd.urls, ["https://10.0.0.5:2379", "https://[fd00::6]:2379"]);
    assert_eq!(etcd.key, Some("/etc/node.key".into()));
    assert_eq!(config.cluster.witness, None);
    assert_eq!(Config::parse(&config.render()).unwrap(), config, "{}", config.render());
    // One text stands for a list of one.
    assert!(parse("witness", "etcd = \"http://etcd.example:2379\"").is_ok());
}

#[test]
fn a_judge_is_needed_and_one_only_and_only_where_one_is_asked() {
    let refused = |way: &str, judge: &str, part: &str| {
        let text = parse(way, judge).err().unwrap_or_default();
        assert!(text.contains(part), "{way} {judge}: {text}");
    };
    refused("witness", "", "needs witness = \"HOST:PORT\", or etcd");
    refused("witness", "witness = \"w\"\netcd = [\"http://e:2379\"]", "two judges");
    refused("yield", "etcd = [\"http://e:2379\"]", "an etcd is not used");
    refused("manual", "witness = \"w\"", "a witness is not used");
    refused("witness", "etcd = [\"http://e:2379\", \"https://f:2379\"]", "https:// for all");
    refused("witness", "etcd = [\"https://e:2379\"]", "needs etcd_ca");
    refused("witness", "etcd = [\"http://e:2379\"]\netcd_ca = \"/ca\"", "https:// only");
    refused(
        "witness",
        "etcd = [\"https://e:2379\"]\netcd_ca = \"/ca\"\netcd_cert = \"/c\"",
        "needs etcd_key as well",
    );
    refused("witness", "witness = \"w\"\netcd_ca = \"/ca\"", "says nothing without etcd");
    for url in [
        "e:2379",
        "ftp://e:2379",
        "http://e",
        "http://e:0",
        "http://:2379",
        "http://e:2379/v3",
        "http://a b:1",
    ] {
        refused("witness", &format!("etcd = [\"{url}\"]"), "must be http://HOST:PORT");
    }
}
