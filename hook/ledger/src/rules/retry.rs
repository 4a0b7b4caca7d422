//! When is a container started again that was refused? Docker gives up after one refusal; the service
//! goes on where the reason passes by itself: the ledger was out of reach, or GPUs were held.

use serde::{Deserialize, Serialize};

use crate::model::{Place, Timestamp};
use crate::rules::allocate::{Shortage, Taken};
use crate::rules::liveness::{Files, RestartPolicy};

/// The pause after the first refusal, in milliseconds; each further one doubles it.
pub const FIRST_PAUSE_MS: u64 = 2_000;
/// The longest pause, in milliseconds.
pub const LONGEST_PAUSE_MS: u64 = 300_000;

/// What a refused start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// The ledger, which was out of reach.
    Ledger,
    /// GPUs, which others held, or which could not be told to be free.
    Gpus,
}

/// Whether a shortage passes by itself: what is asked for is there, and somebody has it. A GPU that is
/// cut into MIG devices is not there as a whole, until root sets it otherwise.
pub fn may_pass(shortage: &Shortage) -> bool {
    let passing = |taken: &[(Place, Taken)]| taken.iter().filter(|(_, t)| *t != Taken::Mig).count();
    match shortage {
        Shortage::NotFree { asked, free, taken } => {
            u32::try_from(passing(taken)).is_ok_and(|n| free.saturating_add(n) >= *asked)
        }
        Shortage::NamedTaken { taken, .. } => passing(taken) == taken.len(),
        Shortage::NotAll { have, .. } => *have > 0,
        Shortage::TooMany { .. }
        | Shortage::NoneLike { .. }
        | Shortage::NoSuch { .. }
        | Shortage::Twice { .. } => false,
    }
}

/// The pause after so many refusals, in milliseconds.
pub fn pause_ms(tries: u32) -> u64 {
    let doublings = tries.saturating_sub(1).min(16);
    FIRST_PAUSE_MS.saturating_mul(1 << doublings).min(LONGEST_PAUSE_MS)
}

/// When the next try is due, at the earliest.
pub fn due(last: Timestamp, tries: u32) -> Timestamp {
    let pause = i64::try_from(pause_ms(tries)).unwrap_or(i64::MAX);
    Timestamp::from_millis(last.millis().saturating_add(pause))
}

/// What becomes of a refused start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Retry {
    /// It is no longer the service's affair: it runs, was stopped or removed, or has no restart policy
    /// any more.
    Forget,
    /// Not now.
    Wait,
    /// Now is the time, if the reason has passed.
    Try,
}

/// Whether Docker would start this container again by itself, had it not been refused: at the moment
/// of the refusal, when Docker has not written down yet how it ended.
pub fn would_restart(files: Files) -> bool {
    match files {
        Files::Present { policy, restarts, .. } => match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure(most) => most == 0 || restarts < most,
        },
        Files::Absent | Files::Unreadable => false,
    }
}

