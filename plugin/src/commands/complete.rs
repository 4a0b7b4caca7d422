//! Shell completion: the names of commands, and of containers and volumes where one is meant.

use gpuctl_ledger::model::ByteSize;

use super::Session;
use crate::client::argv::Globals;
use crate::engine::api::{Answer, Request, VolumeAnswer, VolumeRequest};
use crate::ui;

/// To the shell: no file names.
const NO_FILES: &str = ":4";

/// Answers for the last of the words. Whatever fails gives no proposals and no message.
pub fn complete(words: &[String], described: bool) {
    let (partial, before) = match words.split_last() {
        Some((partial, before)) => (partial.as_str(), before),
        None => ("", [].as_slice()),
    };
    let mut found = match before.first().map(String::as_str) {
        None | Some("help") => super::names(),
        Some(
            "start" | "stop" | "restart" | "rm" | "scale" | "inspect" | "history" | "exec" | "logs"
            | "pause" | "unpause" | "rename" | "commit" | "prune" | "snapshot" | "clone",
        ) if !partial.starts_with('-') => containers(),
        Some("volume") if !partial.starts_with('-') => match volume_word(before) {
            Word::Command => super::names_below("volume"),
            Word::Volume => volumes(),
            Word::VersionOf(name) => versions(name),
            Word::Backend => ["image", "size"].map(|b| (b.to_owned(), String::new())).into(),
            Word::Other => Vec::new(),
        },
        Some(_) => Vec::new(),
    };
    found.retain(|(name, _)| name.starts_with(partial) && !before.contains(name));
    ui::print(&answer(&found, described));
}

/// The proposals, and what the shell is to do besides.
fn answer(found: &[(String, String)], described: bool) -> String {
    let about = |text| if described { text } else { "" };
    let lines = found.iter().map(|(name, text)| proposal(name, about(text.as_str())));
    lines.chain([NO_FILES.to_owned()]).collect()
}

/// `value<TAB>description`, one a line.
fn proposal(name: &str, about: &str) -> String {
    let (name, about) = (ui::visible(name), ui::visible(about));
    if about.is_empty() { format!("{name}\n") } else { format!("{name}\t{about}\n") }
}

fn containers() -> Vec<(String, String)> {
    let rows = Session::open(&Globals::default()).and_then(|s| s.look(Request::Ps { all: true }));
    match rows {
        Ok(Answer::Ps(rows)) => {
            let managed = rows.into_iter().filter(|r| r.version.is_some());
            managed.map(|r| (r.name.to_string(), r.status)).collect()
        }
        _ => Vec::new(),
    }
}

/// What is meant after `volume` and these words.
#[derive(Debug, PartialEq, Eq)]
enum Word<'a> {
    Command,
    Volume,
    VersionOf(&'a str),
    Backend,
    Other,
}

fn volume_word(before: &[String]) -> Word<'_> {
    let Some((command, rest)) = before.get(1..).and_then(<[String]>::split_first) else {
        return Word::Command;
    };
    if rest.last().is_some_and(|last| last == "--backend") {
        return Word::Backend;
    }
    let mut named = rest.iter().filter(|word| !word.starts_with('-'));
    match (command.as_str(), named.next()) {
        ("inspect" | "rm" | "remove", _) | ("resize" | "history" | "rollback", None) => {
            Word::Volume
        }
        ("rollback", Some(name)) if named.next().is_none() => Word::VersionOf(name),
        _ => Word::Other,
    }
}

fn ask(request: VolumeRequest) -> Option<VolumeAnswer> {
    let session = Session::open(&Globals::default()).ok()?;
    match session.look(Request::Volume(request)) {
        Ok(Answer::Volume(answer)) => Some(answer),
        _ => None,
    }
}

/// All volumes, and how large they are.
fn volumes() -> Vec<(String, String)> {
    let Some(VolumeAnswer::Rows(rows)) = ask(VolumeRequest::Ls) else { return Vec::new() };
    let size =
        |size: Option<ByteSize>| size.map_or_else(|| "no limit".to_owned(), |s| s.to_string());
    rows.into_iter().map(|r| (r.name.to_string(), size(r.size))).collect()
}

/// The versions of a volume to which it can go back, and how they came to be.
fn versions(name: &str) -> Vec<(String, String)> {
    let request = VolumeRequest::History { name: name.to_owned() };
    let Some(VolumeAnswer::History(rows)) = ask(request) else { return Vec::new() };
    let there = rows.into_iter().filter(|row| row.present && !row.current);
    there.map(|row| (row.version.to_string(), row.why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_volume_its_commands_are_meant_then_volumes_then_what_they_take() {
        let of = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            format!("{:?}", volume_word(&words))
        };
        assert_eq!(of("volume"), "Command");
        for words in
            ["resize", "resize --roll", "rm", "rm data", "inspect a b", "history", "rollback"]
        {
            assert_eq!(of(&format!("volume {words}")), "Volume", "{words}");
        }
        assert_eq!(of("volume rollback data"), "VersionOf(\"data\")");
        assert_eq!(of("volume create data --backend"), "Backend");
        for words in ["ls", "resize data", "create", "rollback data 1", "backends", "history data"]
        {
            assert_eq!(of(&format!("volume {words}")), "Other", "{words}");
        }
    }

    #[test]
    fn descriptions_are_left_out_where_each_word_would_be_proposed() {
        let found = [("stop".to_owned(), "Stop containers".to_owned())];
        assert_eq!(answer(&found, true), "stop\tStop containers\n:4");
        assert_eq!(answer(&found, false), "stop\n:4");
    }
}
