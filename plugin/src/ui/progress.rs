//! How far a copy of files is: one line on a terminal, drawn over again and again; elsewhere a line now
//! and then.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gpuctl_ledger::model::ByteSize;

use super::visible;
use crate::engine::api::{Amount, Doing, Progress};

/// What is over sooner is not shown on a terminal.
const SOON: Duration = Duration::from_millis(300);
/// How often a line is printed where it cannot be drawn over.
const NOW_AND_THEN: Duration = Duration::from_secs(5);
/// Before that no rate is told: it would not be true.
const RATE_AFTER: Duration = Duration::from_secs(1);
/// A file takes as long as so many bytes, as a rule.
const FILE: u64 = 32 << 10;
/// The width of a terminal that does not tell.
const WIDTH: u16 = 80;

/// Whether a line stands on the terminal that is to be drawn over.
static DRAWN: Mutex<bool> = Mutex::new(false);

/// Takes the line away, if there is one: whatever else is printed begins with this.
pub(super) fn clear() {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::take(&mut *drawn) {
        let mut err = std::io::stderr().lock();
        let _ = err.write_all(b"\r\x1b[K").and_then(|()| err.flush());
    }
}

/// Shows how far a copy is.
#[derive(Debug)]
pub struct Meter {
    /// On a terminal.
    draws: bool,
    began: Instant,
    /// When what is done now began, and whose files it is about.
    step: Option<(Doing, String, Instant)>,
    /// When a line was last printed.
    printed: Instant,
}

impl Default for Meter {
    fn default() -> Self {
        let now = Instant::now();
        let draws = std::io::stderr().is_terminal() && !super::screen::is_dumb();
        Self { draws, began: now, step: None, printed: now }
    }
}

impl Meter {
    /// Shows it.
    pub fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        if self.step.is_none() {
            (self.began, self.printed) = (now, now);
        }
        let since = match &self.step {
            Some((doing, of, since)) if *doing == progress.doing && *of == progress.of => *since,
            _ => {
                self.step = Some((progress.doing, progress.of.clone(), now));
                now
            }
        };
        let text = text(progress, now - since);
        if self.draws {
            if now - self.began >= SOON {
                draw(&text);
            }
        } else if now - self.printed >= NOW_AND_THEN {
            self.printed = now;
            super::tell(&text);
        }
    }
}

fn draw(text: &str) {
    let width = usize::from(
        rustix::termios::tcgetwinsize(std::io::stderr())
            .map_or(WIDTH, |size| if size.ws_col == 0 { WIDTH } else { size.ws_col }),
    );
    let line: String = visible(text).chars().take(width.saturating_sub(1)).collect();
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut err = std::io::stderr().lock();
    *drawn = write!(err, "\r{line}\x1b[K").and_then(|()| err.flush()).is_ok();
}

/// The line: what, how much of how much, how fast, how long it will take. Pure.
fn text(progress: &Progress, since: Duration) -> String {
    let Progress { doing, of, done, all } = progress;
    let verb = match doing {
        Doing::Measuring => return format!("looking at {of}: {} files", grouped(done.files)),
        Doing::Syncing => return format!("bringing the copy of {of} to the disk"),
        Doing::Committing => {
            let size = all.map(|all| {
                format!(": {} in {} files", shown(ByteSize(all.bytes)), grouped(all.files))
            });
            let size = size.unwrap_or_default();
            return format!("Docker makes the image of {of}, for {} s now{size}", since.as_secs());
        }
        Doing::Copying => "copying",
        Doing::Comparing => "comparing",
    };
    let whole = all.unwrap_or_default();
    let left = all.filter(|_| since >= RATE_AFTER).and_then(|all| left(done, &all, since));
    let left = left.map(|left| format!(", {left} left")).unwrap_or_default();
    let part = |now: u64, whole: u64, show: &dyn Fn(u64) -> String| {
        // It may have grown since it was measured.
        let of = all.map(|_| format!(" of {}", show(whole.max(now)))).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = now.saturating_mul(1000) / millis;
        let rate = match since >= RATE_AFTER && rate > 0 {
            true => format!(" ({}/s)", show(rate)),
            false => String::new(),
        };
        (format!("{}{of}", show(now)), rate)
    };
    let (bytes, bytes_rate) = part(done.bytes, whole.bytes, &|bytes| shown(ByteSize(bytes)));
    let (files, files_rate) = part(done.files, whole.files, &grouped);
    // What a narrow terminal cuts off is what matters least.
    format!("{verb} {of}{left}: {bytes}{bytes_rate}, {files} files{files_rate}")
}

