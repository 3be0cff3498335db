//! Calls fence agents the way the Linux clusters do: options as `key=value` lines on standard input, one of them
//! `action`, and an exit code.
//!
//! Decides what an exit means. Does not know why a machine is to be stopped. Invariants: a program that others could
//! change is not run; secrets reach it through its standard input alone; what does not end in time is killed with its
//! whole process group and is no success.
#![allow(clippy::disallowed_methods, reason = "a shell: processes")]

use std::path::Path;

use crate::base::Span;
use crate::config::FenceAgent;
use crate::sys::exec::{self, End, Outcome, Program};
use crate::sys::secret;

/// The environment variable that marks the processes of a request, so that a later daemon finds them.
pub const MARK: &str = "TWINFS_FENCE";

/// What an agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Exit code 0: what was asked for is so, and was seen to be so.
    Yes,
    No(String),
    /// It did not come to an end of its own.
    Nothing(String),
}

/// Runs `agent` with `action` (`off`, `reboot`, `status`, `monitor`). Blocks, for `limit` and a moment at most.
pub fn call(agent: &FenceAgent, action: &str, mark: &str, limit: Span) -> Said {
    let env = vec![(MARK.to_string(), mark.to_string())];
    let ran = input(agent, action).and_then(|input| run_trusted(&agent.argv, &[], env, &input, limit));
    match ran {
        Err(why) => Said::No(why),
        Ok(ran) => match ran.end {
            End::Exit(0) => Said::Yes,
            End::Exit(_) => Said::No(ran.describe()),
            End::Signal(_) | End::TimedOut => Said::Nothing(ran.describe()),
        },
    }
}

/// Runs the program `argv[0]` with the rest of `argv` and `more` as its arguments, `env` beside the fixed environment
/// and `input` to read. Blocks, for `limit` and a moment at most. The error says why it was not run: it is missing, or
/// somebody else could change it.
pub fn run_trusted(
    argv: &[String],
    more: &[String],
    env: Vec<(String, String)>,
    input: &str,
    limit: Span,
) -> Result<Outcome, String> {
    let (path, args) = argv.split_first().ok_or("no program")?;
    exec::check_trusted(Path::new(path))?;
    let args = args.iter().chain(more).cloned().collect();
    let program = Program { path: path.into(), args, env, timeout: limit.as_duration() };
    exec::run_fed(&program, input.as_bytes()).map_err(|error| error.to_string())
}

/// What the agent reads.
fn input(agent: &FenceAgent, action: &str) -> Result<String, String> {
    let mut lines = format!("action={action}\n");
    for option in &agent.options {
        lines.push_str(option);
        lines.push('\n');
    }
    if let Some(file) = &agent.secrets {
        let text = secret::read(file).map_err(|error| error.to_string())?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let key = line.split_once('=').map(|(key, _)| key.trim());
            match key {
                None => return Err(format!("{}: a line is not key=value", file.display())),
                Some("action" | "option") => {
                    return Err(format!(
                        "{}: what an agent does is no secret: remove \"action\"",
                        file.display()
                    ));
                }
                Some(_) => {}
            }
            lines.push_str(line);
            lines.push('\n');
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::base::NodeId;
    use crate::config::FenceAction;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("twinfs-agent-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn agent(dir: &Path, script: &str) -> FenceAgent {
        let path = dir.join("agent");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        FenceAgent {
            name: "test".into(),
            target: NodeId::B,
            level: 1,
            argv: vec![path.display().to_string(), "--verbose".into()],
            options: vec!["ip=192.0.2.9".into()],
            secrets: None,
            action: FenceAction::Reboot,
        }
    }

    #[test]
    fn an_agent_reads_its_options_and_secrets_and_nobody_sees_them_in_its_arguments() {
        let dir = dir("input");
        let out = dir.join("seen");
        let mut agent = agent(&dir, &format!("cat > {0}; echo \"$@\" >> {0}; env >> {0}", out.display()));
        let secrets = dir.join("secrets");
        std::fs::write(&secrets, "# the board\npassword=hush\n\n").unwrap();
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
        agent.secrets = Some(secrets.clone());
        assert_eq!(call(&agent, "reboot", "m1", Span::from_secs(5)), Said::Yes);
        let seen = std::fs::read_to_string(&out).unwrap();
        assert!(seen.starts_with("action=reboot\nip=192.0.2.9\npassword=hush\n--verbose\n"), "{seen}");
        assert!(seen.contains("TWINFS_FENCE=m1") && seen.matches("hush").count() == 1, "{seen}");
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = call(&agent, "reboot", "m1", Span::from_secs(5));
        assert!(matches!(&told, Said::No(why) if why.contains("chmod 0600")), "{told:?}");
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&secrets, "action=on\n").unwrap();
        assert!(matches!(call(&agent, "off", "m1", Span::from_secs(5)), Said::No(_)));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_exit_code_0_is_success_and_silence_is_told_from_failure() {
        let dir = dir("exit");
        let said = |script: &str| call(&agent(&dir, script), "off", "m2", Span::from_millis(300));
        assert_eq!(said("exit 0"), Said::Yes);
        assert!(
            matches!(said("echo cannot log in >&2; exit 1"), Said::No(why) if why.contains("cannot log in"))
        );
        assert!(matches!(said("exit 2"), Said::No(_)), "2 means off for status, and failure for off");
        assert!(matches!(said("kill -9 $$"), Said::Nothing(_)));
        assert!(matches!(said("sleep 20"), Said::Nothing(_)));
        let mut gone = agent(&dir, "exit 0");
        gone.argv[0] = "/no/such/agent".into();
        assert!(matches!(call(&gone, "off", "m2", Span::from_secs(1)), Said::No(_)));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn an_agent_that_others_could_change_is_not_run() {
        let dir = dir("trust");
        let agent = agent(&dir, &format!("touch {}", dir.join("ran").display()));
        let path = Path::new(&agent.argv[0]);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            matches!(call(&agent, "off", "m3", Span::from_secs(1)), Said::No(why) if why.contains("go-w"))
        );
        assert!(!dir.join("ran").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
