//! Switches that are given a value, as the Docker CLI takes them: `--all=true`, `-f=false`. clap knows none
//! for a switch.

use clap::{Arg, ArgAction, Command};

/// The words without values of switches: of those that are true the switch, of those that are false nothing.
/// What is neither stays, for clap to refuse. Pure.
pub(super) fn plain(root: &Command, words: &[String]) -> Vec<String> {
    let mut command = root;
    let mut kept: Vec<String> = Vec::new();
    let mut rest = words.iter();
    let mut is_value = false;
    for word in rest.by_ref() {
        if std::mem::take(&mut is_value) || !word.starts_with('-') || word.len() == 1 {
            if let Some(below) = command.find_subcommand(word) {
                command = below;
            }
            kept.push(word.clone());
            continue;
        }
        if word == "--" {
            kept.push(word.clone());
            break;
        }
        match valued(command, word) {
            // The last one counts.
            Some((switch, false)) => {
                kept.retain(|one| !names(switch).contains(one));
                kept.extend(others(word));
            }
            Some((_, true)) => {
                kept.extend(word.split_once('=').map(|(switch, _)| switch.to_owned()));
            }
            None => {
                is_value = !word.contains('=') && takes_next(command, word);
                kept.push(word.clone());
            }
        }
    }
    kept.extend(rest.cloned());
    kept
}

/// What a word sets, or the last letter of one like `-qa`; nothing where a letter before takes the rest.
pub(super) fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let all = || command.get_arguments();
    if let Some(long) = word.strip_prefix("--") {
        return all().find(|arg| {
            arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|a| a.contains(&long))
        });
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let last = letters.next_back()?;
    let short = |letter| all().find(|arg| arg.get_short() == Some(letter));
    letters.all(|letter| short(letter).is_some_and(is_switch)).then(|| short(last))?
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// A switch with what it is set to.
fn valued<'c>(command: &'c Command, word: &str) -> Option<(&'c Arg, bool)> {
    let (name, value) = word.split_once('=')?;
    let switch = flag(command, name).filter(|arg| is_switch(arg))?;
    // As Go reads them.
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some((switch, true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some((switch, false)),
        _ => None,
    }
}

fn takes_next(command: &Command, word: &str) -> bool {
    flag(command, word).is_some_and(|arg| arg.get_action().takes_values())
}

/// The switches of `-qa=false` that it is not about.
fn others(word: &str) -> Option<String> {
    let (name, _) = word.split_once('=')?;
    let mut letters = name.chars();
    letters.next_back();
    let others = letters.as_str();
    (!name.starts_with("--") && others.len() > 1).then(|| others.to_owned())
}

/// How a switch is written.
fn names(switch: &Arg) -> Vec<String> {
    let long = switch.get_long().map(|long| format!("--{long}"));
    let short = switch.get_short().map(|short| format!("-{short}"));
    long.into_iter().chain(short).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::commands::Words;

    #[test]
    fn a_switch_may_be_given_a_value() {
        let read = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            plain(&Words::command(), &words).join(" ")
        };
        assert_eq!(read("ps --all=true"), "ps --all");
        assert_eq!(read("ps -a=1 -q"), "ps -a -q");
        assert_eq!(read("ps -qa=T"), "ps -qa");
        assert_eq!(read("ps --all --all=false -q"), "ps -q");
        assert_eq!(read("ps -a=false --all"), "ps --all");
        assert_eq!(read("ps -qa=false"), "ps -q");
        assert_eq!(read("rm -f=true train"), "rm -f train");
        assert_eq!(read("volume rm --force=true data"), "volume rm --force data");
        // No switches, no words that mean anything, and what another flag is given.
        assert_eq!(read("ps --all=maybe --filter=name=x"), "ps --all=maybe --filter=name=x");
        assert_eq!(read("ps --filter --all=true"), "ps --filter --all=true");
        assert_eq!(read("commit -m --pause=true x"), "commit -m --pause=true x");
        assert_eq!(read("ps -fa=true -q"), "ps -fa=true -q", "a filter");
        assert_eq!(read("rm -- --force=true"), "rm -- --force=true");
        assert_eq!(read("frobnicate --all=true"), "frobnicate --all=true");
    }
}
