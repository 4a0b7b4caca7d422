//! What --remove changes. Pure.

use std::path::Path;

use gpuctl_ledger::config::Config;

use super::daemon_json::STOCK;
use super::holes::some;
use super::observed::Observed;
use super::plan::{GATE, Note, Plan, Step, daemon_json, no_flags};
use super::settings;
use super::units;
use crate::engine::api::Failure;

/// The plan.
///
/// # Errors
/// Where daemon.json is broken or dockerd's flags are in the way.
pub(super) fn plan(seen: &Observed, config: &Config) -> Result<Plan, Failure> {
    no_flags(seen)?;
    let mut plan = Plan::default();
    let mut json = daemon_json(seen)?;
    let managed = config.runtime.managed_name.as_str();
    // What was the default before us is so again, if it is still there; else it is said: a reload
    // takes an absent key for no change.
    let before = seen.record.as_ref().and_then(|r| r.default_runtime.clone());
    let back = before.filter(|name| name == STOCK || json.runtime(name).is_some());
    let default = back.unwrap_or_else(|| STOCK.to_owned());
    if json.default_runtime().is_some_and(|now| now == GATE || now == managed) {
        json.set_default(&default);
    }
    let default = json.default_runtime().unwrap_or(default);
    let ours = seen.places.runc();
    for (name, program) in seen.record.iter().flat_map(|r| &r.led) {
        if json.runtime(name).and_then(|r| r.program).is_some_and(|p| Path::new(&p) == ours) {
            json.set_program(name, Path::new(program));
        }
    }
    for name in [managed, GATE] {
        let of: Vec<&str> =
            seen.containers.iter().filter(|c| c.runtime == name).map(|c| c.name.as_str()).collect();
        if json.runtime(name).is_none() {
            continue;
        }
        if of.is_empty() && seen.engine.is_some() {
            json.remove_runtime(name);
            continue;
        }
        json.set_program(name, &config.runtime.real);
        let real = config.runtime.real.display();
        let why = if seen.engine.is_some() {
            format!("named by {}", some(&of))
        } else {
            "the Engine does not answer, so it is not known who names it".to_owned()
        };
        plan.notes.push(Note::Hole(format!(
            "the runtime {name} stays, and is {real} from now on, so that its containers start: {why}. \
             Make them anew, then docker gpuctl setup --remove again"
        )));
        if name == managed {
            plan.say("containers of docker gpuctl start without any GPU from now on; their records stay in the ledger");
        }
    }
    plan.file(seen, seen.places.daemon_json.clone(), Some(json.render()), 0o644, true);
    let written = !plan.steps.is_empty();
    let known = seen.engine.as_ref().is_none_or(|engine| {
        let has = |name: &str| engine.runtimes.contains_key(name);
        let same = |name: &str| has(name) == json.runtime(name).is_some();
        engine.default_runtime == default && same(managed) && same(GATE)
    });
    if let Some(dockerd) = seen.dockerd.as_ref().filter(|_| written || !known) {
        plan.steps.push(Step::Reload { pid: dockerd.pid, default_runtime: default });
    }
    nvidia(seen, &mut plan)?;
    files(seen, config, &mut plan);
    Ok(plan)
}

fn nvidia(seen: &Observed, plan: &mut Plan) -> Result<(), Failure> {
    let Some(text) = seen.text(&seen.nvidia_config) else { return Ok(()) };
    let ours = seen.places.runc().to_string_lossy().into_owned();
    let Ok(now) = settings::nvidia_runtimes(text) else { return Ok(()) };
    let wanted: Vec<String> = now.iter().filter(|name| **name != ours).cloned().collect();
    if wanted != now {
        let after = settings::with_nvidia_runtimes(text, &wanted).map_err(Failure::new)?;
        plan.file(seen, seen.nvidia_config.clone(), Some(after), 0o644, true);
    }
    Ok(())
}

/// Units, rule, drop-ins, and the record. Our programs stay: containers that run call them.
fn files(seen: &Observed, config: &Config, plan: &mut Plan) {
    let places = &seen.places;
    let drop_ins = [places.drop_in("docker"), places.drop_in("containerd")];
    let had = drop_ins.iter().any(|path| seen.text(path).is_some());
    for path in drop_ins.into_iter().chain([places.links_unit(), places.links_rule()]) {
        let ours = seen.text(&path).is_some_and(|text| text.starts_with(units::MARK));
        if ours {
            plan.file(seen, path, None, 0o644, false);
        }
    }
    // A package's unit stays enabled: it goes with the package.
    let wanted = places.links_wanted();
    let unit_gone = seen.symlinks.contains_key(&wanted) && !seen.packaged;
    if unit_gone {
        plan.steps.push(Step::Unlink(wanted));
    }
    plan.file(seen, config.paths.state.join(super::record::FILE), None, 0o600, false);
    if (had || unit_gone) && seen.systemd {
        super::keep::reload(seen, plan);
    }
    let strict = places.strict();
    let still = |path: &str| path.split(':').any(|folder| Path::new(folder) == strict);
    let runs = [("containerd", &seen.containerd), ("docker", &seen.dockerd)];
    let names: Vec<&str> = runs
        .iter()
        .filter(|(_, daemon)| daemon.as_ref().is_some_and(|d| still(&d.path)))
        .map(|(name, _)| *name)
        .collect();
    if !names.is_empty() {
        plan.notes.push(Note::Restart(format!(
            "strict mode ends when these are restarted without {} on their PATH: systemctl restart {}",
            strict.display(),
            names.join(" ")
        )));
    }
    if !plan.steps.is_empty() {
        plan.say(format!(
            "config, ledger and the programs in {} stay: containers that run call them at their end",
            places.libexec.display()
        ));
    }
}
