//! The attached command's stderr on its way to ours: container and Docker CLI share it. What our
//! runtime said in a refused start is held back, since the engine tells it in full; of what Docker
//! itself said the exit code is known by it.

use std::io::{Read, Write};
use std::process::ChildStderr;
use std::thread::JoinHandle;

use crate::docker::{gpuctl_part, start_exit_code};

/// How the Docker CLI begins to tell an error of the Engine.
const ERROR: &[u8] = b"Error response from daemon: ";
/// Longest line that is looked at, in bytes; of a longer one the rest passes unread.
const LONGEST: usize = 16 * 1024;

/// The thread that passes it on.
#[derive(Debug)]
pub(super) struct Relay(JoinHandle<Passed>);

/// What passed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// The exit code that `docker run` has for the last of Docker's own errors; `None` where none came.
    pub(super) code: Option<u8>,
    /// The last refusal of our runtime, which was held back.
    pub(super) refusal: Option<String>,
}

impl Relay {
    /// Begins to pass on: `all`, or only what Docker itself says.
    pub(super) fn start(from: ChildStderr, all: bool) -> Self {
        Self(std::thread::spawn(move || pass_on(from, &mut std::io::stderr(), all)))
    }

    /// Waits for the end of it.
    pub(super) fn end(self) -> Passed {
        self.0.join().unwrap_or_default()
    }
}

/// Whether a line could still become, or is, one of Docker's errors.
fn may_be_error(line: &[u8]) -> bool {
    let n = line.len().min(ERROR.len());
    line.get(..n) == ERROR.get(..n)
}

fn pass_on(mut from: impl Read, to: &mut impl Write, all: bool) -> Passed {
    let mut passed = Passed::default();
    // The part of the line under way that is held back; empty while it passes.
    let mut held: Vec<u8> = Vec::new();
    let mut at_start = true;
    let mut buffer = [0u8; 8192];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut passing: Vec<u8> = Vec::with_capacity(n + held.len());
        for &byte in buffer.get(..n).unwrap_or_default() {
            if at_start || !held.is_empty() {
                held.push(byte);
                at_start = false;
                if byte == b'\n' {
                    whole_line(&mut held, &mut passing, &mut passed, all);
                    at_start = true;
                } else if !may_be_error(&held) || held.len() > LONGEST {
                    pass(&mut held, &mut passing, all);
                }
            } else {
                if all {
                    passing.push(byte);
                }
                at_start = byte == b'\n';
            }
        }
        // Nobody reads our stderr: the container must not be stopped by that.
        let _ = to.write_all(&passing).and_then(|()| to.flush());
    }
    let mut rest = Vec::new();
    whole_line(&mut held, &mut rest, &mut passed, all);
    let _ = to.write_all(&rest);
    passed
}

/// What was held back is the container's own.
fn pass(held: &mut Vec<u8>, passing: &mut Vec<u8>, all: bool) {
    if all {
        passing.append(held);
    }
    held.clear();
}

/// Decides over a line that was held back.
fn whole_line(held: &mut Vec<u8>, passing: &mut Vec<u8>, passed: &mut Passed, all: bool) {
    let text = String::from_utf8_lossy(held).into_owned();
    let dockers = may_be_error(held) && held.len() >= ERROR.len();
    if dockers {
        passed.code = Some(start_exit_code(&text));
    }
    if gpuctl_part(text.trim_end()).is_some() {
        passed.refusal = Some(text.trim_end().to_owned());
        held.clear();
    } else {
        pass(held, passing, all || dockers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives what it has in pieces.
    struct Pieces<'a>(Vec<&'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            to[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn relay(pieces: &[&str]) -> (String, Option<u8>) {
        relay_some(pieces, true)
    }

    fn relay_some(pieces: &[&str], all: bool) -> (String, Option<u8>) {
        let (text, passed) = relay_whole(pieces, all);
        (text, passed.code)
    }

    fn relay_whole(pieces: &[&str], all: bool) -> (String, Passed) {
        let mut out = Vec::new();
        let passed = pass_on(Pieces(pieces.iter().map(|p| p.as_bytes()).collect()), &mut out, all);
        (String::from_utf8(out).unwrap(), passed)
    }

    #[test]
    fn of_a_stream_that_is_not_attached_only_dockers_own_errors_pass() {
        let error = "Error response from daemon: no such image\n";
        let (text, code) = relay_some(&["its own\nErr", "or\n", error, "and the rest"], false);
        assert_eq!((text.as_str(), code.is_some()), (error, true));
    }

    #[test]
    fn what_a_container_writes_passes_as_it_is() {
        let text = ["no end", " of line\nError", "s are mine\n\n", "E"];
        assert_eq!(relay(&text), (text.concat(), None));
    }

    #[test]
    fn dockers_own_error_passes_and_tells_the_code() {
        let line = "Error response from daemon: OCI runtime create failed: exec: \"nope\": executable file not found in $PATH\n";
        let (first, second) = line.split_at(11);
        assert_eq!(relay(&[first, second]), (line.to_owned(), Some(127)));
    }

    #[test]
    fn what_our_runtime_said_is_held_back() {
        let line = "Error response from daemon: OCI runtime create failed: gpuctl: 2 GPUs asked for, 1 free: unknown\n";
        let (text, passed) = relay_whole(&["before\n", line], true);
        assert_eq!((text.as_str(), passed.code), ("before\n", Some(125)));
        // And kept, for where nobody else can tell it.
        let refusal = passed.refusal.unwrap();
        assert_eq!(gpuctl_part(&refusal), Some("2 GPUs asked for, 1 free"));
    }
}
