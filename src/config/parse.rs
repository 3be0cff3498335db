//! From text to a checked `Config`: every value against its row of the key table, then the relations. Reports every
//! problem it finds, each one line with its place.
//!
//! Does not know which file the text came from. Invariant: never panics, whatever the text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check;
use super::keys::{Key, Kind, Section};
use super::suggest::nearest;
use super::types::{Config, DEFAULT_PORT, DEFAULT_WITNESS_PORT, HostPort, IpPrefix, Service};
use super::units::{format_size, format_span, parse_size, parse_span};
use crate::base::{SerialLine, Span};

/// Largest file that is looked at.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest name of a cluster, node or volume.
const NAME_BYTES_MAX: usize = 63;

/// One thing wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub text: String,
}

/// Everything wrong with the file, in its order; printed one line each as `LINE:COLUMN: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{}: {}", problem.line, problem.column, problem.text)?;
        }
        Ok(())
    }
}

/// A value that passed its row of the key table.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Span(Span),
    Size(u64),
    Number(u64),
    HostPort(HostPort),
    Sockets(Vec<SocketAddr>),
    Prefixes(Vec<IpPrefix>),
    Services(Vec<Service>),
    Texts(Vec<String>),
    Hosts(Vec<IpAddr>),
    Lines(Vec<SerialLine>),
    /// Node name -> text.
    PerNode(BTreeMap<String, String>),
}

/// The values of one section, by key.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// What the file says, each value valid by itself.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub cluster: Values,
    pub timing: Values,
    /// In the order of the file.
    pub nodes: Vec<(String, Values)>,
    pub fences: Vec<(String, Values)>,
    pub notify: Values,
    pub volumes: Vec<(String, Values)>,
}

/// Reads `text`, collecting problems with the byte at which each stands.
pub(super) struct Reader {
    problems: Vec<(usize, String)>,
    /// `timing.deadtime`, `node.alpha`: where it stands, for problems found later.
    places: BTreeMap<String, usize>,
}

impl Config {
    /// Reads and checks a whole `twinfs.toml`.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let mut reader = Reader { problems: Vec::new(), places: BTreeMap::new() };
        let raw = reader.document(text);
        let config = if reader.problems.is_empty() { check::assemble(&raw, &mut reader) } else { None };
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config),
            _ => Err(reader.finish(text)),
        }
    }
}

impl Reader {
    /// Adds a problem at `place` (`timing.deadtime`), or at the nearest known outer place.
    pub(super) fn problem_at(&mut self, place: &str, text: String) {
        let mut inner = place;
        let at = loop {
            if let Some(at) = self.places.get(inner) {
                break *at;
            }
            match inner.rsplit_once('.') {
                Some((outer, _)) => inner = outer,
                None => break 0,
            }
        };
        self.problems.push((at, text));
    }

    fn problem(&mut self, at: usize, text: String) {
        self.problems.push((at, text));
    }

    fn finish(mut self, text: &str) -> ConfigError {
        self.problems.sort_by_key(|(at, _)| *at);
        self.problems.dedup();
        let problems = self.problems.into_iter().map(|(at, message)| {
            let before = text.get(..at.min(text.len())).unwrap_or("");
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            Problem { line, column, text: message.replace('\n', " ") }
        });
        ConfigError { problems: problems.collect() }
    }

