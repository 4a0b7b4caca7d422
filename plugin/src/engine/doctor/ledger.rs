//! The ledger: whether it can be read and written, and how fast.

use std::time::{Duration, Instant};

use gpuctl_ledger::model::Timestamp;

use super::Checks;
use crate::engine::api::Failure;
use crate::engine::context::Context;

pub(super) const NAME: &str = "ledger";

/// What a start of a container should wait for a look at the ledger at the most.
const SLOW: Duration = Duration::from_millis(500);

/// One read and one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Took {
    read: Duration,
    write: Duration,
    leases: usize,
}

pub(super) fn checks(ctx: &Context, checks: &mut Checks) {
    let shown = ctx.ledger.store().shown().to_owned();
    match took(ctx) {
        Ok(took) => judge(&shown, took, ctx.config.ledger.timeout(), checks),
        Err(why) => checks.failed(NAME, why),
    }
}

/// Asks it; the config bounds how long.
fn took(ctx: &Context) -> Result<Took, Failure> {
    let began = Instant::now();
    let leases = ctx.ledger.leases()?.len();
    let read = began.elapsed();
    ctx.ledger.try_write()?;
    Ok(Took { read, write: began.elapsed() - read, leases })
}

/// When the newest lease was written.
pub(super) fn newest(ctx: &Context) -> Option<Timestamp> {
    let leases = ctx.ledger.leases().ok()?;
    leases.into_values().map(|at| at.record.since).max()
}

fn judge(shown: &str, took: Took, limit: Duration, checks: &mut Checks) {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let Took { read, write, leases } = took;
    let text = format!("{shown}: {leases} leases, read in {}, written in {}", ms(read), ms(write));
    if read.max(write) <= SLOW {
        return checks.ok(NAME, text);
    }
    let fix = format!(
        "a start waits {} s for it and is refused then: look at the disk and the network of the ledger",
        limit.as_secs()
    );
    checks.warning(NAME, format!("{text}: that is slow"), Some(fix));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    #[test]
    fn a_slow_ledger_is_said_to_be_slow() {
        let judged = |read, write| {
            let mut checks = Checks::default();
            let took = Took {
                read: Duration::from_millis(read),
                write: Duration::from_millis(write),
                leases: 3,
            };
            judge("sqlite:///l", took, Duration::from_secs(5), &mut checks);
            checks.0.remove(0)
        };
        let good = judged(2, 9);
        assert_eq!(good.verdict, Verdict::Ok);
        assert_eq!(good.detail, "sqlite:///l: 3 leases, read in 2.0 ms, written in 9.0 ms");
        assert_eq!(judged(501, 1).verdict, Verdict::Warning);
        assert_eq!(judged(1, 501).verdict, Verdict::Warning);
    }
}
