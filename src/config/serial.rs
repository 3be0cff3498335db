//! Serial lines between the nodes: how one is written, and what both ends and the times have to do with each other.
//!
//! Decides which lines are refused. Does not know whether a device exists. Invariant: a line that passes carries a
//! heartbeat of every volume twice within `warntime`, so that a slow line is not taken for a silent one.

use super::parse::{Reader, path};
use super::types::{Node, Timing};
use super::units::format_span;
use crate::base::SerialLine;

/// Most lines between the nodes.
const LINES_MAX: usize = 4;

/// `DEVICE@BAUD`.
pub(super) fn line(text: &str) -> Result<SerialLine, String> {
    let (device, speed) = text
        .rsplit_once('@')
        .ok_or_else(|| format!("\"{text}\" must be DEVICE@BAUD, such as \"/dev/ttyS0@115200\""))?;
    let device = path(device)?.into();
    match speed.parse().ok().filter(|baud| SerialLine::BAUDS.contains(baud)) {
        Some(baud) => Ok(SerialLine { device, baud }),
        None => {
            let all: Vec<String> = SerialLine::BAUDS.iter().map(ToString::to_string).collect();
            Err(format!("\"{text}\": {speed} is no speed that is known here: {}", all.join(", ")))
        }
    }
}

/// What the ends of the lines have to do with each other, and with the number of volumes.
pub(super) fn check(nodes: &[Node; 2], volumes: usize, timing: &Timing, reader: &mut Reader) {
    let [a, b] = nodes;
    for node in nodes {
        let place = format!("node.{}.serial", node.name);
        if node.serial.len() > LINES_MAX {
            reader
                .problem_at(&place, format!("node \"{}\" has more than {LINES_MAX} serial lines", node.name));
        }
        for (index, line) in node.serial.iter().enumerate() {
            let device = line.device.display();
            if node.serial[..index].iter().any(|other| other.device == line.device) {
                reader.problem_at(
                    &place,
                    format!("{device} is used twice: a line has one device on each node"),
                );
            }
            let round = line.takes(SerialLine::FRAME_BYTES_MAX * volumes);
            if round + round > timing.warntime {
                let text = format!(
                    "{line} is too slow: the heartbeats of {volumes} volumes take {} on it, and twice that must not \
                     exceed warntime ({})",
                    format_span(round),
                    format_span(timing.warntime)
                );
                reader.problem_at(&place, text);
            }
        }
    }
    let place = format!("node.{}.serial", b.name);
    if a.serial.len() != b.serial.len() {
        let text = format!(
            "\"{}\" has {} serial lines and \"{}\" {}: line 1 joins the first two devices, line 2 the second two, and \
             so on",
            a.name,
            a.serial.len(),
            b.name,
            b.serial.len()
        );
        reader.problem_at(&place, text);
    }
    for (one, two) in a.serial.iter().zip(&b.serial).filter(|(one, two)| one.baud != two.baud) {
        reader.problem_at(&place, format!("{one} and {two} are the ends of one line and have two speeds"));
    }
}

#[cfg(test)]
mod tests {
    use crate::base::SerialLine;
    use crate::config::Config;

    const GOOD: &str = "[cluster]\nname = \"x\"\narbitration = \"manual\"\n\
        [node.alpha]\naddresses = [\"10.0.0.1\"]\nserial = [\"/dev/ttyS0@115200\", \"/dev/ttyUSB0@9600\"]\n\
        [node.beta]\naddresses = [\"10.0.0.2\"]\nserial = [\"/dev/ttyS1@115200\", \"/dev/ttyS0@9600\"]\n\
        [volume.mail]\nimage = \"/var/lib/mail.img\"\nsize = \"1G\"\nmount = \"/srv/mail\"\n";

    fn problems(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Config::parse(&GOOD.replacen(from, to, 1)).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn lines_are_read_written_and_part_of_what_a_file_means() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.nodes[0].serial[1], SerialLine { device: "/dev/ttyUSB0".into(), baud: 9_600 });
        assert_eq!(config.nodes[1].ends(), ["10.0.0.2:8790", "/dev/ttyS1@115200", "/dev/ttyS0@9600"]);
        assert_eq!(Config::parse(&config.render()).unwrap(), config);
        let none = GOOD.replace("serial", "# serial");
        let none = Config::parse(&none).unwrap();
        assert_ne!(none.hash(), config.hash());
        assert_eq!(Config::parse(&none.render()).unwrap().hash(), none.hash(), "no line is nothing said");
    }

    #[test]
    fn what_makes_no_line_is_refused_with_its_reason() {
        let refused = |from: &str, to: &str, why: &str| {
            let text = problems(from, to);
            assert!(text.contains(why), "{from} -> {to}: {text:?}");
        };
        refused("/dev/ttyS0@115200", "/dev/ttyS0", "must be DEVICE@BAUD, such as \"/dev/ttyS0@115200\"");
        refused("/dev/ttyS0@115200", "ttyS0@115200", "must be an absolute path");
        refused("/dev/ttyS0@115200", "/dev/ttyS0@4800", "4800 is no speed that is known here: 9600, 19200");
        refused("/dev/ttyS0@115200", "/dev/ttyS0@fast", "fast is no speed that is known here");
        refused("/dev/ttyUSB0@9600", "/dev/ttyS0@9600", "/dev/ttyS0 is used twice");
        refused("/dev/ttyUSB0@9600", "/dev/ttyUSB0@19200", "are the ends of one line and have two speeds");
        refused(", \"/dev/ttyUSB0@9600\"", "", "\"alpha\" has 1 serial lines and \"beta\" 2");
        let five = (0..5).map(|n| format!("\"/dev/ttyS{n}@115200\"")).collect::<Vec<_>>().join(", ");
        refused("\"/dev/ttyS0@115200\", \"/dev/ttyUSB0@9600\"", &five, "more than 4 serial lines");
        let many: String = (0..30)
            .map(|n| {
                format!("[volume.v{n}]\nimage = \"/var/lib/{n}\"\nsize = \"1G\"\nmount = \"/srv/{n}\"\n")
            })
            .collect();
        let slow = problems("[volume.mail]", &format!("{many}[volume.mail]"));
        assert!(slow.contains("/dev/ttyUSB0@9600 is too slow: the heartbeats of 31 volumes take"), "{slow}");
        assert!(!slow.contains("115200 is too slow"), "{slow}");
    }

    #[test]
    fn a_serial_line_is_an_independent_link() {
        let text = GOOD.replace(
            "\"manual\"",
            "\"deadtime\"\ni_accept_split_brain = \"yes, losing writes go to salvage\"",
        );
        let text = text.replace("[node.alpha]", "after_split_brain = \"manual\"\n[node.alpha]");
        Config::parse(&text).unwrap();
        let bare = text.replace("serial", "# serial");
        assert!(Config::parse(&bare).unwrap_err().to_string().contains("needs at least 2 independent links"));
    }
}