    fn document(&mut self, text: &str) -> Raw {
        let mut raw = Raw::default();
        if text.len() > TEXT_BYTES_MAX {
            self.problem(0, "larger than 1 MiB: this is no twinfs.toml".to_string());
            return raw;
        }
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                self.problem(
                    error.span().map_or(0, |s| s.start),
                    format!("not valid TOML: {}", error.message()),
                );
                return raw;
            }
        };
        for (name, value) in document.get_ref() {
            let at = name.span().start;
            match name.get_ref().as_ref() {
                "cluster" => raw.cluster = self.section(Section::Cluster, "cluster", at, value),
                "timing" => raw.timing = self.section(Section::Timing, "timing", at, value),
                "node" => raw.nodes = self.named(Section::Node, "node", at, value),
                "fence" => raw.fences = self.named(Section::Fence, "fence", at, value),
                "notify" => raw.notify = self.section(Section::Notify, "notify", at, value),
                "volume" => raw.volumes = self.named(Section::Volume, "volume", at, value),
                other => {
                    let hint = nearest(other, ["cluster", "timing", "node", "fence", "notify", "volume"]);
                    let all = "[cluster], [timing], [node.NAME], [fence.NAME], [notify], [volume.NAME]";
                    self.problem(at, unknown("section", other, hint, all));
                }
            }
        }
        raw
    }

    /// `[node.NAME]` and `[volume.NAME]`, in the order of the file.
    fn named(
        &mut self,
        section: Section,
        name: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<(String, Values)> {
        let Some(table) = value.get_ref().as_table() else {
            self.problem(at, format!("\"{name}\" must be written as a section: [{name}.NAME]"));
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut found = Vec::new();
        for (key, value) in entries {
            let inner: &str = key.get_ref().as_ref();
            let at = key.span().start;
            if let Err(why) = check_name(inner) {
                self.problem(at, why);
            }
            if value.get_ref().as_table().is_none() {
                self.problem(at, format!("\"{inner}\" must stand in a section of its own: [{name}.NAME]"));
                continue;
            }
            let values = self.section(section, &format!("{name}.{inner}"), at, value);
            found.push((inner.to_string(), values));
        }
        found
    }

    fn section(&mut self, section: Section, place: &str, at: usize, value: &Spanned<DeValue<'_>>) -> Values {
        self.places.insert(place.to_string(), at);
        let mut values = Values::new();
        let Some(table) = value.get_ref().as_table() else {
            self.problem(at, format!("\"{place}\" must be written as a section: [{place}]"));
            return values;
        };
        for (name, value) in table {
            let word: &str = name.get_ref().as_ref();
            let Some(key) = section.keys().find(|key| key.name == word) else {
                let hint = nearest(word, section.keys().map(|key| key.name));
                let all: Vec<&str> = section.keys().map(|key| key.name).collect();
                self.problem(name.span().start, unknown("key", word, hint, &all.join(", ")));
                continue;
            };
            self.places.insert(format!("{place}.{word}"), name.span().start);
            match read_value(key, value.get_ref()) {
                Ok(value) => drop(values.insert(key.name, value)),
                Err(why) => self.problem(value.span().start, format!("{}: {why}", key.name)),
            }
        }
        let missing = section.keys().filter(|key| key.default.is_none() && !values.contains_key(key.name));
        for key in missing {
            if !self.places.contains_key(&format!("{place}.{}", key.name)) {
                self.problem(at, format!("[{place}] needs the key \"{}\": {}", key.name, key.help));
            }
        }
        values
    }
}

fn unknown(what: &str, word: &str, hint: Option<&str>, all: &str) -> String {
    match hint {
        Some(hint) => format!("unknown {what} \"{word}\": did you mean \"{hint}\"?"),
        None => format!("unknown {what} \"{word}\": the {what}s here are {all}"),
    }
}

/// Whether `name` may name a cluster, node or volume (it becomes part of file names and socket names).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let good = name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good {
        return Ok(());
    }
    Err(format!(
        "\"{name}\" cannot be a name: use up to 63 letters, digits, \"-\", \"_\" and \".\", a letter or digit first"
    ))
}