/// How long what is left will take, if it goes on as until now.
fn left(done: &Amount, all: &Amount, since: Duration) -> Option<String> {
    let work =
        |amount: &Amount| u128::from(amount.bytes) + u128::from(amount.files) * u128::from(FILE);
    let (done, all) = (work(done), work(all));
    // Of too little nothing can be told.
    if done < all / 100 {
        return None;
    }
    let seconds = (since.as_millis() * all.saturating_sub(done)).checked_div(done)?.div_ceil(1000);
    Some(match u64::try_from(seconds).ok()? {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    })
}

/// With one digit behind the point, so that it does not jump.
fn shown(size: ByteSize) -> String {
    let text = size.to_string();
    let Some((whole, rest)) = text.split_once('.') else { return text };
    let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{whole}.{}{unit}", rest.get(..1).unwrap_or_default())
}

/// `100,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(doing: Doing, done: (u64, u64), all: Option<(u64, u64)>, millis: u64) -> String {
        let amount = |(files, bytes)| Amount { files, bytes };
        let of = "train-0".to_owned();
        let progress = Progress { doing, of, done: amount(done), all: all.map(amount) };
        text(&progress, Duration::from_millis(millis))
    }

    #[test]
    fn it_tells_how_far_how_fast_and_how_long() {
        let all = Some((100_000, 4 << 30));
        assert_eq!(
            at(Doing::Copying, (25_000, 1 << 30), all, 10_000),
            "copying train-0, 30 s left: 1GB of 4GB (102.3MB/s), 25,000 of 100,000 files (2,500/s)"
        );
        // At first no rate is told, and of next to nothing not how long it takes.
        assert_eq!(
            at(Doing::Copying, (0, 0), all, 200),
            "copying train-0: 0B of 4GB, 0 of 100,000 files"
        );
        assert!(
            at(Doing::Copying, (0, 0), all, 5000).starts_with("copying train-0: 0B of 4GB, 0 of")
        );
        assert!(!at(Doing::Copying, (1, 40 << 20), all, 5000).contains("left"));
        assert!(
            at(Doing::Comparing, (1, 11 << 20), Some((2, 1 << 30)), 9000).contains(" min left")
        );
        assert!(at(Doing::Copying, (1, 11 << 30), Some((2, 1 << 40)), 99_000).contains(" h "));
        // More than there was.
        assert_eq!(
            at(Doing::Comparing, (7, 2048), Some((5, 1024)), 2000),
            "comparing train-0, 0 s left: 2KB of 2KB (1KB/s), 7 of 7 files (3/s)"
        );
        assert_eq!(at(Doing::Measuring, (1234, 5), None, 9000), "looking at train-0: 1,234 files");
        assert_eq!(
            at(Doing::Committing, (0, 0), Some((1234, 11 << 20)), 9700),
            "Docker makes the image of train-0, for 9 s now: 11MB in 1,234 files"
        );
        assert_eq!(
            at(Doing::Committing, (0, 0), None, 0),
            "Docker makes the image of train-0, for 0 s now"
        );
        assert_eq!(at(Doing::Syncing, (1, 5), all, 1), "bringing the copy of train-0 to the disk");
        assert!(
            at(Doing::Copying, (1, 5), None, 1000)
                .starts_with("copying train-0: 5B (5B/s), 1 files")
        );
    }
}
