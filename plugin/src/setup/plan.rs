//! From what is seen to exact changes, as data. Pure: nothing is read or written here.

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::{Config, DEFAULT_PATH, Inject};

use super::daemon_json::{DaemonJson, STOCK};
use super::holes;
use super::keep;
use super::observed::{Level, Observed, Program};
use super::record::{Record, SCHEMA};
use super::seed::{Seed, seeding};
use super::services;
use super::settings::{self, Settings};
use super::units;
use crate::engine::api::Failure;

/// Ours, as the default runtime.
pub(super) const GATE: &str = "gpuctl-gate";

/// One change. The executor does just what it says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A link at `path` to `target`, in place of what is there; its folder is made.
    Symlink {
        /// Where.
        path: PathBuf,
        /// To what, relative to it.
        target: PathBuf,
    },
    /// A link goes.
    Unlink(PathBuf),
    /// A file is written whole, or goes.
    File {
        /// Which.
        path: PathBuf,
        /// Its text before; none where it is not there.
        before: Option<String>,
        /// Its text afterwards; none where it goes.
        after: Option<String>,
        /// The mode of a new one; another keeps owner and mode.
        mode: u32,
        /// Whether the text before is kept beside it.
        backup: bool,
    },
    /// Links in /dev/char of these nodes.
    CharLinks(Vec<String>),
    /// NVIDIA's tool writes the CDI spec.
    Cdi {
        /// nvidia-ctk.
        tool: PathBuf,
        /// The spec.
        output: PathBuf,
    },
    /// The driver's word goes to the inventory's file: so many GPUs.
    Inventory(usize),
    /// Leases of what runs.
    Seeds(Vec<Seed>),
    /// dockerd reads daemon.json anew, and has this default runtime then.
    Reload {
        /// Whom SIGHUP is sent to.
        pid: i32,
        /// The default runtime afterwards.
        default_runtime: String,
    },
    /// systemd is told of the GPUs of containers, by their scopes, so that it leaves them open when it
    /// reads its units anew.
    Keep(Vec<keep::Kept>),
    /// systemd reads its units anew.
    DaemonReload,
    /// gpuctl.service, if it runs, begins anew: with the settings as they are now.
    Service,
}

/// What a person is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// A way around, or something that stays open.
    Hole(String),
    /// Something takes effect only after this is typed.
    Restart(String),
    /// Something else.
    Say(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Plan {
    /// In this order.
    pub(super) steps: Vec<Step>,
    /// Afterwards.
    pub(super) notes: Vec<Note>,
}

impl Plan {
    /// Adds a change of a file, if it is one.
    pub(super) fn file(
        &mut self,
        seen: &Observed,
        path: PathBuf,
        after: Option<String>,
        mode: u32,
        backup: bool,
    ) {
        let before = seen.text(&path).map(str::to_owned);
        if before != after {
            let backup = backup && before.is_some();
            self.steps.push(Step::File { path, before, after, mode, backup });
        }
    }

    /// Adds a note.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.notes.push(Note::Say(text.into()));
    }
}

/// Reads daemon.json.
///
/// # Errors
/// Where it is broken, with its line.
pub(super) fn daemon_json(seen: &Observed) -> Result<DaemonJson, Failure> {
    let path = &seen.places.daemon_json;
    DaemonJson::parse(seen.text(path).unwrap_or_default()).map_err(|why| {
        Failure::new(format!("{} is broken: {why}", path.display()))
            .hint("mend it, then try again; nothing was changed")
    })
}

