//! The only place that prints. Data goes to stdout, everything else to stderr.
//!
//! A reader that goes away (`docker gpuctl ps | head -1`) is no fault. What comes from elsewhere -
//! labels, images, messages - cannot steer the terminal.

mod human;
mod table;
mod views;

use std::io::Write as _;

use crate::engine::api::Failure;

pub use human::{ago, mebibytes};
pub use table::{Table, visible};
pub use views::{Format, checks, gpus, history, inspect, ps, version};

/// Prints data as it is, with a line's end.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
}

/// Prints rows or objects that are lines already; nothing for none.
pub fn table(text: &str) {
    if !text.is_empty() {
        print(text);
    }
}

/// Prints lines of data, each of which may hold what others chose.
pub fn lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{}", visible(line.as_ref())).is_err() {
            return;
        }
    }
    let _ = out.flush();
}

/// Prints one line to stderr.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible(text));
}

/// Prints a failure: what was asked and what is so, details, what to type next. One without a
/// message has been told by Docker already.
pub fn failure(failure: &Failure) {
    let _ = std::io::stderr().lock().write_all(failure_text(failure).as_bytes());
}

fn failure_text(failure: &Failure) -> String {
    let mut text = String::new();
    if !failure.message.is_empty() {
        text.push_str(&format!("error: {}\n", visible(&failure.message)));
    }
    for line in &failure.details {
        text.push_str(&format!("  {}\n", visible(line)));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {}\n", visible(hint)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_designed() {
        let f = Failure::new("3 GPUs asked for, 1 free on gpu1")
            .details(vec!["GPU 2  train-4".into()])
            .hint("docker gpuctl gpus shows all of them");
        assert_eq!(
            failure_text(&f),
            "error: 3 GPUs asked for, 1 free on gpu1\n  GPU 2  train-4\n\
             hint: docker gpuctl gpus shows all of them\n"
        );
        assert_eq!(failure_text(&Failure::new("a\u{1b}[31m\nb")), "error: a?[31m?b\n");
        assert_eq!(failure_text(&Failure::new("")), "");
    }
}
