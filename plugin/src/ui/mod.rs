//! The only place that prints. Data goes to stdout, everything else to stderr.
//!
//! A reader that goes away (`docker gpuctl ps | head -1`) ends us quietly; a full disk is an error.
//! What comes from elsewhere - labels, images, messages - cannot steer the terminal.

mod doctor;
mod format;
mod human;
mod list;
mod lists;
mod progress;
mod prune;
#[cfg(test)]
mod schema_tests;
mod screen;
mod table;
mod template;
mod views;

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::engine::api::Failure;

pub use doctor::summary;
pub use format::Format;
pub use human::{ago, mebibytes};
pub use list::{Column, Cut, Filter, List, View};
pub use lists::{
    BACKENDS, CHECKS, CONTAINERS, DECISIONS, DIFFERENCES, GPUS, PORTS, Told, VERSIONS,
    VOLUME_VERSIONS, VOLUMES,
};
pub use progress::Meter;
pub use prune::prune;
pub use screen::{Screen, Tint, is_dumb};
pub use table::{Table, shortened, visible, wrapped};
pub use template::{Fields, Template};
pub use views::{checks, decision, diff, inspect, links, version};

/// The exit code of a program that wrote to a reader who had gone: that of SIGPIPE.
const CLOSED_CODE: u8 = 141;

/// Why data did not get to stdout, the first time.
static UNWRITTEN: Mutex<Option<Unwritten>> = Mutex::new(None);

/// Why data did not get to stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwritten {
    /// Nobody reads it any more.
    Closed,
    /// For this reason.
    Failed(String),
}

fn wrote(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        let why = match (error.kind(), error.raw_os_error()) {
            (std::io::ErrorKind::BrokenPipe, _) => Unwritten::Closed,
            (_, Some(number)) => {
                Unwritten::Failed(nix::errno::Errno::from_raw(number).desc().to_owned())
            }
            _ => Unwritten::Failed(error.to_string()),
        };
        UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// Why data that was printed did not get to stdout, if it did not; said once.
pub fn unwritten() -> Option<Unwritten> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Whether data that was printed did not get to stdout; said as often as asked.
pub fn is_unwritten() -> bool {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// The exit code of a program that would end with this one, had its data been written; says why not.
pub fn settled(code: u8) -> u8 {
    progress::clear();
    let instead = match unwritten() {
        None => return code,
        Some(Unwritten::Closed) => CLOSED_CODE,
        Some(Unwritten::Failed(why)) => {
            failure(&Failure::new(format!("the output could not be written: {why}")));
            1
        }
    };
    if code == 0 { instead } else { code }
}

/// Prints data as it is, with a line's end. That it could not be written is told in the end, see
/// [`settled`].
pub fn print(text: &str) {
    progress::clear();
    let mut out = std::io::stdout().lock();
    wrote(writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()));
}

/// Prints rows or objects that are lines already; nothing for none.
pub fn table(text: &str) {
    if !text.is_empty() {
        print(text);
    }
}

/// Prints lines of data, each of which may hold what others chose.
pub fn lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) {
    progress::clear();
    let mut out = std::io::stdout().lock();
    let mut lines = lines.into_iter();
    let written = lines.try_for_each(|line| writeln!(out, "{}", visible(line.as_ref())));
    wrote(written.and_then(|()| out.flush()));
}

/// Prints one line to stderr.
pub fn tell(text: &str) {
    progress::clear();
    let _ = writeln!(std::io::stderr().lock(), "{}", visible(text));
}

/// Asks on stderr; the answer is read on the same line.
pub fn ask(question: &str) {
    progress::clear();
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question}").and_then(|()| err.flush());
}

/// Prints a failure: what was asked and what is so, details, what to type next. One without a
/// message has been told by Docker already.
pub fn failure(failure: &Failure) {
    progress::clear();
    let text = failure_text(failure, Screen::stderr_colour());
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn failure_text(failure: &Failure, colour: bool) -> String {
    let mut text = String::new();
    if !failure.message.is_empty() {
        let error = Tint::Bad.paint("error:", colour);
        text.push_str(&format!("{error} {}\n", bounded(&visible(&failure.message))));
    }
    for line in &failure.details {
        text.push_str(&format!("  {}\n", visible(line)));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {}\n", bounded(&visible(hint))));
    }
    text
}

/// A line of a message: a word of a hundred thousand letters that was wrong need not come back whole.
fn bounded(line: &str) -> std::borrow::Cow<'_, str> {
    const MOST: usize = 4000;
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()).into(),
        None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_without_end_does_not_come_back_whole() {
        let text = failure_text(&Failure::new("\u{e4}".repeat(120_000)), false);
        assert_eq!(text.chars().count(), "error: ".len() + 4000 + "...\n".len());
        assert!(text.ends_with("\u{e4}...\n"));
    }

    #[test]
    fn a_failure_reads_as_designed() {
        let f = Failure::new("3 GPUs asked for, 1 free on gpu1")
            .details(vec!["GPU 2  train-4".into()])
            .hint("docker gpuctl gpus shows all of them");
        assert_eq!(
            failure_text(&f, false),
            "error: 3 GPUs asked for, 1 free on gpu1\n  GPU 2  train-4\n\
             hint: docker gpuctl gpus shows all of them\n"
        );
        assert_eq!(failure_text(&Failure::new("a\u{1b}[31m\nb"), false), "error: a?[31m?b\n");
        assert_eq!(failure_text(&Failure::new(""), false), "");
    }
}
