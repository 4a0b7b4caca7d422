//! Ways around, as far as setup and doctor can see them. Pure.

use std::path::Path;

use gpuctl_ledger::config::{Config, Inject};

use super::daemon_json::{DaemonJson, Runtime, STOCK};
use super::observed::{Level, Observed, Program};
use super::plan::GATE;

/// What a runtime of daemon.json leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leads {
    /// Us.
    Ours,
    /// `runc` on PATH, where ours stands first in strict mode.
    ByPath,
    /// The real runc, by absolute path: can be led through us.
    Runc(String),
    /// NVIDIA's runtime, which calls runc in its turn.
    Nvidia,
    /// A shim or a program that ours cannot stand before.
    Other(String),
}

fn is_ours(seen: &Observed, config: &Config, runtime: &Runtime) -> bool {
    runtime.name == GATE
        || runtime.name == config.runtime.managed_name
        || runtime.program.as_deref().is_some_and(|p| Path::new(p) == seen.places.runc())
        || runtime.program.as_deref().and_then(|p| seen.program(p)).is_some_and(|p| p.ours)
}

fn leads(seen: &Observed, config: &Config, runtime: &Runtime) -> Leads {
    if is_ours(seen, config, runtime) {
        return Leads::Ours;
    }
    if let Some(shim) = &runtime.shim {
        return Leads::Other(shim.clone());
    }
    let name = runtime.program.as_deref().unwrap_or(STOCK);
    let program = seen.program(name);
    if program.is_some_and(Program::is_nvidia) {
        return Leads::Nvidia;
    }
    if name == STOCK {
        return Leads::ByPath;
    }
    let runc = seen.program(STOCK).map(|p| p.path.as_path());
    let real = [Some(config.runtime.real.as_path()), config.runtime.runc.as_deref(), runc];
    let is_runc = program.is_some_and(|p| {
        real.contains(&Some(p.path.as_path()))
            || p.path.file_name().is_some_and(|file| file == STOCK)
    });
    if is_runc && Path::new(name).is_absolute() {
        return Leads::Runc(name.to_owned());
    }
    Leads::Other(name.to_owned())
}

/// Whether a runtime leads through us where ours is the first `runc` on the daemons' PATH.
pub(super) fn is_led(seen: &Observed, config: &Config, json: &DaemonJson, name: &str) -> bool {
    match json.runtime(name) {
        Some(runtime) => {
            matches!(leads(seen, config, &runtime), Leads::Ours | Leads::ByPath | Leads::Nvidia)
        }
        None => matches!(name, STOCK | "io.containerd.runc.v2"),
    }
}

/// The runtimes of daemon.json that name the real runc by absolute path, or did before they were led
/// through us: name, and that path.
pub(super) fn led(seen: &Observed, config: &Config, json: &DaemonJson) -> Vec<(String, String)> {
    let before = seen.record.iter().flat_map(|r| &r.led);
    let ours = seen.places.runc();
    let still = |name: &str| {
        json.runtime(name).and_then(|r| r.program).is_some_and(|p| Path::new(&p) == ours)
    };
    let mut led: Vec<(String, String)> = before.filter(|(name, _)| still(name)).cloned().collect();
    for runtime in json.runtimes() {
        if let Leads::Runc(program) = leads(seen, config, &runtime) {
            led.push((runtime.name, program));
        }
    }
    led
}

/// A way around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole {
    /// In one line.
    pub(super) text: String,
    /// What closes it, where something does.
    pub(super) closes: Option<String>,
}

impl Hole {
    fn new(text: String, closes: Option<&str>) -> Self {
        Self { text, closes: closes.map(str::to_owned) }
    }
}

