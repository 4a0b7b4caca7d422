//! How services find their programs: the drop-ins of docker.service and containerd.service, and the
//! list in NVIDIA's config. Pure.

use std::path::Path;

use super::daemon_json::STOCK;
use super::observed::{Level, Observed, Service};
use super::plan::{Note, Plan, Step};
use super::{settings, units};
use crate::engine::api::Failure;

/// The drop-ins; whether systemd has to read anything anew.
pub(super) fn drop_ins(seen: &Observed, level: Level, plan: &mut Plan) -> bool {
    let places = &seen.places;
    let (strict_dir, stub_dir) = (places.strict(), places.stub());
    let first = (level == Level::Strict).then_some(strict_dir.as_path());
    let last = (seen.toolkit.is_none() && !seen.stub_elsewhere).then_some(stub_dir.as_path());
    let ours = [strict_dir.as_path(), stub_dir.as_path()];
    let wanted = |own: &str, last: Option<&Path>| units::with_ours(own, first, last, ours);
    let own = |service: Option<&Service>| {
        service.and_then(Service::path).unwrap_or_else(|| units::USUAL_PATH.to_owned())
    };
    let separate = seen.flags.containerd.is_some();
    let all = [
        ("docker", seen.docker_unit.as_ref(), seen.dockerd.as_ref(), last, true),
        ("containerd", seen.containerd_unit.as_ref(), seen.containerd.as_ref(), None, separate),
    ];
    let mut restart = Vec::new();
    for (name, unit, process, last, counts) in all {
        if !counts {
            continue;
        }
        let drop_in = places.drop_in(name);
        let needs = first.is_some() || last.is_some();
        let path = wanted(&own(unit), last);
        let runs = process.map(|p| p.path.as_str()).unwrap_or_default();
        let right = runs.split(':').next() == first.and_then(Path::to_str)
            || (first.is_none() && runs.split(':').next() != strict_dir.to_str());
        let right = right && last.is_none_or(|stub| runs.split(':').any(|f| Path::new(f) == stub));
        if unit.is_some() && (seen.systemd || places.root != Path::new("/")) {
            plan.file(seen, drop_in, needs.then(|| units::drop_in(&path)), 0o644, false);
            let shadowed = unit.iter().flat_map(|u| &u.environment);
            for (file, _) in shadowed
                .filter(|(_, text)| text.lines().any(|l| l.trim_start().starts_with("PATH=")))
            {
                plan.notes.push(Note::Hole(format!(
                    "{} sets PATH for {name}.service and counts before the drop-in: take PATH out of it",
                    file.display()
                )));
            }
            let after = unit.iter().flat_map(|u| &u.texts).filter(|(file, text)| {
                file.parent().is_some_and(|f| f.extension().is_some_and(|e| e == "d"))
                    && file.file_name() > places.drop_in(name).file_name()
                    && units::path_of([text.as_str()]).is_some()
            });
            for (file, _) in after.filter(|_| needs) {
                plan.notes.push(Note::Hole(format!(
                    "{} sets PATH for {name}.service and counts after the drop-in: give it a name that sorts before zz-gpuctl.conf",
                    file.display()
                )));
            }
            if !right {
                restart.push(name);
            }
        } else if !right && needs {
            plan.notes.push(Note::Restart(format!(
                "no systemd unit of {name} was found: start it with PATH={} (now it has {runs})",
                wanted(runs, last)
            )));
        } else if !right {
            plan.notes
                .push(Note::Restart(format!("start {name} anew with PATH={}", wanted(runs, last))));
        }
    }
    if !restart.is_empty() {
        // containerd first: dockerd depends on it.
        restart.reverse();
        let why = if level == Level::Strict {
            "strict mode begins when these are restarted"
        } else if last.is_some() {
            "a bare docker run --gpus is taken once this is restarted"
        } else {
            "strict mode ends when these are restarted"
        };
        plan.notes.push(Note::Restart(format!(
            "{why}: systemctl restart {} (containers stop then, unless \"live-restore\" is on)",
            restart.join(" ")
        )));
    }
    let changes = |step: &Step| match step {
        Step::File { path, .. } | Step::Symlink { path, .. } => {
            path.starts_with(places.at("/etc/systemd"))
        }
        _ => false,
    };
    plan.steps.iter().any(changes)
}

/// Whether NVIDIA's runtime would take another program than the `runc` that it finds on PATH, where
/// ours stands first in strict mode. It takes the first of its list that is there.
fn past_path(seen: &Observed, list: &[String]) -> bool {
    list.iter().find(|name| seen.program(name).is_some()).is_some_and(|name| name != STOCK)
}

/// NVIDIA's config, led through us in strict mode.
///
/// # Errors
/// Where it is broken.
pub(super) fn nvidia_config(seen: &Observed, level: Level, plan: &mut Plan) -> Result<(), Failure> {
    let Some(text) = seen.text(&seen.nvidia_config) else { return Ok(()) };
    let ours = seen.places.runc().to_string_lossy().into_owned();
    let now = settings::nvidia_runtimes(text).map_err(|why| {
        Failure::new(format!("{} is broken: {why}", seen.nvidia_config.display()))
            .hint("mend it, then try again; nothing was changed")
    })?;
    let mut wanted: Vec<String> = now.iter().filter(|name| **name != ours).cloned().collect();
    if level == Level::Strict && past_path(seen, &wanted) {
        wanted.insert(0, ours);
    }
    if wanted != now {
        let after = settings::with_nvidia_runtimes(text, &wanted).map_err(Failure::new)?;
        plan.file(seen, seen.nvidia_config.clone(), Some(after), 0o644, true);
    }
    Ok(())
}
