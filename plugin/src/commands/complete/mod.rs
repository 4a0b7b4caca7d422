//! Shell completion: commands, flags, and the names of what is really there.
//!
//! ```text
//! words ─ place::of ─► what may stand there ─ names ─► proposals ─► those that begin so, to the shell
//! ```
//!
//! The first step is pure. The second asks engine or service, and gives up after a second: whatever
//! fails or is slow gives no proposals and no message.

mod names;
mod place;

use std::collections::BTreeSet;

use super::quick::in_time;
use crate::ui;
use place::{Kind, Place};

/// To the shell: no file names.
const NO_FILES: &str = ":4";
/// To the shell: no space after the word, and no file names.
const GOES_ON: &str = ":6";
/// To the shell: file names, as it proposes them itself.
const FILES: &str = ":0";

/// A proposal, and what it is.
type Proposal = (String, String);

/// Answers for the last of the words.
pub fn complete(words: &[String], described: bool) {
    let (partial, before) = match words.split_last() {
        Some((partial, before)) => (partial.as_str(), before),
        None => ("", [].as_slice()),
    };
    let (place, typed) = place::of(before, partial);
    // What is named already is not meant again.
    let once = matches!(&place, Place::Names(Kind::Containers(_) | Kind::Volumes));
    let Some(mut found) = proposals(place, typed.to_owned()) else {
        return ui::print(FILES);
    };
    let mut seen = BTreeSet::new();
    found.retain(|(name, _)| {
        name.starts_with(typed) && !(once && before.contains(name)) && seen.insert(name.clone())
    });
    // `container=` waits for its value, `data:` for its path.
    let goes_on = !found.is_empty() && found.iter().all(|(name, _)| name.ends_with(['=', ':']));
    ui::print(&answer(&found, described, if goes_on { GOES_ON } else { NO_FILES }));
}

/// All that may stand there; nothing after the limit, however many questions it takes. `None`: files.
fn proposals(place: Place, typed: String) -> Option<Vec<Proposal>> {
    let asked = match place {
        Place::Nothing => return Some(Vec::new()),
        Place::Words(words) => return Some(words),
        Place::Names(kind) => in_time(move || Some(Some(names::of(&kind, &typed)))),
        Place::DockersWords { command, words, flag } => {
            in_time(move || names::dockers(&command, &words, flag.as_deref(), &typed))
        }
    };
    asked.unwrap_or_else(|| Some(Vec::new()))
}

/// The proposals, and what the shell is to do besides.
fn answer(found: &[Proposal], described: bool, directive: &str) -> String {
    let about = |text| if described { text } else { "" };
    let lines = found.iter().map(|(name, text)| proposal(name, about(text.as_str())));
    lines.chain([directive.to_owned()]).collect()
}

/// `value<TAB>description`, one a line.
fn proposal(name: &str, about: &str) -> String {
    let (name, about) = (ui::visible(name), ui::visible(about));
    if about.is_empty() { format!("{name}\n") } else { format!("{name}\t{about}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_left_out_where_each_word_would_be_proposed() {
        let found = [("stop".to_owned(), "Stop containers".to_owned())];
        assert_eq!(answer(&found, true, NO_FILES), "stop\tStop containers\n:4");
        assert_eq!(answer(&found, false, NO_FILES), "stop\n:4");
    }
}