/// Refuses where dockerd's flags already name what would go into daemon.json: dockerd does not start
/// where both do.
///
/// # Errors
/// Naming the flag and where it stands.
pub(super) fn no_flags(seen: &Observed) -> Result<(), Failure> {
    let refuse = |flag: &str, place: String| {
        let path = seen.places.daemon_json.display();
        Failure::new(format!(
            "{place} has {flag}: dockerd does not start where daemon.json names runtimes too"
        ))
        .hint(format!("move the flag's content into {path} and restart dockerd, then try again"))
    };
    if let Some(flag) = seen.flags.runtimes.first() {
        return Err(refuse(flag, "dockerd's command line".into()));
    }
    let service = seen.docker_unit.iter();
    for (path, text) in service.flat_map(|s| s.texts.iter().chain(&s.environment)) {
        if let Some(flag) = super::flags::in_text(text).first() {
            return Err(refuse(flag, path.display().to_string()));
        }
    }
    Ok(())
}

/// What is needed before anything can be changed.
fn ready(seen: &Observed, level: Level) -> Result<(), Failure> {
    no_flags(seen)?;
    let hook = seen.places.libexec.join("gpuctl-hook");
    match &seen.hook {
        None => {
            return Err(Failure::new(format!("{} is not there", hook.display())).hint(
                "install the package first, or name the program as runtime.hook in the config",
            ));
        }
        Some(program) if !program.trusted => {
            return Err(Failure::new(format!(
                "{} or its folder can be written by others than root",
                hook.display()
            ))
            .hint(format!(
                "chown root {0} {1}; chmod go-w {0} {1}",
                seen.places.libexec.display(),
                hook.display()
            )));
        }
        Some(_) => {}
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    for path in [text(&seen.places.libexec), text(&seen.places.config)] {
        if !path.bytes().all(plain) {
            return Err(Failure::new(format!(
                "{path} has characters that units and PATH cannot hold"
            ))
            .hint("install under a path of letters, digits and /._-+@"));
        }
    }
    let Some(dockerd) = &seen.dockerd else {
        return Err(Failure::new(format!("no dockerd of this host listens on {}", seen.host))
            .hint("run setup on the host itself, as root; rootless Docker is not supported"));
    };
    if !dockerd.root {
        return Err(Failure::new("dockerd does not run as root").hint(
            "rootless Docker is not supported: its containers open no GPU by device rules of ours",
        ));
    }
    // containerd's shims start us too, with its environment.
    let strict =
        seen.containerd.iter().filter(|_| level == Level::Strict).map(|d| ("containerd", d));
    for (name, daemon) in std::iter::once(("dockerd", dockerd)).chain(strict) {
        let read = daemon.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        if read != seen.places.config && seen.places.root == Path::new("/") {
            return Err(Failure::new(format!(
                "{name}'s environment leads the hooks to {}, and this config is {}",
                read.display(),
                seen.places.config.display()
            ))
            .hint("set GPUCTL_CONFIG to the same file everywhere, or nowhere"));
        }
    }
    Ok(())
}

/// The default runtime before us: its name and the program it stands for; and what a new record says.
struct Before {
    default: Option<String>,
    program: String,
}

fn before(seen: &Observed, config: &Config, json: &DaemonJson) -> Result<Before, Failure> {
    let now = json.default_runtime();
    let default = match (now, &seen.record) {
        (Some(name), Some(record)) if name == GATE => record.default_runtime.clone(),
        // The record is lost: what stands behind us in the config was it.
        (Some(name), None) if name == GATE => {
            let real = config.runtime.real.to_string_lossy().into_owned();
            let named = |r: &super::daemon_json::Runtime| {
                let program = r.program.as_deref().and_then(|p| seen.program(p));
                program.is_some_and(|p| !p.ours && p.path == config.runtime.real)
            };
            let default = json.runtimes().into_iter().find(named).map(|r| r.name);
            let nvidia = seen.program(&real).is_some_and(Program::is_nvidia);
            return Ok(Before { default: default.filter(|_| nvidia), program: real });
        }
        (now, _) => now,
    };
    let name = default.as_deref().unwrap_or(STOCK);
    let entry = json.runtime(name);
    if let Some(shim) = entry.as_ref().and_then(|r| r.shim.clone()) {
        return Err(Failure::new(format!(
            "the default runtime {name} is the shim {shim}, which calls no program that ours could stand before"
        ))
        .hint("make a default of runc, crun or nvidia-container-runtime, then try again"));
    }
    let program = entry.and_then(|r| r.program).unwrap_or_else(|| STOCK.to_owned());
    Ok(Before { default, program })
}

fn usable<'a>(seen: &'a Observed, name: &str) -> Option<&'a Program> {
    seen.program(name).filter(|p| p.trusted && !p.ours)
}

