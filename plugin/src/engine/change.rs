//! update and scale: from what a container is to what it is to be, by the cheapest way that does it.
//! docs/adr/0014 has the flow.

use gpuctl_ledger::config::ScaleBy;
use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Binding, DockerName, GpuRequest};
use serde_json::Value;

use super::api::{Answer, AutoPort, ChangeRequest, Changed, Event, Failure, Front, How};
use super::context::Context;
use super::in_place::{self, words};
use super::journal::Locked;
use super::layers::Source;
use super::names::{self, Found};
use super::neighbours::{self, Network};
use super::{creation, images, leases, lifecycle, replace, snapshot, supply, version, volume};
use crate::change::{self, Change, Difference, HostPort, Publish, Way, Wrong};
use crate::docker::Inspect;

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        let failure = Self::new(wrong.message);
        match wrong.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// What is to be changed, looked at under its lock.
pub(super) struct Subject {
    /// Held as long as this is.
    _lock: Locked,
    pub(super) found: Found,
    pub(super) shown: Inspect,
    /// What it was created with, by what is shown.
    pub(super) is: Value,
    pub(super) binding: At<Binding>,
}

/// What it is to be.
pub(super) struct Target {
    pub(super) spec: Value,
    pub(super) gpus: GpuRequest,
    /// Ports that are to be chosen.
    pub(super) ports: Vec<(AutoPort, Vec<Publish>)>,
    /// Whether it was asked for GPUs: then it is said what it has of them.
    pub(super) asked_gpus: bool,
    /// What the change is called in the history, where that is not what differs.
    pub(super) called: Option<String>,
    /// The image is another than the one that the spec is of.
    pub(super) new_image: bool,
    /// Whose files it is to have, where these are not the current ones.
    pub(super) files: Option<Source>,
}

/// Changes a container.
///
/// # Errors
/// [`Failure`]; then it is as it was, or the failure says what is not.
pub(super) fn change(
    ctx: &Context,
    request: &ChangeRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    if let Some(image) = request.change.image.as_ref().filter(|_| !request.how.dry_run) {
        let _ = images::pulled(ctx, image, front)?;
    }
    let subject = subject(ctx, &request.name, front)?;
    let mut change = request.change.clone();
    if !change.publish.is_empty() {
        change::can_publish(&subject.is)?;
    }
    let ports = chosen(&mut change);
    for (old, new) in &mut change.volumes {
        (*old, *new) = volume::swap::meant(ctx, &subject.is, (old, new))?;
    }
    let mut spec = change::apply(&subject.is, &change)?;
    let new_image = match &change.image {
        Some(image) => {
            let id = ctx.docker()?.image_id(image)?;
            let other = id.as_deref() != Some(subject.shown.image_id());
            if let Some(spec) = spec.as_object_mut() {
                spec.insert("Image".to_owned(), id.map_or(Value::Null, Value::String));
            }
            other
        }
        None => false,
    };
    if !(change.env_rm.is_empty() && change.label_rm.is_empty() && change.mount_rm.is_empty()) {
        let id = spec.get("Image").and_then(Value::as_str).unwrap_or_default();
        let image = ctx.docker()?.image(id)?.unwrap_or(Value::Null);
        let config = image.get("Config").unwrap_or(&Value::Null);
        change::back_to_image(&mut spec, &subject.is, &change, config)?;
    }
    let target = Target {
        spec,
        new_image,
        asked_gpus: change.gpus.is_some(),
        gpus: change.gpus.unwrap_or_else(|| subject.binding.record.gpus.clone()),
        ports,
        called: None,
        files: None,
    };
    bring(ctx, &subject, target, &request.how, front)
}

/// What a name means, locked, with all that a change looks at.
///
/// # Errors
/// When there is no such container, or it is one that cannot be changed.
pub(super) fn subject(
    ctx: &Context,
    name: &str,
    front: &mut dyn Front,
) -> Result<Subject, Failure> {
    let (lock, found, shown) = lifecycle::locked(ctx, name, front)?;
    let binding = ctx.ledger.binding(&found.id)?.ok_or_else(|| {
        Failure::new(format!("{} has no binding in the ledger", found.docker_name))
            .hint("docker gpuctl doctor --fix mends what can be mended")
    })?;
    if shown.auto_remove() {
        return Err(Failure::new(format!(
            "{} was run with --rm: Docker removes it when it stops, and scaling restarts it",
            found.docker_name
        ))
        .hint("run it anew with the GPUs that it needs"));
    }
    Ok(Subject { _lock: lock, is: creation::of(ctx, &shown), found, shown, binding })
}

/// Takes the ports that are to be chosen out of a change.
fn chosen(change: &mut Change) -> Vec<(AutoPort, Vec<Publish>)> {
    let (auto, rest): (Vec<Publish>, Vec<Publish>) =
        change.publish.drain(..).partition(|port| port.host == HostPort::Auto);
    change.publish = rest;
    let wanted = |port: Publish| {
        let ip = port.address.parse().ok();
        (AutoPort { ip, inside: port.inside(), wish: None }, vec![port])
    };
    auto.into_iter().map(wanted).collect()
}

