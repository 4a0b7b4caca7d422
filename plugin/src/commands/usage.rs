//! Wrong usage: what clap says of it, in our form, with what was likely meant.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{WRONG_FLAG, Words, command, help, near};
use crate::engine::api::Failure;

/// Words for what other tools call otherwise, and what it is here.
const OTHER_WORDS: [(&str, &str); 12] = [
    ("delete", "rm"),
    ("del", "rm"),
    ("list", "ps"),
    ("ls", "ps"),
    ("status", "ps"),
    ("grow", "resize"),
    ("shell", "exec"),
    ("copy", "clone"),
    ("save", "commit"),
    ("undo", "rollback"),
    ("check", "doctor"),
    ("install", "setup"),
];
/// Commands of Docker's on containers that need none of ours: they take the name that Docker has.
const DOCKERS: [&str; 7] = ["attach", "cp", "export", "kill", "port", "stats", "wait"];

/// The command that a word of another tool means.
fn other_word(at: &clap::Command, word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let (_, name) = OTHER_WORDS.iter().find(|(other, _)| *other == word)?;
    at.find_subcommand(name).map(|_| *name)
}

/// clap's words in our form.
pub(super) fn usage(error: &clap::Error, words: &[String]) -> Failure {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or("wrong usage");
    let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let extra =
        |l: &&str| !l.starts_with("For more information") && !l.trim_start().starts_with("tip:");
    // How it is written is no news to who has only slipped.
    let slipped = matches!(
        error.kind(),
        ErrorKind::InvalidSubcommand
            | ErrorKind::UnknownArgument
            | ErrorKind::MissingRequiredArgument
    );
    let lines = lines.filter(extra).filter(|_| !slipped);
    let details = lines.map(help::plain).collect();
    let path = path(words);
    let help =
        if path.is_empty() { "docker gpuctl".to_owned() } else { format!("docker gpuctl {path}") };
    let invalid = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    };
    let root = command();
    let at = path.split_whitespace().try_fold(&root, |c, name| c.find_subcommand(name));
    let meant = at.and_then(|at| match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = invalid(ContextKind::InvalidSubcommand)?;
            // Whoever means an old name gets it, but none is proposed for a slip of one that there is.
            let names = at.get_subcommands().flat_map(clap::Command::get_name_and_visible_aliases);
            let name = near::nearest(&word, names.chain(["help"])).or_else(|| {
                near::nearest(&word, at.get_subcommands().flat_map(clap::Command::get_all_aliases))
            });
            name.map(|name| format!("{help} {name}"))
                .or_else(|| other_word(at, &word).map(|name| format!("{help} {name}")))
                .or_else(|| {
                    let is_dockers = path.is_empty() && DOCKERS.contains(&word.as_str());
                    is_dockers.then(|| {
                        format!(
                            "docker {word}, with the name that Docker has for it (NAME-VERSION)"
                        )
                    })
                })
        }
        ErrorKind::UnknownArgument => {
            let word = invalid(ContextKind::InvalidArg)?;
            if path == "scale" && word.parse::<u32>().is_ok() {
                return Some(format!("{help} --gpus {word}"));
            }
            let word = word.strip_prefix("--")?;
            let names = at.get_arguments().filter_map(|arg| arg.get_long());
            near::nearest(word, names.chain(["help"]).chain(path.is_empty().then_some("version")))
                .map(|name| format!("{help} --{name}"))
        }
        _ => None,
    });
    let message = match (error.kind(), invalid(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(word)) => format!("{help} has no command {word:?}"),
        (ErrorKind::UnknownArgument, _) => match invalid(ContextKind::InvalidArg) {
            Some(word) if word.starts_with('-') => format!("unknown flag: {word}"),
            Some(word) => format!("{help} takes no such argument: {word:?}"),
            None => message,
        },
        (ErrorKind::MissingRequiredArgument, _) => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(missing)) => {
                let missing: Vec<String> = missing.iter().map(|word| help::plain(word)).collect();
                format!("{help} requires {}", missing.join(" and "))
            }
            _ => message,
        },
        // The standard library's words.
        _ => bare(&message).replace("invalid digit found in string", "not a whole number"),
    };
    let whole = match (error.kind(), error.get(ContextKind::Usage)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::StyledStr(usage))) => {
            let usage = help::plain(&usage.to_string());
            usage.trim().strip_prefix("Usage:").map(|usage| usage.trim().to_owned())
        }
        _ => None,
    };
    let hint = match meant.map(|meant| format!("did you mean {meant}?")).or(whole) {
        Some(hint) if hint.ends_with('?') => format!("{hint} {help} --help shows all"),
        Some(usage) => format!("{usage}; {help} --help tells more"),
        None => format!("{help} --help"),
    };
    let failure = Failure::new(message).details(details).hint(hint);
    if is_of_a_flag(error) { failure.code(WRONG_FLAG) } else { failure }
}

