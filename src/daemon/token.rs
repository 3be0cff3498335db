//! The token that admits one machine in the place of one that was replaced.
//!
//! Decides whether a machine that shows a token is admitted. Does not know how it asks, nor what it becomes.
//! Invariants: a token admits one machine, known by the claim that it drew before it asked, as often as that machine
//! asks until the token expires; a new token ends the one before; what is kept of it, on disk, does not tell it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::Span;
use crate::services::adopt::{read_json, write_json};
use crate::sys::random;

/// What every token begins with.
pub const TAG: &str = "twinfs-join-1:";
/// Longest time a token may be good for.
pub const EXPIRES_MAX: Span = Span::from_secs(30 * 24 * 3600);

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The node whose place is free, as the configuration calls it.
    node: String,
    hash: String,
    expires_unix_ms: u64,
    /// Drawn by the machine that used it.
    claim: Option<String>,
}

/// The newest token of this node.
pub struct Tokens {
    path: PathBuf,
    /// One change at a time.
    turn: Mutex<()>,
}

fn hash(token: &str, node: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("twinfs 2026-11 join token");
    hasher.update(node.as_bytes());
    hasher.update(&[0]);
    hasher.update(token.as_bytes());
    hasher.finalize().to_hex().to_string()
}

impl Tokens {
    pub fn of(state_dir: &Path) -> Tokens {
        Tokens { path: state_dir.join("token.json"), turn: Mutex::new(()) }
    }

    /// A new token for the place of `node`, good for `span` from `unix_ms` on; stable on return.
    pub fn issue(&self, node: &str, unix_ms: u64, span: Span) -> Result<String, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("{TAG}{:032x}", random::id128());
        let kept = Kept {
            node: node.to_string(),
            hash: hash(&token, node),
            expires_unix_ms: unix_ms.saturating_add(span.as_millis()),
            claim: None,
        };
        write_json(&self.path, &kept)?;
        Ok(token)
    }

    /// Whether a machine that wants to be `node` has to show a token that nobody has used yet.
    pub fn is_wanted(&self, node: &str, unix_ms: u64) -> bool {
        let kept: Option<Kept> = read_json(&self.path).ok().flatten();
        kept.is_some_and(|kept| kept.node == node && kept.claim.is_none() && unix_ms < kept.expires_unix_ms)
    }

    /// Uses the token, stable on return; `Ok(true)`: by a machine that had not used it before. The error is a sentence
    /// for whoever shows it.
    pub fn redeem(&self, token: &str, claim: &str, node: &str, unix_ms: u64) -> Result<bool, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Option<Kept> = read_json(&self.path)?;
        let Some(kept) = kept.filter(|kept| kept.hash == hash(token, node)) else {
            return Err("this is not the newest token that was given out for this node".to_string());
        };
        if unix_ms >= kept.expires_unix_ms {
            return Err("this token has expired".to_string());
        }
        match &kept.claim {
            Some(earlier) if earlier == claim => Ok(false),
            Some(_) => Err("this token was used already, by another machine".to_string()),
            None => {
                write_json(&self.path, &Kept { claim: Some(claim.to_string()), ..kept })?;
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "writes a file")]
mod tests {
    use super::*;

    fn bed(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("twinfs-token-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_token_admits_one_machine_until_it_expires_and_over_restarts() {
        let dir = bed("one");
        let tokens = Tokens::of(&dir);
        assert!(!tokens.is_wanted("beta", 0));
        assert!(tokens.redeem("twinfs-join-1:00", "x", "beta", 0).unwrap_err().contains("newest"));
        let token = tokens.issue("beta", 1_000, Span::from_millis(500)).unwrap();
        assert!(tokens.is_wanted("beta", 1_499) && !tokens.is_wanted("alpha", 1_499));
        let file = std::fs::read_to_string(dir.join("token.json")).unwrap();
        assert!(!file.contains(token.trim_start_matches(TAG)), "the file tells the token");
        // Another node's, a wrong one, an expired one.
        assert!(tokens.redeem(&token, "x", "alpha", 1_100).is_err());
        assert!(tokens.redeem(&format!("{token}0"), "x", "beta", 1_100).is_err());
        assert!(tokens.redeem(&token, "x", "beta", 1_500).unwrap_err().contains("expired"));

        assert_eq!(tokens.redeem(&token, "x", "beta", 1_100), Ok(true));
        let again = Tokens::of(&dir);
        assert!(!again.is_wanted("beta", 1_200), "used, and wanted still");
        assert_eq!(again.redeem(&token, "x", "beta", 1_200), Ok(false), "cut off, and asked again");
        assert!(again.redeem(&token, "y", "beta", 1_200).unwrap_err().contains("used already"));
        assert!(again.redeem(&token, "x", "beta", 1_500).unwrap_err().contains("expired"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_new_token_ends_the_one_before_used_or_not() {
        let dir = bed("two");
        let tokens = Tokens::of(&dir);
        let day = Span::from_secs(86_400);
        let first = tokens.issue("beta", 0, day).unwrap();
        assert_eq!(tokens.redeem(&first, "x", "beta", 1), Ok(true));
        let second = tokens.issue("beta", 2, day).unwrap();
        assert_ne!(first, second);
        assert!(tokens.redeem(&first, "x", "beta", 3).unwrap_err().contains("newest"));
        assert_eq!(tokens.redeem(&second, "y", "beta", 3), Ok(true));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_that_makes_no_sense_admits_nobody() {
        let dir = bed("bad");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("token.json"), "{\"node\":").unwrap();
        let tokens = Tokens::of(&dir);
        assert!(tokens.redeem("twinfs-join-1:00", "x", "beta", 0).is_err() && !tokens.is_wanted("beta", 0));
        let token = tokens.issue("beta", 0, Span::from_secs(1)).unwrap();
        assert_eq!(tokens.redeem(&token, "x", "beta", 1), Ok(true), "a new one makes it whole");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