/// What stays open at a level, a line each. `json` is daemon.json as it will be.
pub(super) fn holes(
    seen: &Observed,
    config: &Config,
    json: &DaemonJson,
    level: Level,
) -> Vec<Hole> {
    let mut holes = Vec::new();
    let strict = level == Level::Strict;
    let mut passing = vec![STOCK.to_owned()];
    for runtime in json.runtimes() {
        let name = &runtime.name;
        match leads(seen, config, &runtime) {
            Leads::Ours => {}
            Leads::ByPath | Leads::Runc(_) | Leads::Nvidia if strict => {}
            Leads::ByPath | Leads::Runc(_) | Leads::Nvidia => {
                if !passing.contains(name) {
                    passing.push(name.clone());
                }
            }
            Leads::Other(what) => {
                let text = format!(
                    "runtime {name} ({what}) starts containers that gpuctl never sees: take it out of {} if nobody needs it",
                    seen.places.daemon_json.display()
                );
                holes.push(Hole::new(text, None));
            }
        }
    }
    if strict {
        return holes;
    }
    let text = format!(
        "docker run --runtime {} and --runtime io.containerd.runc.v2 pass by: docker gpuctl setup --strict closes that",
        passing.join(", --runtime ")
    );
    holes.insert(0, Hole::new(text, Some("docker gpuctl setup --strict")));
    let foreign: Vec<&str> = seen
        .containers
        .iter()
        .filter(|c| c.runtime != GATE && c.runtime != config.runtime.managed_name && !c.exempt)
        .map(|c| c.name.as_str())
        .collect();
    if !foreign.is_empty() {
        let text = format!(
            "made before, with another runtime, and passing by until made anew: {}",
            some(&foreign)
        );
        let closes = "docker gpuctl setup --strict catches them at their next start, and then \
                      docker gpuctl adopt takes one in";
        holes.push(Hole::new(text, Some(closes)));
    }
    holes
}

/// NVIDIA's toolkit may be told to take GPUs from another variable, which a container's author sets: it counts
/// before the leased GPUs wherever it is the toolkit that puts them in, unless our config names it too, as it
/// does after setup.
pub(super) fn swarm_resource(seen: &Observed, config: &Config) -> Option<Hole> {
    let text = seen.text(&seen.nvidia_config)?;
    let names: Vec<String> = super::settings::nvidia_swarm_resource(text)
        .into_iter()
        .filter(|name| !config.gpu.swarm_resource.contains(name))
        .collect();
    let real = seen.program(&config.runtime.real.to_string_lossy());
    let by_env = !seen.cdi && seen.ctk.is_none() || config.gpu.inject == Inject::Env;
    let toolkits = by_env || real.is_some_and(Program::is_nvidia);
    (toolkits && !names.is_empty()).then(|| {
        let text = format!(
            "whoever sets {} in a container gets the GPUs that it names from NVIDIA's toolkit: swarm-resource of {} is not in gpu.swarm_resource",
            names.join(" or "),
            seen.nvidia_config.display()
        );
        Hole::new(text, Some("docker gpuctl setup"))
    })
}

/// NVIDIA's toolkit may be told to heed the environment of privileged containers only. Where leased GPUs are
/// named to it by the environment, what is wrong then, and what mends it: a container would start without
/// its GPUs and not say so.
pub(super) fn unheard(seen: &Observed) -> Option<(String, String)> {
    let text = seen.text(&seen.nvidia_config)?;
    let name = super::settings::NVIDIA_HEEDS;
    let file = seen.nvidia_config.display();
    (!super::settings::nvidia_heeds_environment(text)).then(|| {
        (
            format!("containers start without the GPUs that they lease: gpu.inject is \"env\", and {name} = false in {file} has NVIDIA's toolkit pass over the environment"),
            format!("set {name} = true in {file}, or have a CDI spec made (nvidia-ctk cdi generate) and set gpu.inject = \"cdi\" in {}", seen.places.config.display()),
        )
    })
}

/// The first few of many.
pub(super) fn some(names: &[&str]) -> String {
    const MOST: usize = 10;
    let shown = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}