/// A flag is wrong by itself: not that one is missing or goes with no other, nor that there are too few words
/// or too many. A template is read by Docker's commands themselves, not as a flag: its faults are no flag's.
fn is_of_a_flag(error: &clap::Error) -> bool {
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(about)) => {
            about.starts_with('-') && !about.starts_with("--format ")
        }
        _ => false,
    };
    let of_several = [ErrorKind::MissingRequiredArgument, ErrorKind::ArgumentConflict];
    about && !of_several.contains(&error.kind())
}

/// Flags by their names alone: `--format` for `'--format <FORMAT>'`.
fn bare(message: &str) -> String {
    let mut shown = String::new();
    let mut rest = message;
    while let Some((before, quoted)) = rest.split_once("'-") {
        let Some((flag, after)) = quoted.split_once('\'') else { break };
        let name = flag.split_once(" <").filter(|_| flag.ends_with('>'));
        shown.push_str(before);
        match name {
            Some((name, _)) => shown.push_str(&format!("-{name}")),
            None => shown.push_str(&format!("'-{flag}'")),
        }
        rest = after;
    }
    shown + rest
}

/// Those of the words that name a command.
fn path(words: &[String]) -> String {
    let root = Words::command();
    let mut at = &root;
    let mut path = Vec::new();
    for word in words {
        let Some(found) = at.find_subcommand(word) else { break };
        path.push(found.get_name());
        at = found;
    }
    path.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_slip_of_a_command_or_flag_is_put_right() {
        let hint = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let all = std::iter::once("docker gpuctl".to_owned()).chain(words.clone());
            let error = command().try_get_matches_from(all).unwrap_err();
            let failure = usage(&error, &words);
            assert!(failure.details.iter().all(|d| !d.starts_with("tip")), "{failure:?}");
            (failure.message, failure.hint.unwrap_or_default())
        };
        let (message, said) = hint("sacle train --gpus 2");
        assert_eq!(message, "docker gpuctl has no command \"sacle\"");
        assert!(said.starts_with("did you mean docker gpuctl scale? "), "{said}");
        let (message, said) = hint("scale train --gpu 2");
        assert_eq!(message, "unknown flag: --gpu");
        assert!(said.starts_with("did you mean docker gpuctl scale --gpus? "), "{said}");
        assert!(hint("volume crate data").1.contains("docker gpuctl volume create?"));
        assert!(hint("hlep").1.starts_with("did you mean docker gpuctl help? "));
        assert!(hint("contine").1.starts_with("did you mean docker gpuctl continue? "));
        // By other words, and with the shift key.
        assert!(hint("PS").1.starts_with("did you mean docker gpuctl ps? "));
        assert!(hint("--verison").1.starts_with("did you mean docker gpuctl --version? "));
        assert!(hint("ps --hlep").1.starts_with("did you mean docker gpuctl ps --help? "));
        assert!(hint("volume delete x").1.starts_with("did you mean docker gpuctl volume rm? "));
        assert!(hint("delete x").1.starts_with("did you mean docker gpuctl rm? "));
        assert!(hint("kill x").1.starts_with("did you mean docker kill, with the name "));
        let (_, said) = hint("scale train 2");
        assert!(said.starts_with("did you mean docker gpuctl scale --gpus 2? "), "{said}");
        assert_eq!(hint("frobnicate").1, "docker gpuctl --help");
        assert_eq!(hint("ps --frobnicate").1, "docker gpuctl ps --help");
        assert!(hint("ps --al").1.starts_with("did you mean docker gpuctl ps --all? "));
        // What is missing, or too much, in one line each.
        let both = |line| {
            let (message, said) = hint(line);
            format!("{message}\n{said}")
        };
        assert_eq!(
            both("scale train"),
            "docker gpuctl scale requires --gpus N\n\
             docker gpuctl scale --gpus N NAME; docker gpuctl scale --help tells more"
        );
        assert_eq!(
            both("rm"),
            "docker gpuctl rm requires NAMES...\n\
             docker gpuctl rm NAMES...; docker gpuctl rm --help tells more"
        );
        assert_eq!(
            both("ps extra"),
            "docker gpuctl ps takes no such argument: \"extra\"\ndocker gpuctl ps --help"
        );
        assert!(
            both("stop -t x a").starts_with("invalid value 'x' for --timeout: not a whole number")
        );
    }

    #[test]
    fn usage_errors_read_as_others_do() {
        let error = Words::try_parse_from(["docker gpuctl", "scale", "a"]).unwrap_err();
        let words = ["scale".to_owned(), "a".to_owned()];
        let failure = usage(&error, &words);
        let hint = failure.hint.as_deref().unwrap_or_default();
        assert!(hint.ends_with("docker gpuctl scale --help tells more"), "{failure:?}");
        assert!(!failure.message.starts_with("error:"), "{failure:?}");
        assert!(failure.details.is_empty(), "{failure:?}");
    }
}