/// What becomes of a start that was refused `tries` times, at `last` the last time. `files` are what
/// Docker writes of the container, `running` whether it runs or is being restarted.
pub fn judge(files: Files, running: bool, last: Timestamp, tries: u32, now: Timestamp) -> Retry {
    match files {
        Files::Absent => return Retry::Forget,
        Files::Unreadable => return Retry::Wait,
        Files::Present { .. } if running => return Retry::Forget,
        Files::Present { stopped_by_hand: true, .. } => return Retry::Forget,
        Files::Present { .. } if !would_restart(files) => return Retry::Forget,
        Files::Present { .. } => {}
    }
    // A time that lies ahead by more than any pause is none to wait from: the clock was set back.
    let back = last.millis_since(now) > LONGEST_PAUSE_MS;
    if back || now >= due(last, tries) { Retry::Try } else { Retry::Wait }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(policy: RestartPolicy, by_hand: bool, restarts: u32) -> Files {
        Files::Present {
            policy,
            stopped_by_hand: by_hand,
            ever_started: true,
            restarts,
            exit_code: Some(137),
        }
    }

    const LAST: Timestamp = Timestamp::EPOCH;

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        let busy = || (Place::Whole(2), Taken::Busy("process 7 (a)".into()));
        let cut = || (Place::Whole(1), Taken::Mig);
        let not_free = |asked, taken| may_pass(&Shortage::NotFree { asked, free: 1, taken });
        assert!(not_free(2, vec![busy()]));
        assert!(not_free(2, vec![busy(), cut()]));
        assert!(!not_free(3, vec![busy(), cut()]), "MIG devices never become a GPU by themselves");
        assert!(!may_pass(&Shortage::NamedTaken { free: 0, taken: vec![busy(), cut()] }));
        assert!(may_pass(&Shortage::NamedTaken { free: 0, taken: vec![busy()] }));
        assert!(may_pass(&Shortage::NamedTaken { free: 0, taken: vec![] }));
        assert!(may_pass(&Shortage::NotAll { free: 1, have: 2, taken: vec![] }));
        assert!(!may_pass(&Shortage::NotAll { free: 0, have: 0, taken: vec![] }));
        assert!(!may_pass(&Shortage::TooMany { asked: 9, have: 8 }));
        assert!(!may_pass(&Shortage::NoSuch { named: "9".into(), have: 8 }));
        let place = Place::Whole(1);
        assert!(!may_pass(&Shortage::Twice { first: place, second: place }));
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = (0..12).map(|tries| pause_ms(tries) / 1000).collect();
        assert_eq!(pauses, [2, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(pause_ms(u32::MAX), LONGEST_PAUSE_MS);
    }

    #[test]
    fn on_failure_has_as_many_tries_as_docker_gives_it() {
        let judged =
            |policy, restarts| judge(files(policy, false, restarts), false, LAST, 1, due(LAST, 1));
        assert_eq!(judged(RestartPolicy::OnFailure(3), 2), Retry::Try);
        assert_eq!(judged(RestartPolicy::OnFailure(3), 3), Retry::Forget);
        assert_eq!(judged(RestartPolicy::OnFailure(0), 99), Retry::Try);
    }

    fn policy() -> impl Strategy<Value = RestartPolicy> {
        prop_oneof![
            Just(RestartPolicy::No),
            Just(RestartPolicy::Always),
            (0u32..4).prop_map(RestartPolicy::OnFailure)
        ]
    }

    proptest! {
        #[test]
        fn nobody_starts_what_was_stopped_runs_or_is_not_to_restart(
            policy in policy(), by_hand: bool, running: bool, restarts in 0u32..5,
            tries in 0u32..40, after in 0i64..1_000_000,
        ) {
            let now = Timestamp::from_millis(after);
            let verdict = judge(files(policy, by_hand, restarts), running, LAST, tries, now);
            let no = policy == RestartPolicy::No;
            if by_hand || running || no {
                prop_assert_eq!(verdict, Retry::Forget);
            }
            if verdict == Retry::Try {
                prop_assert!(now >= due(LAST, tries));
            }
        }

        #[test]
        fn every_wait_ends(tries: u32, ahead in 0i64..10_000_000) {
            // Also where the clock was set back after the refusal.
            let last = Timestamp::from_millis(ahead);
            let always = files(RestartPolicy::Always, false, 0);
            let later = Timestamp::from_millis(ahead.max(300_000) + 300_000);
            prop_assert_eq!(judge(always, false, last, tries, later), Retry::Try);
            if ahead > 300_000 {
                prop_assert_eq!(judge(always, false, last, tries, LAST), Retry::Try);
            }
        }

        #[test]
        fn what_cannot_be_read_is_neither_started_nor_forgotten(tries: u32, after: i64) {
            let now = Timestamp::from_millis(after);
            prop_assert_eq!(judge(Files::Unreadable, false, LAST, tries, now), Retry::Wait);
        }
    }
}
