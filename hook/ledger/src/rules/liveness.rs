//! Is this holder gone? Asked when GPUs are short, by poststop, by the service, by doctor and at
//! boot. Where it is uncertain, the GPU is held.

use crate::model::{Lease, LeaseState, Timestamp};

/// How long a container that was stopped by hand keeps its GPUs, so that `docker restart`, which
/// looks the same, finds them: milliseconds.
pub const RESTART_GRACE_MS: u64 = 3000;

/// What a look at a process or a cgroup showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is there (a process: and no zombie; a cgroup: with a process in it).
    There,
    /// It is not.
    Gone,
    /// Looking failed: no proof of anything.
    Unknown,
}

/// Docker's restart policy of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// no, or none.
    No,
    /// always, unless-stopped.
    Always,
    /// on-failure, with the most tries; 0 for no limit.
    OnFailure(u32),
}

/// What Docker's own files say of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Docker has no such container (any more).
    Absent,
    /// They could not be read.
    Unreadable,
    /// What they say.
    Present {
        /// Its restart policy.
        policy: RestartPolicy,
        /// Stopped by hand: docker stop, kill, restart.
        stopped_by_hand: bool,
        /// Whether it ever ran.
        ever_started: bool,
        /// How often Docker has started it again since it was last started by hand.
        restarts: u32,
        /// The exit code, where Docker has already written it down.
        exit_code: Option<i32>,
    },
}

/// What was seen of a lease's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether this is still the boot in which the lease's evidence was taken.
    pub same_boot: bool,
    /// The process that claimed.
    pub claimer: Seen,
    /// The container's init; `None` when none is written down.
    pub init: Option<Seen>,
    /// Its cgroup; `None` when none is written down.
    pub cgroup: Option<Seen>,
    /// Docker's files of it.
    pub files: Files,
    /// Whether a change to the container is under way, or was broken off and not yet finished.
    pub change_open: bool,
    /// Now.
    pub now: Timestamp,
}

/// The verdict over a lease's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Life {
    /// It lives, or is being started.
    Alive,
    /// A change to it is open: only that change frees anything.
    Changing,
    /// It cannot be told; held.
    Unknown,
    /// It is dead, but its GPUs wait for it.
    Reserved,
    /// It is gone for good: the lease may be taken.
    Gone,
}

/// Whether it was just now. What lies ahead by more than the grace itself is no moment to wait from:
/// the clock was set back.
fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.millis_since(at) < RESTART_GRACE_MS && at.millis_since(now) < RESTART_GRACE_MS
}

/// Whether the process of a lease is dead, leaving aside what Docker means to do next.
fn process(state: LeaseState, facts: &Facts) -> Seen {
    if !facts.same_boot {
        return Seen::Gone;
    }
    match (state, facts.init) {
        // Nothing but the claimer can bring a claimed lease to life.
        (LeaseState::Claimed, _) => facts.claimer,
        (LeaseState::Active | LeaseState::Reserved, Some(init)) => {
            match (init, facts.cgroup.unwrap_or(Seen::Gone)) {
                (Seen::There, _) | (_, Seen::There) => Seen::There,
                (Seen::Gone, Seen::Gone) => Seen::Gone,
                _ => Seen::Unknown,
            }
        }
        (LeaseState::Active | LeaseState::Reserved, None) => facts.claimer,
    }
}

/// Is the holder of `lease` gone?
pub fn judge(lease: &Lease, facts: &Facts) -> Life {
    if facts.change_open {
        return Life::Changing;
    }
    match process(lease.state, facts) {
        Seen::There => return Life::Alive,
        Seen::Unknown => return Life::Unknown,
        Seen::Gone => {}
    }
    let (policy, by_hand, ever_started, restarts, exit_code) = match facts.files {
        Files::Absent => return Life::Gone,
        Files::Unreadable => return Life::Unknown,
        Files::Present { policy, stopped_by_hand, ever_started, restarts, exit_code } => {
            (policy, stopped_by_hand, ever_started, restarts, exit_code)
        }
    };
    if by_hand {
        // docker restart is a stop by hand and a start within a moment. Before poststop has written
        // the end down, it is only just there: whoever sees it first writes it down.
        let just_ended =
            facts.same_boot && lease.evidence.ended.is_none_or(|at| is_recent(at, facts.now));
        return if just_ended { Life::Reserved } else { Life::Gone };
    }
    if !ever_started {
        return Life::Gone;
    }
    match policy {
        RestartPolicy::No => Life::Gone,
        RestartPolicy::Always => Life::Reserved,
        RestartPolicy::OnFailure(most) => {
            let tries_left = most == 0 || restarts < most;
            if exit_code != Some(0) && tries_left { Life::Reserved } else { Life::Gone }
        }
    }
}
