//! What may stand at the end of a command line. Pure: it knows the words of the program, and nothing of
//! what there is on the node.

use clap::{Arg, Command, CommandFactory as _};

use super::Proposal;
use crate::commands::{Words, filters, switches};

/// What may stand in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing that could be known.
    Nothing,
    /// These.
    Words(Vec<Proposal>),
    /// Names of what there is.
    Names(Kind),
    /// A word of run, create, exec or logs, whose flags are Docker's.
    DockersWords {
        /// Which of them.
        command: String,
        /// Its words so far.
        words: Vec<String>,
        /// The flag whose value is meant, where the last word is `--flag=`.
        flag: Option<String>,
    },
}

/// Kinds of things with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Managed containers: all, or those that run, that do not, that are paused.
    Containers(State),
    /// Containers that docker made.
    Foreign,
    /// Versions of a container.
    Versions(String),
    /// What `--gpus` takes, for a new container or this one.
    Gpus(Option<String>),
    /// Images.
    Images,
    /// Volumes with a size.
    Volumes,
    /// Volumes that docker made.
    ForeignVolumes,
    /// Versions that a volume can go back to.
    VolumeVersions(String),
    /// A filter with its value, `KEY=VALUE`.
    FilterValue {
        /// The words of the command whose filter it is.
        of: Vec<String>,
        /// Its key.
        key: String,
    },
}

/// In what state a container must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Any,
    Running,
    Stopped,
    Paused,
}

fn is_dockers(command: &str) -> bool {
    matches!(command, "run" | "create" | "exec" | "logs")
}

/// What may stand in the place of `partial`, and which part of it is typed already.
pub(super) fn of<'a>(before: &[String], partial: &'a str) -> (Place, &'a str) {
    let mut root = Words::command();
    root.build();
    let mut command = &root;
    let mut path: Vec<&str> = Vec::new();
    let mut rest = before;
    while let Some((word, after)) = rest.split_first() {
        if word.starts_with('-') {
            break;
        }
        let Some(found) = command.find_subcommand(word) else { break };
        (command, rest) = (found, after);
        path.push(found.get_name());
        if is_dockers(found.get_name()) {
            break;
        }
    }
    match path.as_slice() {
        [] if rest.is_empty() && !partial.starts_with('-') => {
            return (Place::Words(commands(command)), partial);
        }
        ["help", ..] => {
            let place = match before {
                [_] => Place::Words(commands(&root)),
                [_, word] => {
                    let of = root.find_subcommand(word);
                    of.map_or(Place::Nothing, |of| Place::Words(below(of)))
                }
                _ => Place::Nothing,
            };
            return (place, partial);
        }
        [dockers] if is_dockers(dockers) => {
            let inline = partial.split_once('=').filter(|_| partial.starts_with("--"));
            let (flag, typed) = match inline {
                Some((flag, value)) => (Some(flag.to_owned()), value),
                None => (None, partial),
            };
            let (command, words) = ((*dockers).into(), rest.to_vec());
            return (Place::DockersWords { command, words, flag }, typed);
        }
        ["volume"] if rest.is_empty() && !partial.starts_with('-') => {
            return (Place::Words(below(command)), partial);
        }
        [] | ["volume"] if !partial.starts_with('-') => return (Place::Nothing, partial),
        _ => {}
    }
    if let Some((flag, value)) = partial.split_once('=').filter(|_| partial.starts_with("--"))
        && let Some(arg) = switches::flag(command, flag)
    {
        return value_of(&path, arg, value, &operands(command, rest));
    }
    if let Some(last) = rest.last()
        && let Some(arg) = switches::flag(command, last).filter(|arg| takes_value(arg))
    {
        return value_of(&path, arg, partial, &operands(command, rest));
    }
    if partial.starts_with('-') {
        return (Place::Words(flags(command, rest)), partial);
    }
    (operand(&path, &operands(command, rest)), partial)
}

/// Commands with what they do.
fn commands(command: &Command) -> Vec<Proposal> {
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    let about = |c: &Command| c.get_about().map(ToString::to_string).unwrap_or_default();
    shown.map(|c| (c.get_name().to_owned(), about(c))).collect()
}

/// Those below a command; its own `help` is `--help`.
fn below(command: &Command) -> Vec<Proposal> {
    commands(command).into_iter().filter(|(name, _)| name != "help").collect()
}

/// What `--restart` may be.
pub(super) fn policies() -> Vec<Proposal> {
    proposals(&[
        ("no", "Never"),
        ("always", "Whenever it ends"),
        ("unless-stopped", "Whenever it ends, unless it was stopped by hand"),
        ("on-failure", "When it ends with an error"),
    ])
}

