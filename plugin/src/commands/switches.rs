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
            Some((switch, false)) => kept.retain(|one| !names(switch).contains(one)),
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

fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let mut all = command.get_arguments();
    match word.strip_prefix("--") {
        Some(long) => all.find(|arg| {
            arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|a| a.contains(&long))
        }),
        None => {
            let letter = word.strip_prefix('-')?.chars().last()?;
            all.find(|arg| arg.get_short() == Some(letter))
        }
    }
}

/// A switch with what it is set to.
fn valued<'c>(command: &'c Command, word: &str) -> Option<(&'c Arg, bool)> {
    let (name, value) = word.split_once('=')?;
    let switch =
        flag(command, name).filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))?;
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
        assert_eq!(read("rm -f=true train"), "rm -f train");
        assert_eq!(read("volume rm --force=true data"), "volume rm --force data");
        // No switches, no words that mean anything, and what another flag is given.
        assert_eq!(read("ps --all=maybe --filter=name=x"), "ps --all=maybe --filter=name=x");
        assert_eq!(read("ps --filter --all=true"), "ps --filter --all=true");
        assert_eq!(read("commit -m --pause=true x"), "commit -m --pause=true x");
        assert_eq!(read("rm -- --force=true"), "rm -- --force=true");
        assert_eq!(read("frobnicate --all=true"), "frobnicate --all=true");
    }
}