/// The real runtime, and the runc behind it where it is NVIDIA's.
fn real(
    seen: &Observed,
    config: &Config,
    set: &Settings,
    before: &Before,
) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    let of = |path: &Path| usable(seen, &path.to_string_lossy());
    let recorded = of(&config.runtime.real).filter(|_| set.has("runtime", "real"));
    let missing = |name: &str| {
        Failure::new(format!(
            "{name} is not there, not root's alone, or gpuctl's own: it cannot be the real runtime"
        ))
        .hint("install runc, or name it as runtime.real in the config, by its absolute path")
    };
    let runc = recorded
        .filter(|p| !p.is_nvidia())
        .map(|_| config.runtime.real.clone())
        .or_else(|| config.runtime.runc.clone().filter(|runc| of(runc).is_some()))
        .or_else(|| usable(seen, STOCK).map(|p| p.path.clone()));
    let program = seen.program(&before.program);
    if program.is_some_and(Program::is_nvidia) {
        let real = usable(seen, &before.program).ok_or_else(|| missing(&before.program))?;
        return Ok((real.path.clone(), Some(runc.ok_or_else(|| missing(STOCK))?)));
    }
    let plain = before.program == STOCK || program.is_none();
    let real = match recorded.filter(|p| !p.is_nvidia()) {
        // Recorded once: as it is written there, and it stays.
        Some(_) => config.runtime.real.clone(),
        None if plain => runc.ok_or_else(|| missing(STOCK))?,
        None => usable(seen, &before.program).ok_or_else(|| missing(&before.program))?.path.clone(),
    };
    Ok((real, None))
}

/// The plan for a level.
///
/// # Errors
/// Where nothing may be changed: with what to do.
pub(super) fn plan(seen: &Observed, config: &Config, level: Level) -> Result<Plan, Failure> {
    ready(seen, level)?;
    let engine = seen.engine.as_ref().ok_or_else(|| Failure::new("the Engine does not answer"))?;
    let mut json = daemon_json(seen)?;
    let before = before(seen, config, &json)?;
    let places = &seen.places;
    let mut plan = Plan::default();

    programs(seen, level, &mut plan);
    let nvidia = own_config(seen, config, level, &before, engine, &mut plan)?;
    record(seen, config, level, &json, &before, &mut plan);
    char_links(seen, &mut plan);
    cdi(seen, config, &mut plan);
    if let Ok(inventory) = &seen.driver {
        let same = |old: &gpuctl_ledger::model::Inventory| {
            (&old.driver, &old.gpus) == (&inventory.driver, &inventory.gpus)
        };
        if !seen.inventory.as_ref().is_some_and(same) {
            plan.steps.push(Step::Inventory(inventory.gpus.len()));
        }
        let seeding = seeding(&seen.containers, inventory, &seen.leases);
        if !seeding.seeds.is_empty() {
            plan.steps.push(Step::Seeds(seeding.seeds));
        }
        plan.notes.extend(seeding.holes.into_iter().map(Note::Hole));
    } else if let Err(why) = &seen.driver {
        plan.say(format!("{why}: there is no inventory, so GPU containers are refused until docker gpuctl doctor --fix finds the GPUs"));
    }
    let services = services::drop_ins(seen, level, &mut plan);
    services::nvidia_config(seen, level, &mut plan)?;

    json.set_program(&config.runtime.managed_name, &places.libexec.join("gpuctl-runtime"));
    json.set_program(GATE, &places.libexec.join(GATE));
    for (name, program) in holes::led(seen, config, &json) {
        match level {
            Level::Strict => json.set_program(&name, &places.runc()),
            _ => json.set_program(&name, Path::new(&program)),
        }
    }
    json.set_default(GATE);
    plan.file(seen, places.daemon_json.clone(), Some(json.render()), 0o644, true);
    let written =
        matches!(plan.steps.last(), Some(Step::File { path, .. }) if *path == places.daemon_json);
    let has = |name: &str| engine.runtimes.contains_key(name);
    let known = engine.default_runtime == GATE && has(GATE) && has(&config.runtime.managed_name);
    if let Some(dockerd) = seen.dockerd.as_ref().filter(|_| written || !known) {
        plan.steps.push(Step::Reload { pid: dockerd.pid, default_runtime: GATE.into() });
    }
    if services && seen.systemd {
        keep::reload(seen, &mut plan);
    }
    let config_changes =
        |step: &Step| matches!(step, Step::File { path, .. } if *path == places.config);
    if seen.systemd && seen.service && plan.steps.iter().any(config_changes) {
        plan.steps.push(Step::Service);
    }
    plan.notes.extend(
        holes::holes(seen, config, &json, level).into_iter().map(|hole| Note::Hole(hole.text)),
    );
    if nvidia {
        image_env(config, level, &mut plan);
    }
    Ok(plan)
}

