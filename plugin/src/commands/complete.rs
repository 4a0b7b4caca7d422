//! Shell completion: the names of commands, and of containers where one is meant.

use super::Session;
use crate::client::argv::Globals;
use crate::engine::api::{Answer, Request};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_left_out_where_each_word_would_be_proposed() {
        let found = [("stop".to_owned(), "Stop containers".to_owned())];
        assert_eq!(answer(&found, true), "stop\tStop containers\n:4");
        assert_eq!(answer(&found, false), "stop\n:4");
    }
}