/// Brings a container to what it is to be.
///
/// # Errors
/// [`Failure`]; then it is as it was, or the failure says what is not.
pub(super) fn bring(
    ctx: &Context,
    subject: &Subject,
    target: Target,
    how: &How,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let Subject { found, shown, is, binding, .. } = subject;
    let name = &found.record.record.name;
    let before = &binding.record.gpus;
    let mut differences = change::differences((is, before), (&target.spec, &target.gpus));
    differences.extend(target.ports.iter().map(|(auto, _)| Difference {
        field: format!("port {}", auto.inside),
        before: None,
        after: Some("auto".to_owned()),
    }));
    let gpus_differ = *before != target.gpus;
    let always = gpus_differ && ctx.config.change.scale == ScaleBy::Replace;
    let replaced = how.replace || always || target.files.is_some();
    let way = change::way(&differences, is, &target.spec, replaced);
    let in_place = match way {
        Way::Nothing => {
            let is = match before {
                gpus if target.asked_gpus && !gpus.is_none() => format!("has {}", words(gpus)),
                _ => "is so".to_owned(),
            };
            let summary = format!("{name} {is} already: nothing to do");
            return Ok(changed(found, found.docker_name.clone(), summary));
        }
        Way::InPlace { update, gpus } => Some((update, gpus)),
        Way::Replace => None,
    };
    let told = (!how.dry_run).then(|| front.user());
    let running = shown.running();
    let restarts = running && (gpus_differ || in_place.is_none());
    if restarts {
        check_stops(found, shown, how.timeout)?;
    }
    if restarts {
        check_claim(ctx, found, &binding.record, &target.gpus, told)?;
    } else if let Some(refusal) = supply::ever(ctx, &target.gpus)?.filter(|_| gpus_differ) {
        if let Some(user) = told {
            supply::tell_refused(ctx, Some(&found.id), found.docker_name.as_str(), user, &refusal);
        }
        return Err(refusal.into());
    }
    let to = found.record.record.version.next();
    let new_name = DockerName::of(name, to);
    let hint = format!("docker rename {new_name} to something else, or remove it");
    names::check_docker_name(ctx, &new_name, hint)?;
    let what: Vec<String> = differences.iter().map(Difference::words).collect();
    let why = target.called.clone().unwrap_or_else(|| called(&differences, before, &target.gpus));
    let summary = format!("{name}: {}, now {new_name}", summed(&what, before, &target.gpus));
    match in_place {
        Some((update, gpus)) => {
            if how.dry_run {
                let limits = update.is_some();
                let mut steps = in_place_steps(
                    found,
                    &what,
                    (before, &target.gpus),
                    (running, limits),
                    &new_name,
                    how,
                );
                if running && gpus {
                    steps.extend(neighbours::told(ctx, found, Network::Restarted));
                }
                return Ok(Answer::Plan { steps: with_snapshot(ctx, subject, how, steps, front)? });
            }
            if how.snapshot {
                let _ = snapshot::keep(ctx, found, shown, front)?;
            }
            if running && gpus {
                warn_restart(found, front);
                warn_of(neighbours::told(ctx, found, Network::Restarted), front);
            }
            let data = in_place::Data {
                id: found.id.clone(),
                from: found.record.record.version,
                to,
                before: binding.record.clone(),
                gpus: target.gpus.clone(),
                held: leases::as_held(&leases::held(ctx, &found.id)?),
                was_running: running && gpus,
                started_at: shown.started_at().unwrap_or_default().to_owned(),
                timeout: how.timeout,
                by: front.user(),
                update,
                why,
            };
            version::check(&in_place::version_record(ctx, name, &data, shown), false)?;
            in_place::execute(ctx, &data, found, binding.clone())?;
        }
        None => {
            let prepared = replace::prepare(ctx, subject, &target, how, why, front)?;
            if how.dry_run {
                let mut steps = prepared.steps(found, &what, &new_name, how);
                steps.extend(neighbours::told(ctx, found, Network::Replaced(&new_name)));
                return Ok(Answer::Plan { steps: with_snapshot(ctx, subject, how, steps, front)? });
            }
            // Once all else has been looked at: where nothing is changed, nothing is kept.
            if how.snapshot {
                let _ = snapshot::keep(ctx, found, shown, front)?;
            }
            if running {
                warn_restart(found, front);
            }
            warn_of(neighbours::told(ctx, found, Network::Replaced(&new_name)), front);
            replace::execute(ctx, prepared, &target, found, front)?;
        }
    }
    Ok(changed(found, new_name, summary))
}