/// Names under which our program is entered.
fn programs(seen: &Observed, level: Level, plan: &mut Plan) {
    let places = &seen.places;
    let beside = |name: &str| (places.libexec.join(name), PathBuf::from("gpuctl-hook"));
    let below = |path: PathBuf| (path, PathBuf::from("../gpuctl-hook"));
    let mut wanted = vec![beside("gpuctl-runtime"), beside(GATE)];
    if seen.toolkit.is_none() {
        wanted.push(below(places.stub().join("nvidia-container-runtime-hook")));
    }
    if level == Level::Strict {
        wanted.push(below(places.runc()));
    }
    let missing = wanted.into_iter().filter(|(path, _)| !seen.own.contains(path));
    plan.steps.extend(missing.map(|(path, target)| Step::Symlink { path, target }));
}

/// gpuctl's config; whether NVIDIA's runtime stands behind us.
fn own_config(
    seen: &Observed,
    config: &Config,
    level: Level,
    before: &Before,
    engine: &crate::docker::Info,
    plan: &mut Plan,
) -> Result<bool, Failure> {
    let path = &seen.places.config;
    let text = seen.text(path).unwrap_or_default();
    let mut set = Settings::parse(text).map_err(|why| {
        Failure::new(format!("config {} is wrong: {why}", path.display()))
            .hint("mend the config, then try again")
    })?;
    let (real, runc) = real(seen, config, &set, before)?;
    set.set("docker", "root", engine.root.as_str());
    set.set("docker", "host", seen.host.as_str());
    set.set("runtime", "real", real.to_string_lossy().into_owned());
    match &runc {
        Some(runc) => set.set("runtime", "runc", runc.to_string_lossy().into_owned()),
        None => set.remove("runtime", "runc"),
    }
    if level == Level::Observe || set.has("policy", "observe") {
        set.set("policy", "observe", level == Level::Observe);
    }
    let by_env = seen.toolkit.is_some() || runc.is_some();
    let mut by_word = config.gpu.inject == Inject::Env;
    if !seen.cdi && seen.ctk.is_none() && config.gpu.inject == Inject::Cdi {
        if by_env {
            by_word = true;
            set.set("gpu", "inject", "env");
            plan.say("there is no CDI spec and no nvidia-ctk: leased GPUs are named to NVIDIA's runtime by the environment (gpu.inject = \"env\")");
        } else {
            plan.say(format!(
                "there is no CDI spec of {} and no NVIDIA toolkit: no GPU can be put into a container. Install the toolkit and run setup again, or write a CDI spec into {}",
                config.gpu.cdi_kind,
                config.gpu.cdi_dirs.first().map(|d| d.display().to_string()).unwrap_or_default()
            ));
        }
    }
    if by_word && let Some((wrong, mends)) = holes::unheard(seen) {
        plan.say(format!("{wrong}: {mends}"));
    }
    // A name that is in NVIDIA's config no more may be another tool's: it stays until somebody takes it out.
    let named = seen.text(&seen.nvidia_config).map(settings::nvidia_swarm_resource);
    let known = &config.gpu.swarm_resource;
    let new: Vec<String> =
        named.unwrap_or_default().into_iter().filter(|name| !known.contains(name)).collect();
    if !new.is_empty() {
        let all = known.iter().chain(&new).map(String::as_str);
        set.set("gpu", "swarm_resource", all.collect::<toml_edit::Array>());
    }
    plan.file(seen, path.clone(), Some(set.render()), 0o644, false);
    Ok(runc.is_some())
}

