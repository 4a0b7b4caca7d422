//! The clock. No lease is ever freed by it; it says since when things are so, and whether what the
//! service saw of the node is fresh.

use std::path::Path;
use std::time::Duration;

use gpuctl_ledger::model::Timestamp;

use super::{Checks, ask};

const NAME: &str = "clock";
/// 2025-01-01 in milliseconds: a clock before that was never set.
const EARLIEST: i64 = 1_735_689_600_000;
/// How far apart the clocks of writers of one ledger may be, in milliseconds.
const APART_MS: u64 = 2_000;
/// How long systemd is waited for.
const LIMIT: Duration = Duration::from_secs(3);

/// `newest` is the newest time in the ledger.
pub(super) fn checks(newest: Option<Timestamp>, checks: &mut Checks) {
    judge(Timestamp::now(), newest, synchronised(), checks);
}

/// Whether the clock is kept by others', where systemd is there to say it.
fn synchronised() -> Option<bool> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let program = Path::new("/usr/bin/timedatectl");
    let words = ["show", "--property=NTPSynchronized", "--value"];
    match ask::answer(program, &words, LIMIT)?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn judge(now: Timestamp, newest: Option<Timestamp>, kept: Option<bool>, checks: &mut Checks) {
    let fix = Some("timedatectl set-ntp true, or set it with date".to_owned());
    if now.millis() < EARLIEST {
        return checks.problem(NAME, format!("it says {now}: it was never set"), fix);
    }
    if let Some(newest) = newest.filter(|newest| newest.millis_since(now) > APART_MS) {
        let text = format!(
            "the ledger has a lease of {newest}, and here it is {now}: it was set back, or another \
             writer's is ahead"
        );
        return checks.problem(NAME, text, fix);
    }
    match kept {
        Some(true) => checks.ok(NAME, format!("{now}, kept by others' clocks")),
        Some(false) => checks.warning(NAME, format!("{now}, kept by no other clock"), fix),
        None => checks.ok(NAME, format!("{now}, not before what the ledger knows")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    #[test]
    fn a_clock_that_was_set_back_or_never_set_is_a_problem() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let at = |ms: i64| Timestamp::from_millis(1_800_000_000_000 + ms);
        let judged = |now, newest, kept| {
            let mut checks = Checks::default();
            judge(now, newest, kept, &mut checks);
            checks.0.remove(0).verdict
        };
        assert_eq!(judged(now, Some(at(-5)), Some(true)), Verdict::Ok);
        assert_eq!(judged(now, Some(at(1_900)), None), Verdict::Ok);
        assert_eq!(judged(now, Some(at(2_100)), Some(true)), Verdict::Problem);
        assert_eq!(judged(now, None, Some(false)), Verdict::Warning);
        assert_eq!(judged(Timestamp::from_millis(1000), None, Some(true)), Verdict::Problem);
    }
}