/// The steps of a plan, with what is kept before the first.
fn with_snapshot(
    ctx: &Context,
    subject: &Subject,
    how: &How,
    mut steps: Vec<String>,
    front: &mut dyn Front,
) -> Result<Vec<String>, Failure> {
    if how.snapshot {
        steps.insert(0, snapshot::planned(ctx, &subject.found, &subject.shown, front)?);
    }
    Ok(steps)
}

fn warn_restart(found: &Found, front: &mut dyn Front) {
    warn_of(vec![format!("processes in {} restart", found.docker_name)], front);
}

fn warn_of(texts: Vec<String>, front: &mut dyn Front) {
    for text in texts {
        front.event(Event::Warning { text });
    }
}

fn changed(found: &Found, docker_name: DockerName, summary: String) -> Answer {
    Answer::Changed(Changed { name: found.record.record.name.clone(), docker_name, summary })
}

/// What the history calls a change: `scale 3 -> 5 GPUs`, `update memory 1GB -> 2GB`.
fn called(differences: &[Difference], before: &GpuRequest, after: &GpuRequest) -> String {
    let only_gpus = differences.iter().all(|d| d.field == "gpus");
    if only_gpus && before != after {
        return format!("scale {before} -> {after} GPUs");
    }
    if differences.is_empty() {
        return "replace".to_owned();
    }
    let words: Vec<String> = differences.iter().map(Difference::words).collect();
    format!("update {}", shortened(&words.join(", ")))
}

/// What is said at the end.
fn summed(what: &[String], before: &GpuRequest, after: &GpuRequest) -> String {
    let gpus = (before != after).then(|| format!("{} -> {}", words(before), words(after)));
    let rest = what.iter().filter(|text| !text.starts_with("gpus "));
    let all: Vec<&str> = gpus.as_deref().into_iter().chain(rest.map(String::as_str)).collect();
    if all.is_empty() { "replaced".to_owned() } else { shortened(&all.join(", ")) }
}

/// The longest that is said of a change, in characters.
const LONGEST: usize = 200;

fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(std::iter::once('…')).collect()
}

/// What will be done in place, in order: what `--dry-run` prints.
fn in_place_steps(
    found: &Found,
    what: &[String],
    (before, after): (&GpuRequest, &GpuRequest),
    (running, limits): (bool, bool),
    new_name: &DockerName,
    how: &How,
) -> Vec<String> {
    let name = &found.docker_name;
    let mut steps = vec![format!("change {name} in place: {}", summed(what, before, after))];
    if before != after && running {
        if !after.is_none() {
            steps.push(
                "claim what it needs beyond what it holds; it keeps running meanwhile".into(),
            );
        }
        if limits {
            steps.push("set its limits by Docker's update".into());
        }
        let grace = how.timeout.map_or_else(|| "its own".to_owned(), |s| format!("{s} s"));
        steps.push(format!(
            "restart {name} (stop grace: {grace}): its processes restart, its files stay"
        ));
        steps.push("give back what it no longer holds".into());
    } else {
        if limits {
            steps.push("set its limits by Docker's update: nothing restarts".into());
        }
        if before != after {
            steps.push("set the number for its next start: it is stopped, and claims then".into());
        }
    }
    steps.push(format!("rename {name} to {new_name} and record the version"));
    steps
}

/// Refuses to stop what runs where that would not come to an end: nobody else could change the container
/// meanwhile.
pub(super) fn check_stops(
    found: &Found,
    shown: &Inspect,
    timeout: Option<i32>,
) -> Result<(), Failure> {
    let name = &found.docker_name;
    if shown.paused() {
        return Err(Failure::new(format!("{name} is paused, and a stop would wait for it"))
            .hint(format!("docker gpuctl unpause {}, then try again", found.record.record.name)));
    }
    let message = match timeout {
        Some(seconds) if seconds < 0 => format!(
            "--timeout {seconds} is to wait for the processes in {name} without an end, and a change does not"
        ),
        None if shown.stop_timeout() < 0 => {
            format!(
                "{name} was run with a --stop-timeout that has no end, and a change waits for none"
            )
        }
        _ => return Ok(()),
    };
    Err(Failure::new(message)
        .hint("--timeout 600 waits ten minutes before it kills; --timeout 0 does not wait"))
}

/// `told`: whether a refusal is written down, and as whose.
fn check_claim(
    ctx: &Context,
    found: &Found,
    binding: &Binding,
    gpus: &GpuRequest,
    told: Option<Option<String>>,
) -> Result<(), Failure> {
    let Some(refusal) = supply::now(ctx, Some(&found.id), gpus, &binding.last)? else {
        return Ok(());
    };
    if let Some(user) = told {
        supply::tell_refused(ctx, Some(&found.id), found.docker_name.as_str(), user, &refusal);
    }
    let kept = format!("{} keeps running with {}", found.docker_name, words(&binding.gpus));
    Err(Failure::new(refusal.headline)
        .details(refusal.rows)
        .hint(format!("{kept}; {}", refusal.hint)))
}