fn read_value(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    match key.kind {
        Kind::Name => {
            let name = text(value)?;
            check_name(name).map(|()| Value::Text(name.to_string()))
        }
        Kind::Path => path(text(value)?).map(|p| Value::Text(p.to_string())),
        Kind::PathPerNode => per_node(value, |p| path(p).map(str::to_string)),
        Kind::TextPerNode => per_node(value, device),
        Kind::Duration { min_ms, max_ms } => duration(text(value)?, min_ms, max_ms),
        Kind::DurationOrNever { min_ms, max_ms } => match text(value)? {
            "never" => Ok(Value::Text("never".to_string())),
            given => duration(given, min_ms, max_ms).map_err(|why| format!("{why}, or \"never\"")),
        },
        Kind::Size { min, max } => size(text(value)?, min, max),
        Kind::Rate { min, max } => rate(text(value)?, min, max),
        Kind::RateOrUnlimited { min, max } => match text(value)? {
            "unlimited" => Ok(Value::Size(u64::MAX)),
            given => rate(given, min, max).map_err(|why| format!("{why}, or \"unlimited\"")),
        },
        Kind::Number { min, max } => number(value, min, max),
        Kind::Choice(choices) => choice(text(value)?, choices),
        Kind::HostPort => host_port(text(value)?).map(Value::HostPort),
        Kind::Urls => each(value, super::etcd::url).map(Value::Texts),
        Kind::SocketAddresses => each(value, socket).map(Value::Sockets),
        Kind::SerialLines => each(value, super::serial::line).map(Value::Lines),
        Kind::Prefixes => each(value, prefix).map(Value::Prefixes),
        Kind::Services => each(value, service).map(Value::Services),
        Kind::Argv => argv(value),
        Kind::Options => each(value, option).map(Value::Texts),
        Kind::Line => line(text(value)?).map(Value::Text),
        Kind::Hosts => each(value, host).map(Value::Hosts),
        Kind::Failback => Ok(Value::Text(text(value)?.to_string())),
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value.as_str() {
        Some(text) => Ok(text),
        None if value.is_integer() => {
            Err("must be a text in quotes, with its unit if it is a number".to_string())
        }
        None => Err(format!("must be a text in quotes, not a {}", value.type_str())),
    }
}

/// A list of texts, or one text standing for a list of one.
fn each<T>(value: &DeValue<'_>, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if let Some(one) = value.as_str() {
        return if one.is_empty() { Ok(Vec::new()) } else { read(one).map(|v| vec![v]) };
    }
    let list =
        value.as_array().ok_or_else(|| format!("must be a list of texts, not a {}", value.type_str()))?;
    list.iter().map(|item| read(text(item.get_ref())?)).collect()
}

fn per_node(value: &DeValue<'_>, read: impl Fn(&str) -> Result<String, String>) -> Result<Value, String> {
    if let Some(one) = value.as_str() {
        return read(one).map(Value::Text);
    }
    let table = value.as_table().ok_or("must be a text, or a table { NODE = \"...\", NODE = \"...\" }")?;
    let mut found = BTreeMap::new();
    for (node, value) in table {
        found.insert(node.get_ref().to_string(), read(text(value.get_ref())?)?);
    }
    Ok(Value::PerNode(found))
}

/// No line can be smuggled into what a program reads.
fn line(text: &str) -> Result<String, String> {
    if text.len() <= 1024 && !text.contains(char::is_control) {
        return Ok(text.to_string());
    }
    Err("must be one line of at most 1024 characters".to_string())
}

fn argv(value: &DeValue<'_>) -> Result<Value, String> {
    let words = each(value, line)?;
    match words.first() {
        Some(program) => path(program).map(|_| Value::Texts(words.clone())),
        None => Err("must name a program by its absolute path".to_string()),
    }
}

/// `key=value`. What decides what happens is no option.
fn option(text: &str) -> Result<String, String> {
    let text = line(text)?;
    let key = text.split_once('=').map_or("", |(key, _)| key);
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    match key {
        _ if !plain => Err(format!("\"{text}\" must be key=value, such as \"ip=192.0.2.9\"")),
        "action" | "option" => Err(format!("\"{text}\": what an agent does is said by the key \"action\"")),
        _ => Ok(text),
    }
}

fn host(text: &str) -> Result<IpAddr, String> {
    let ip: Option<IpAddr> = text.parse().ok();
    ip.filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .ok_or_else(|| format!("\"{text}\" must be the IP address of a machine, such as a gateway"))
}

pub(super) fn path(text: &str) -> Result<&str, String> {
    let plain = text.starts_with('/') && text.len() < 4096 && !text.contains('\0');
    if plain && !text.split('/').any(|part| part == "..") {
        return Ok(text);
    }
    Err(format!("\"{text}\" must be an absolute path without \"..\""))
}

fn device(text: &str) -> Result<String, String> {
    let good = text.len() <= 15 && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if good { Ok(text.to_string()) } else { Err(format!("\"{text}\" is no network device: see \"ip link\"")) }
}