/// What `--pull` may be.
pub(super) fn pulls() -> Vec<Proposal> {
    proposals(&[
        ("always", "Before each container"),
        ("missing", "Where the image is not there"),
        ("never", "Not at all"),
    ])
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Flags with what they are for, without those that are there and stand only once.
fn flags(command: &Command, before: &[String]) -> Vec<Proposal> {
    let many = |arg: &Arg| matches!(arg.get_action(), clap::ArgAction::Append);
    let shown = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let named = shown.filter_map(|arg| {
        let name = format!("--{}", arg.get_long()?);
        let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let there = before.iter().any(|word| word.split('=').next() == Some(name.as_str()));
        (many(arg) || !there).then_some((name, about))
    });
    named.collect()
}

/// Words that are neither flags nor their values.
fn operands<'w>(command: &Command, words: &'w [String]) -> Vec<&'w str> {
    let mut found = Vec::new();
    let mut is_value = false;
    for word in words {
        if std::mem::take(&mut is_value) {
            continue;
        }
        if word.starts_with('-') && word.len() > 1 {
            let inline = word.starts_with("--") && word.contains('=');
            is_value = !inline && switches::flag(command, word).is_some_and(takes_value);
        } else {
            found.push(word.as_str());
        }
    }
    found
}

fn proposals(list: &[(&str, &str)]) -> Vec<Proposal> {
    let own = |(word, about): &(&str, &str)| ((*word).to_owned(), (*about).to_owned());
    list.iter().map(own).collect()
}

/// What may be a flag's value, beside these operands.
fn value_of<'a>(path: &[&str], arg: &Arg, typed: &'a str, operands: &[&str]) -> (Place, &'a str) {
    let name = arg.get_long().unwrap_or_default();
    let place = match (path.first().copied().unwrap_or_default(), name) {
        // A clone holds GPUs beside the first one.
        ("clone", "gpus") => Place::Names(Kind::Gpus(None)),
        (_, "gpus") => Place::Names(Kind::Gpus(operands.first().map(|&name| name.to_owned()))),
        ("volume", "backend") => Place::Words(proposals(&[
            ("size", "A limit of the filesystem"),
            ("image", "A filesystem in a file"),
        ])),
        (_, "image") => Place::Names(Kind::Images),
        (_, "format") if path.last() == Some(&"inspect") => {
            Place::Words(proposals(&[("json", "One object a line")]))
        }
        (_, "format") => Place::Words(proposals(&[
            ("table", "With a header, as without --format"),
            ("json", "One object a line"),
        ])),
        ("update", "restart") => Place::Words(policies()),
        (_, "filter") => match typed.split_once('=') {
            // Whole, since a shell knows of no part: `-f owner=r` is one word.
            Some((key, _)) => {
                let of = path.iter().map(|word| (*word).to_owned()).collect();
                Place::Names(Kind::FilterValue { of, key: key.to_owned() })
            }
            None => {
                let keys = filters::of_command(path).into_iter();
                Place::Words(
                    keys.map(|known| (format!("{}=", known.key), known.about.into())).collect(),
                )
            }
        },
        _ => {
            let listed = arg.get_possible_values();
            let about = |v: &clap::builder::PossibleValue| {
                v.get_help().map(ToString::to_string).unwrap_or_default()
            };
            match listed.is_empty() {
                true => Place::Nothing,
                false => Place::Words(
                    listed.iter().map(|v| (v.get_name().to_owned(), about(v))).collect(),
                ),
            }
        }
    };
    (place, typed)
}

/// What may stand after these operands.
fn operand(path: &[&str], before: &[&str]) -> Place {
    let command = match path {
        [command] => command,
        ["volume", command] => return volume_operand(command, before),
        _ => return Place::Nothing,
    };
    let containers = |state| Place::Names(Kind::Containers(state));
    match (*command, before) {
        ("start", _) => containers(State::Stopped),
        ("stop" | "pause", _) => containers(State::Running),
        ("unpause", _) => containers(State::Paused),
        ("restart" | "rm" | "inspect" | "prune", _)
        | (
            "scale" | "update" | "history" | "rename" | "commit" | "snapshot" | "clone" | "diff"
            | "rollback",
            [],
        ) => containers(State::Any),
        ("rollback", [name]) | ("diff", [name] | [name, _]) => {
            Place::Names(Kind::Versions((*name).to_owned()))
        }
        ("adopt", []) => Place::Names(Kind::Foreign),
        _ => Place::Nothing,
    }
}

