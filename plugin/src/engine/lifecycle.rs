//! start, stop, restart: what Docker does, with the GPUs in mind. No journal: each is one call to
//! the Engine, and the claim and its end are the runtime's and the hooks' own.

use gpuctl_ledger::model::Binding;
use gpuctl_ledger::node::refused;

use super::api::{Answer, Event, Failure, Front};
use super::context::Context;
use super::journal::{self, Locked};
use super::names::{self, Found};
use super::{attach, ending, supply};
use crate::docker::{Inspect, Stop};

/// Does one thing to each name; what fails keeps the others from nothing.
pub(super) fn each(
    names: &[String],
    front: &mut dyn Front,
    mut act: impl FnMut(&str, &mut dyn Front) -> Result<(), Failure>,
) -> Answer {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for (at, name) in names.iter().enumerate() {
        // Who gave up while one was done does not mean the others any more.
        if at > 0 && !front.listens() {
            failed.push(Failure::new(format!("interrupted: nothing was done to {name}")));
            continue;
        }
        match act(name, front) {
            Ok(()) => done.push(name.clone()),
            Err(failure) => failed.push(failure),
        }
    }
    Answer::Each { done, failed }
}

/// Says of what is not there for us, but for Docker, that it is Docker's: it is not gone, and this command of
/// Docker's removes it. Docker is asked only then.
pub(super) fn or_dockers_own(
    why: Failure,
    command: &str,
    name: &str,
    is_dockers: impl FnOnce() -> Option<bool>,
) -> Failure {
    if !why.is_not_there() || is_dockers() != Some(true) {
        return why;
    }
    Failure::new(format!("{}: it is docker's own", why.message))
        .hint(format!("{command} {name} removes it"))
}

/// What Docker shows of a container of ours; it is an error when Docker no longer has it.
///
/// # Errors
/// As said.
pub(super) fn shown(ctx: &Context, found: &Found) -> Result<Inspect, Failure> {
    ctx.docker()?.inspect(found.id.as_str())?.ok_or_else(|| {
        let name = &found.record.record.name;
        Failure::new(format!(
            "Docker no longer has {}: it was removed behind our back",
            found.docker_name
        ))
        .hint(format!(
            "docker gpuctl rm {name} forgets it; docker gpuctl run --from {name} builds it again"
        ))
    })
}

/// What a name means, under its lock, with what Docker shows of it.
///
/// # Errors
/// When another change is under way, and when there is no such container.
pub(super) fn locked(
    ctx: &Context,
    name: &str,
    front: &mut dyn Front,
) -> Result<(Locked, Found, Inspect), Failure> {
    let lock = journal::lock_named(ctx, name, front)?;
    let found = names::existing(ctx, name)?;
    lock.is_of(&found.record.record.name)?;
    let shown = shown(ctx, &found)?;
    Ok((lock, found, shown))
}

/// start.
///
/// # Errors
/// None as a whole: failures are in the answer.
pub(super) fn start(
    ctx: &Context,
    names: &[String],
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    Ok(each(names, front, |name, front| {
        let (_lock, found, shown) = locked(ctx, name, front)?;
        if shown.running() {
            return Ok(());
        }
        check_before_start(ctx, &found, front.user())?;
        Ok(ctx.docker()?.start(found.id.as_str())?)
    }))
}

/// start with the user's terminal on it, until it runs. One that runs already is attached to.
///
/// # Errors
/// As for start; and where several are named.
pub(super) fn attached(
    ctx: &Context,
    names: &[String],
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let [name] = names else {
        let text = "you cannot start and attach multiple containers at once";
        return Err(Failure::new(text).hint("without -a and -i, start takes several"));
    };
    let (_lock, found, shown) = locked(ctx, name, front)?;
    if !shown.running() {
        check_before_start(ctx, &found, front.user())?;
    }
    attach::start(ctx, front, &found.id, &found.docker_name, &shown)?;
    let Found { id, docker_name, record } = found;
    Ok(Answer::Created { id, name: record.record.name, docker_name })
}

/// Says a shortage in full before Docker is asked: the runtime has only one line for it.
fn check_before_start(ctx: &Context, found: &Found, user: Option<String>) -> Result<(), Failure> {
    let Some(binding) = ctx.ledger.binding(&found.id)? else { return Ok(()) };
    let Binding { gpus, last, .. } = &binding.record;
    let Some(refusal) = supply::now(ctx, Some(&found.id), gpus, last)? else { return Ok(()) };
    let name = &found.record.record.name;
    supply::tell_refused(ctx, Some(&found.id), found.docker_name.as_str(), user, &refusal);
    Err(Failure::new(format!("{name}: {}", refusal.headline)).details(refusal.rows).hint(format!(
        "docker gpuctl scale {name} --gpus N takes fewer; docker gpuctl gpus shows all of them"
    )))
}

/// stop.
///
/// # Errors
/// None as a whole: failures are in the answer.
pub(super) fn stop(
    ctx: &Context,
    names: &[String],
    how: &Stop,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    Ok(each(names, front, |name, front| {
        let (_lock, found, _) = locked(ctx, name, front)?;
        ctx.docker()?.stop_as(found.id.as_str(), how)?;
        // Refused before, it is not started again after this.
        let _ = refused::forget(&ctx.config.paths, &found.id);
        // Stopped for good as far as we are asked: no waiting for a restart by hand.
        if let Some(text) = ending::release_all(ctx, &found.id, found.docker_name.as_str())? {
            front.event(Event::Warning { text });
        }
        Ok(())
    }))
}

/// restart.
///
/// # Errors
/// None as a whole: failures are in the answer.
pub(super) fn restart(
    ctx: &Context,
    names: &[String],
    how: &Stop,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    Ok(each(names, front, |name, front| {
        let (_lock, found, shown) = locked(ctx, name, front)?;
        if !shown.running() {
            check_before_start(ctx, &found, front.user())?;
        }
        Ok(ctx.docker()?.restart(found.id.as_str(), how)?)
    }))
}
