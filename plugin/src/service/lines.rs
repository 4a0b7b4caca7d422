//! Lines over a stream, bounded in length and time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Why there is no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLine {
    /// None came by the deadline; what came of one is kept.
    NotYet,
    /// The other side has closed.
    Ended,
    /// The line is longer than allowed.
    TooLong,
    /// The stream broke, or the line is no UTF-8.
    Broken,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Lines {
    stream: UnixStream,
    longest: usize,
    got: Vec<u8>,
    /// How much of `got` is known to hold no line end.
    seen: usize,
}

impl Lines {
    pub(super) fn new(stream: UnixStream, longest: usize) -> Self {
        Self { stream, longest, got: Vec::new(), seen: 0 }
    }

    /// The next line, waiting until `deadline`, or for ever.
    pub(super) fn read(&mut self, deadline: Option<Instant>) -> Result<String, NoLine> {
        loop {
            let fresh = self.got.get(self.seen..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                let end = self.seen + at;
                if end > self.longest {
                    return Err(NoLine::TooLong);
                }
                let rest = self.got.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.got, rest);
                self.seen = 0;
                line.pop();
                return String::from_utf8(line).map_err(|_| NoLine::Broken);
            }
            self.seen = self.got.len();
            if self.got.len() > self.longest {
                return Err(NoLine::TooLong);
            }
            let wait = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(NoLine::NotYet);
                    }
                    Some(left.max(Duration::from_millis(1)))
                }
            };
            self.stream.set_read_timeout(wait).map_err(|_| NoLine::Broken)?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(NoLine::Ended),
                Ok(n) => self.got.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(e) => match e.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if deadline.is_some() => {}
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        return Err(NoLine::Ended);
                    }
                    _ => return Err(NoLine::Broken),
                },
            }
        }
    }
}

/// Writes one line; each write is bounded by the stream's own timeout.
pub(super) fn write<T: Serialize>(stream: &mut UnixStream, message: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(std::io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(longest: usize) -> (UnixStream, Lines) {
        let (a, b) = UnixStream::pair().unwrap();
        (a, Lines::new(b, longest))
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(50))
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let (mut a, mut lines) = pair(100);
        a.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.read(soon()).unwrap(), "one");
        assert_eq!(lines.read(soon()), Err(NoLine::NotYet));
        a.write_all(b"o\n\nthree").unwrap();
        assert_eq!(lines.read(soon()).unwrap(), "two");
        assert_eq!(lines.read(soon()).unwrap(), "");
        drop(a);
        // A line without its end is none.
        assert_eq!(lines.read(soon()), Err(NoLine::Ended));
    }

    #[test]
    fn long_and_broken_lines_are_refused() {
        let (mut a, mut lines) = pair(10);
        a.write_all(&[b'x'; 11]).unwrap();
        assert_eq!(lines.read(soon()), Err(NoLine::TooLong));
        let (mut a, mut lines) = pair(10);
        a.write_all(b"xxxxxxxxxxxxx\n").unwrap();
        assert_eq!(lines.read(soon()), Err(NoLine::TooLong));
        let (mut a, mut lines) = pair(10);
        a.write_all(b"\xff\xfe\n").unwrap();
        assert_eq!(lines.read(soon()), Err(NoLine::Broken));
    }

    #[test]
    fn a_client_that_drips_bytes_does_not_move_the_deadline() {
        let (mut a, mut lines) = pair(1000);
        std::thread::spawn(move || {
            for _ in 0..100 {
                std::thread::sleep(Duration::from_millis(10));
                if a.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let begun = Instant::now();
        assert_eq!(lines.read(Some(begun + Duration::from_millis(100))), Err(NoLine::NotYet));
        assert!(begun.elapsed() < Duration::from_millis(600));
    }
}