/// The same below `volume`.
fn volume_operand(command: &str, before: &[&str]) -> Place {
    match (command, before) {
        ("inspect" | "rm", _) | ("resize" | "history" | "rollback", []) => {
            Place::Names(Kind::Volumes)
        }
        ("rollback", [name]) => Place::Names(Kind::VolumeVersions((*name).to_owned())),
        ("adopt", []) => Place::Names(Kind::ForeignVolumes),
        _ => Place::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_volume_its_volumes_are_meant_then_what_they_take() {
        for words in ["resize ", "resize --roll ", "rm ", "rm data ", "inspect a ", "history "] {
            let line = format!("volume {words}");
            assert_eq!(at(&line), Place::Names(Kind::Volumes), "{line}");
        }
        let versions = Kind::VolumeVersions("data".into());
        assert_eq!(at("volume rollback data "), Place::Names(versions));
        for words in ["ls ", "resize data ", "create ", "rollback data 1 ", "history data "] {
            assert_eq!(at(&format!("volume {words}")), Place::Nothing, "{words}");
        }
    }

    fn at(line: &str) -> Place {
        place(line).0
    }

    fn place(line: &str) -> (Place, String) {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let partial = words.pop().unwrap_or_default();
        let (place, typed) = of(&words, &partial);
        (place, typed.to_owned())
    }

    fn proposed(line: &str) -> Vec<String> {
        match at(line) {
            Place::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            Place::Nothing => Vec::new(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn commands_come_first_and_those_that_are_hidden_do_not() {
        let all = proposed("");
        for word in ["run", "scale", "volume", "doctor", "help"] {
            assert!(all.iter().any(|w| w == word), "{word}: {all:?}");
        }
        assert!(all.iter().all(|word| !word.starts_with('_')));
        assert!(proposed("volume ").contains(&"resize".to_owned()));
        assert!(proposed("help sc").contains(&"scale".to_owned()));
        // Each of these is a command.
        assert!(proposed("help volume ").contains(&"resize".to_owned()));
        assert!(!proposed("help volume ").contains(&"scale".to_owned()));
        assert!(!proposed("volume ").contains(&"help".to_owned()));
        assert!(proposed("help volume resize ").is_empty() && proposed("help stop ").is_empty());
        assert_eq!(at("nonsense x"), Place::Nothing);
    }

    #[test]
    fn operands_are_names_of_what_the_command_takes() {
        let containers = |state| Place::Names(Kind::Containers(state));
        assert_eq!(at("stop "), containers(State::Running));
        assert_eq!(at("stop a b"), containers(State::Running));
        assert_eq!(at("start -"), at("start --"));
        assert_eq!(at("start x"), containers(State::Stopped));
        assert_eq!(at("stop -t 3 a"), containers(State::Running));
        assert_eq!(at("scale "), containers(State::Any));
        assert_eq!(at("scale a "), Place::Nothing);
        let versions = || Place::Names(Kind::Versions("train".into()));
        assert_eq!(at("rollback train "), versions());
        assert_eq!(at("rollback --timeout 3 train "), versions());
        assert_eq!(at("rollback --timeout=3 train "), versions());
        assert_eq!(at("diff train 1 "), versions());
        assert_eq!(at("diff train 1 2 "), Place::Nothing);
        assert_eq!(at("adopt "), Place::Names(Kind::Foreign));
        assert_eq!(at("rename a "), Place::Nothing);
        let dockers = |flag: Option<&str>| Place::DockersWords {
            command: "run".into(),
            words: vec!["-it".into()],
            flag: flag.map(str::to_owned),
        };
        assert_eq!(at("run -it "), dockers(None));
        assert_eq!(place("run -it --gpus=de"), (dockers(Some("--gpus")), "de".into()));
    }

    #[test]
    fn flags_and_their_values_are_told_apart() {
        let flags = proposed("scale a --");
        assert!(flags.contains(&"--gpus".to_owned()) && flags.contains(&"--dry-run".to_owned()));
        assert!(!proposed("scale a --dry-run --").contains(&"--dry-run".to_owned()));
        assert!(proposed("update a -e X=1 --").contains(&"--env".to_owned()), "it stands often");
        let own = || Place::Names(Kind::Gpus(Some("a".into())));
        assert_eq!(at("scale a --gpus "), own());
        assert_eq!(at("clone a b --gpus "), Place::Names(Kind::Gpus(None)));
        assert_eq!(place("scale a --gpus=de"), (own(), "de".into()));
        assert_eq!(proposed("ps --format "), ["table", "json"]);
        assert_eq!(
            proposed("update a --restart "),
            ["no", "always", "unless-stopped", "on-failure"]
        );
        assert!(proposed("ps --filter ").contains(&"owner=".to_owned()));
        assert!(proposed("events -f ").contains(&"decision=".to_owned()));
        let of = |of: &[&str], key: &str| {
            let of = of.iter().map(|word| (*word).to_owned()).collect();
            Place::Names(Kind::FilterValue { of, key: key.to_owned() })
        };
        let value = of(&["events"], "container");
        assert_eq!(place("events -f container=tr"), (value, "container=tr".into()));
        let value = of(&["volume", "ls"], "name");
        assert_eq!(place("volume ls --filter=name=d"), (value, "name=d".into()));
        assert_eq!(proposed("inspect --format "), ["json"]);
        assert_eq!(proposed("volume inspect --format="), ["json"]);
        assert_eq!(at("stop -t "), Place::Nothing);
    }
}
