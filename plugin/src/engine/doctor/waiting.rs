//! Restarts that were refused: Docker gives up after one refusal, the service tries again.

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::Timestamp;
use gpuctl_ledger::node::refused::{self, RefusedStart};
use gpuctl_ledger::rules::retry::due;

use super::Checks;

const NAME: &str = "restarts";
/// How long after it is due one may still be untried, in milliseconds: the service looks every two
/// seconds.
const LATE_MS: u64 = 30_000;

pub(super) fn checks(config: &Config, checks: &mut Checks) {
    judge(&refused::all(&config.paths), Timestamp::now(), checks);
}

fn judge(notes: &[RefusedStart], now: Timestamp, checks: &mut Checks) {
    if notes.is_empty() {
        return checks.ok(NAME, "no container waits after a refused start");
    }
    for note in notes {
        let RefusedStart { docker_name, tries, reason, .. } = note;
        let times = if *tries == 1 { "once".to_owned() } else { format!("{tries} times") };
        // What to do about it is this line's own to say.
        let reason = reason.split("; hint: ").next().unwrap_or_default();
        let text = format!("{docker_name} was refused {times}: {reason}");
        // A clock that was set back is said elsewhere.
        if now.millis_since(due(note.last, *tries)) > LATE_MS {
            let text = format!("{text}; its next try is overdue: the service does not run");
            checks.problem(NAME, text, Some("systemctl restart gpuctl.service".into()));
        } else {
            let fix = format!("the service tries it again; docker start {docker_name} does so now");
            checks.warning(NAME, text, Some(fix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;
    use gpuctl_ledger::model::{ContainerId, SCHEMA};
    use gpuctl_ledger::rules::retry::WaitsFor;

    #[test]
    fn a_refused_start_is_named_and_one_that_nobody_tries_is_a_problem() {
        let at = Timestamp::from_millis(1_000_000);
        let note = RefusedStart {
            schema: SCHEMA,
            container: ContainerId::new("0123456789ab").unwrap(),
            docker_name: "train-0".into(),
            waits_for: WaitsFor::Gpus,
            reason: "2 GPUs asked for, 1 free".into(),
            request: None,
            tries: 2,
            first: at,
            last: at,
        };
        let judged = |after_ms: i64| {
            let mut checks = Checks::default();
            let now = Timestamp::from_millis(1_000_000 + after_ms);
            judge(std::slice::from_ref(&note), now, &mut checks);
            checks.0.remove(0)
        };
        let soon = judged(1000);
        assert_eq!(soon.verdict, Verdict::Warning);
        assert_eq!(soon.detail, "train-0 was refused 2 times: 2 GPUs asked for, 1 free");
        assert_eq!(judged(3_600_000).verdict, Verdict::Problem);
        // Set back by an hour: that is no proof that nobody tries.
        assert_eq!(judged(-3_600_000).verdict, Verdict::Warning);
    }
}