fn duration(text: &str, min_ms: u64, max_ms: u64) -> Result<Value, String> {
    let span = parse_span(text)?;
    let (min, max) = (Span::from_millis(min_ms), Span::from_millis(max_ms));
    if (min..=max).contains(&span) {
        return Ok(Value::Span(span));
    }
    Err(format!("\"{text}\" is out of range: {} to {}", format_span(min), format_span(max)))
}

fn size(text: &str, min: u64, max: u64) -> Result<Value, String> {
    let size = parse_size(text)?;
    if (min..=max).contains(&size) {
        // Whole extents of 4 MiB, rounded down.
        return Ok(Value::Size(size / (4 << 20) * (4 << 20)));
    }
    Err(format!("\"{text}\" is out of range: {} to {}", format_size(min), format_size(max)))
}

fn rate(text: &str, min: u64, max: u64) -> Result<Value, String> {
    let rate = parse_size(text)?;
    if (min..=max).contains(&rate) {
        return Ok(Value::Size(rate));
    }
    Err(format!("\"{text}\" (a second) is out of range: {} to {}", format_size(min), format_size(max)))
}

fn number(value: &DeValue<'_>, min: u64, max: u64) -> Result<Value, String> {
    let digits = value.as_integer().map(|n| (n.as_str(), n.radix()));
    let number = digits.and_then(|(digits, radix)| u64::from_str_radix(digits, radix).ok());
    match number.filter(|n| (min..=max).contains(n)) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(format!("must be a number from {min} to {max}, without quotes")),
    }
}

fn choice(text: &str, choices: &[&str]) -> Result<Value, String> {
    if choices.contains(&text) {
        return Ok(Value::Text(text.to_string()));
    }
    let all = choices.iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(", ");
    match nearest(text, choices.iter().copied()) {
        Some(hint) => Err(format!("\"{text}\" is unknown: did you mean \"{hint}\"?")),
        None => Err(format!("\"{text}\" is unknown: choose one of {all}")),
    }
}

fn host_port(text: &str) -> Result<HostPort, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(HostPort { host: address.ip().to_string(), port: address.port() });
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(HostPort { host: bare.to_string(), port: DEFAULT_WITNESS_PORT });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|p| *p != 0)),
        None => (text, Some(DEFAULT_WITNESS_PORT)),
    };
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    match port.filter(|_| plain && host.len() <= 253) {
        Some(port) => Ok(HostPort { host: host.to_string(), port }),
        None => Err(format!(
            "\"{text}\" must be HOST:PORT, such as \"witness.example.com:{DEFAULT_WITNESS_PORT}\""
        )),
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address =
        text.parse().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DEFAULT_PORT)));
    match address {
        Ok(address)
            if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() =>
        {
            Err(format!(
                "\"{text}\" cannot be an address of a node: give the address that the peer shall use"
            ))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "\"{text}\" must be IP:PORT, such as \"10.0.0.1:{DEFAULT_PORT}\" or \"[fd00::1]:{DEFAULT_PORT}\""
        )),
    }
}

fn prefix(text: &str) -> Result<IpPrefix, String> {
    let wrong = || format!("\"{text}\" must be IP/PREFIX, such as \"192.0.2.10/24\"");
    let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let prefix: u8 = bits.parse().map_err(|_| wrong())?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if prefix == 0 || prefix > longest || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Err(wrong());
    }
    Ok(IpPrefix { ip, prefix })
}

fn service(text: &str) -> Result<Service, String> {
    if let Some(script) = text.strip_prefix("exec:") {
        return path(script).map(|p| Service::Exec(p.into()));
    }
    if text.starts_with("ocf:") {
        return Err(format!(
            "\"{text}\": OCF agents are not available in this version: use \"exec:/path\" or a unit"
        ));
    }
    let unit = [".service", ".target", ".timer", ".socket"].iter().any(|end| text.ends_with(end));
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    if unit && plain && text.len() < 256 && !text.starts_with('-') {
        return Ok(Service::Unit(text.to_string()));
    }
    Err(format!(
        "\"{text}\" is no service: write \"exec:/path/to/script\" or a systemd unit such as \"postfix.service\""
    ))
}
