//! Starts that were refused because the ledger was out of reach or GPUs were held: Docker gives up
//! after one refusal, the service does not. Each is asked of Docker again once it could be granted.

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::Config;
use gpuctl_ledger::grant::{Observed, observe};
use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Binding, GpuRequest, Timestamp, Unit};
use gpuctl_ledger::node::docker;
use gpuctl_ledger::node::refused::{self, RefusedStart};
use gpuctl_ledger::rules::retry::{Retry, WaitsFor, due, judge};

use super::api::Failure;
use super::context::Context;
use super::{journal, leftovers, supply};
use crate::docker::DockerError;

/// Tries again what was refused and is due, where its reason has passed. What it did, a line each.
///
/// # Errors
/// When the Engine or the ledger cannot be reached: then nothing is tried.
pub fn retry(ctx: &Context) -> Result<Vec<String>, Failure> {
    let now = Timestamp::now();
    let far = |note: &RefusedStart| note.last.millis_since(now) > 0;
    let mut notes = refused::all(&ctx.config.paths);
    notes.retain(|note| far(note) || now >= due(note.last, note.tries));
    // Another Engine than ours has none of our containers: that proves nothing of them.
    if notes.is_empty() || !leftovers::our_engine(ctx)? {
        return Ok(Vec::new());
    }
    let mut told = Vec::new();
    let mut seen: Option<Observed> = None;
    for note in notes {
        match one(ctx, &note, &mut seen) {
            Ok(text) => told.extend(text),
            // What keeps one of them may not keep the next.
            Err(why) => told.push(format!("{} cannot be tried again now: {why}", note.docker_name)),
        }
    }
    Ok(told)
}

/// One of them. `seen` is what was seen of ledger and node in this round, until a start changes it.
fn one(
    ctx: &Context,
    note: &RefusedStart,
    seen: &mut Option<Observed>,
) -> Result<Option<String>, Failure> {
    let (paths, id) = (&ctx.config.paths, &note.container);
    let shown = ctx.docker()?.inspect(id.as_str())?;
    let running = shown.as_ref().is_some_and(|shown| shown.running() || shown.restarting());
    let files = docker::facts(&ctx.config.docker.root, id);
    match judge(files, running, note.last, note.tries, Timestamp::now()) {
        Retry::Wait => return Ok(None),
        Retry::Forget => {
            let _ = refused::forget(paths, id);
            return Ok(None);
        }
        Retry::Try => {}
    }
    let binding: Option<At<Binding>> = ctx.ledger.binding(id)?;
    let _lock = match &binding {
        None => None,
        // A change to it is under way, or was broken off and is ended first.
        Some(at) => match journal::try_lock(ctx, &at.record.name)? {
            Some(lock) if ctx.ledger.operation(&at.record.name)?.is_none() => Some(lock),
            _ => return Ok(None),
        },
    };
    let (request, prefer): (Option<GpuRequest>, Vec<Unit>) = match binding {
        Some(at) => (Some(at.record.gpus), at.record.last),
        None => (note.request.clone(), Vec::new()),
    };
    if let Some(request) = &request {
        let seen = match seen {
            Some(seen) => seen,
            None => seen.insert(observe(&ctx.ledger, &ctx.view(), None)?),
        };
        if let Some(refusal) = supply::by(ctx, seen, Some(id), request, &prefer) {
            let now = RefusedStart {
                waits_for: WaitsFor::Gpus,
                reason: refusal.one_line(),
                ..note.clone()
            };
            if now.waits_for != note.waits_for || now.reason != note.reason {
                let _ = refused::write(paths, &now);
            }
            return Ok(None);
        }
    }
    *seen = None;
    let name = &note.docker_name;
    match ctx.docker()?.start(id.as_str()) {
        Ok(()) => {
            let _ = refused::forget(paths, id);
            Ok(Some(format!("{name} was refused {}, and is started again", times(note.tries))))
        }
        // The runtime has noted the refusal, with its reason.
        Err(why) if why.from_gpuctl().is_some() => Ok(None),
        Err(why @ (DockerError::Unreachable(..) | DockerError::TimedOut(_))) => Err(why.into()),
        Err(why) => {
            let _ = refused::forget(paths, id);
            let text = format!("not tried again, Docker does not start it: {why}");
            Entry::new(Decision::Refused, id.as_str(), name).why(&text).write(&ctx.config);
            Ok(Some(format!("{name} is {text}")))
        }
    }
}

/// Without the ledger `ps` cannot show what there is; whose start waits for it the node knows.
#[must_use]
pub fn with_waiting(config: &Config, mut failure: Failure) -> Failure {
    let now = Timestamp::now();
    for note in refused::all(&config.paths) {
        failure.details.push(format!("{}: {}", note.docker_name, words(&note, now)));
    }
    failure
}

/// `once`, `3 times`.
pub(super) fn times(tries: u32) -> String {
    match tries {
        1 => "once".into(),
        n => format!("{n} times"),
    }
}

/// What `ps` shows behind the container's status: `refused 3 times: 1 GPU asked for, 0 free on gpu1;
/// next try in 40s`.
pub(super) fn words(note: &RefusedStart, now: Timestamp) -> String {
    let reason = note.reason.split("; ").next().unwrap_or_default();
    let left = due(note.last, note.tries).millis_since(now).div_ceil(1000);
    let next = match (left, note.waits_for) {
        (1.., _) => format!("next try in {left}s"),
        (0, WaitsFor::Ledger) => "tried again once the ledger answers".into(),
        (0, WaitsFor::Gpus) => "tried again once it can have them".into(),
    };
    format!("refused {}: {reason}; {next}", times(note.tries))
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::model::{ContainerId, SCHEMA};

    use super::*;

    #[test]
    fn tries_reason_and_the_next_try_are_said_in_short() {
        let note = RefusedStart {
            schema: SCHEMA,
            container: ContainerId::new("ab12").unwrap(),
            docker_name: "bare".into(),
            waits_for: WaitsFor::Gpus,
            reason: "1 GPU asked for, 0 free on gpu1; GPU 0 x; hint: y".into(),
            request: None,
            tries: 3,
            first: Timestamp::EPOCH,
            last: Timestamp::EPOCH,
        };
        let at = |millis| words(&note, Timestamp::from_millis(millis));
        assert_eq!(at(500), "refused 3 times: 1 GPU asked for, 0 free on gpu1; next try in 8s");
        assert!(at(8000).ends_with("0 free on gpu1; tried again once it can have them"));
        let once = RefusedStart { tries: 1, waits_for: WaitsFor::Ledger, ..note };
        let text = words(&once, Timestamp::from_millis(9000));
        assert!(
            text.starts_with("refused once: ") && text.ends_with("the ledger answers"),
            "{text}"
        );
    }
}
