//! Whether processors are kept from sleeping while somebody waits for them.

/// The words of the option `keep_awake`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAwake {
    /// In bursts of requests, on a machine with at most 8 processors.
    #[default]
    Auto,
    /// In bursts of requests.
    On,
    /// Never.
    Off,
}

impl KeepAwake {
    pub const WORDS: &'static [&'static str] = &["auto", "on", "off"];

    pub fn parse(word: &str) -> Option<KeepAwake> {
        Some(match word {
            "auto" => KeepAwake::Auto,
            "on" => KeepAwake::On,
            "off" => KeepAwake::Off,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            KeepAwake::Auto => "auto",
            KeepAwake::On => "on",
            KeepAwake::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for word in KeepAwake::WORDS {
            assert_eq!(KeepAwake::parse(word).map(KeepAwake::as_str), Some(*word));
        }
        assert_eq!((KeepAwake::parse("no"), KeepAwake::default().as_str()), (None, "auto"));
    }
}