fn record(
    seen: &Observed,
    config: &Config,
    level: Level,
    json: &DaemonJson,
    before: &Before,
    plan: &mut Plan,
) {
    let path = config.paths.state.join(super::record::FILE);
    let record = Record {
        schema: SCHEMA,
        level: level.word().into(),
        default_runtime: before.default.clone(),
        led: holes::led(seen, config, json),
    };
    if seen.record.as_ref() != Some(&record) {
        let text = serde_json::to_string_pretty(&record).unwrap_or_default() + "\n";
        plan.file(seen, path, Some(text), 0o600, false);
    }
}

/// /dev/char: now, at boot, and when the driver is loaded.
fn char_links(seen: &Observed, plan: &mut Plan) {
    let places = &seen.places;
    let hook = places.libexec.join("gpuctl-hook");
    if !seen.unlinked.is_empty() {
        plan.steps.push(Step::CharLinks(seen.unlinked.clone()));
    }
    if seen.packaged {
        // What setup made before there was a package would count before what that brings.
        for path in [places.links_unit(), places.links_rule()] {
            if seen.text(&path).is_some_and(|text| text.starts_with(units::MARK)) {
                plan.file(seen, path, None, 0o644, false);
            }
        }
        return;
    }
    let rule = units::links_rule(&hook, &places.config);
    plan.file(seen, places.links_rule(), Some(rule), 0o644, false);
    if !seen.systemd {
        plan.say(format!(
            "systemd does not run this host: have {} links run at boot, before dockerd",
            hook.display()
        ));
        return;
    }
    let unit = units::links_unit(&hook, &places.config);
    plan.file(seen, places.links_unit(), Some(unit), 0o644, false);
    let wanted = places.links_wanted();
    if !seen.symlinks.contains_key(&wanted) {
        plan.steps.push(Step::Symlink { path: wanted, target: "../gpuctl-links.service".into() });
    }
}

fn cdi(seen: &Observed, config: &Config, plan: &mut Plan) {
    if let (false, Some(tool), Some(dir)) = (seen.cdi, &seen.ctk, config.gpu.cdi_dirs.first()) {
        let output = dir.join("nvidia.yaml");
        plan.steps.push(Step::Cdi { tool: tool.clone(), output });
    }
}

fn image_env(config: &Config, level: Level, plan: &mut Plan) {
    use gpuctl_ledger::config::ImageEnvPolicy as P;
    let when = if level == Level::Observe { "will get" } else { "get" };
    plan.say(match config.policy.image_env {
        P::Ignore => format!(
            "NVIDIA's runtime was the default: containers whose image says NVIDIA_VISIBLE_DEVICES=all and whose user asks for no GPU {when} none. \
             policy.image_env = \"claim\" gives them what policy.all says (\"free\", or a number)"
        ),
        P::Claim => format!(
            "NVIDIA's runtime was the default: containers whose image says NVIDIA_VISIBLE_DEVICES=all {when} what policy.all says"
        ),
    });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
