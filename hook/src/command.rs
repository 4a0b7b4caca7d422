//! The command line of an OCI runtime, as containerd's shim, podman and people write it. Only what
//! we need is read; what we pass on is always the arguments as they came.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Global flags of runc and crun that take a value.
const GLOBAL_VALUES: [&str; 7] =
    ["root", "log", "log-format", "log-level", "criu", "rootless", "cgroup-manager"];
/// Flags of create, run and restore that take a value.
const CREATE_VALUES: [&str; 14] = [
    "pidfd-socket",
    "bundle",
    "b",
    "console-socket",
    "pid-file",
    "preserve-fds",
    "image-path",
    "work-path",
    "parent-path",
    "page-server",
    "manage-cgroups-mode",
    "empty-ns",
    "lsm-profile",
    "lsm-mount-context",
];

/// How the runtime writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// logfmt.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What was asked of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// `create`, `start`, ...; empty where there is none (`--version`).
    pub verb: String,
    /// The file that containerd reads a failure from.
    pub log: Option<PathBuf>,
    /// How it reads it.
    pub log_format: LogFormat,
    /// `--bundle`; the working folder where it is not given.
    pub bundle: Option<PathBuf>,
    /// The container's id.
    pub id: Option<String>,
}

impl Command {
    /// Whether it makes a container, so that its spec counts.
    pub fn makes_container(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "run" | "restore")
    }
}

/// A flag's name and, where it stands in the same argument, its value.
fn flag(arg: &OsStr) -> Option<(String, Option<String>)> {
    let text = arg.to_string_lossy();
    let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    if name.is_empty() {
        return None;
    }
    Some(match name.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (name.to_owned(), None),
    })
}

/// Reads the arguments after the program's name.
pub fn parse(args: &[OsString]) -> Command {
    let mut command = Command::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        // After it there are no flags any more; what follows is read as words all the same.
        if arg == "--" {
            continue;
        }
        let Some((name, mut value)) = flag(arg) else {
            let word = arg.to_string_lossy().into_owned();
            if command.verb.is_empty() {
                command.verb = word;
                continue;
            }
            command.id = Some(word);
            break;
        };
        let takes_value = if command.verb.is_empty() {
            GLOBAL_VALUES.contains(&name.as_str())
        } else {
            CREATE_VALUES.contains(&name.as_str())
        };
        if takes_value && value.is_none() {
            value = rest.next().map(|v| v.to_string_lossy().into_owned());
        }
        match (name.as_str(), value) {
            ("log", Some(path)) => command.log = Some(path.into()),
            ("log-format", Some(format)) if format == "json" => {
                command.log_format = LogFormat::Json
            }
            ("bundle" | "b", Some(path)) => command.bundle = Some(path.into()),
            _ => {}
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Command {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn reads_what_containerds_shim_writes() {
        let got = read(
            "--root /run/r/moby --log /b/log.json --log-format json --systemd-cgroup create \
             --bundle /b --pid-file /b/init.pid --console-socket /s abc",
        );
        assert_eq!((got.verb.as_str(), got.id.as_deref()), ("create", Some("abc")));
        assert_eq!(got.bundle, Some("/b".into()));
        assert_eq!((got.log, got.log_format), (Some("/b/log.json".into()), LogFormat::Json));
    }

    #[test]
    fn reads_values_behind_an_equals_sign_and_short_flags() {
        let got = read("--log=/l run -b /b --detach id");
        assert_eq!((got.verb.as_str(), got.id.as_deref()), ("run", Some("id")));
        assert_eq!((got.bundle, got.log), (Some("/b".into()), Some("/l".into())));
    }

    #[test]
    fn a_container_may_be_named_like_a_verb() {
        assert_eq!(read("create --bundle /b create").id.as_deref(), Some("create"));
        assert_eq!(read("--root create delete x").verb, "delete");
    }

    #[test]
    fn the_id_of_a_restore_is_not_a_flags_value() {
        let got = read(
            "--root /r restore --image-path /i --work-path /w --lsm-mount-context c --bundle /b \
             --detach --pid-file /p --manage-cgroups-mode soft id",
        );
        assert!(got.makes_container());
        assert_eq!((got.bundle, got.id.as_deref()), (Some("/b".into()), Some("id")));
        assert_eq!(read("run -b /b -- id").id.as_deref(), Some("id"));
    }

    #[test]
    fn no_verb_at_all() {
        assert_eq!(read("--version"), Command::default());
    }
}
