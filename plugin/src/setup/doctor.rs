//! What doctor says of the level of installation, and the ways around that setup knows.

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::{Config, Inject};

use super::observed::{Daemon, Level, Observed};
use super::plan::GATE;
use super::{daemon_json, holes, look, places};
use crate::docker::Docker;
use crate::engine::api::{Check, Verdict};

const LEVEL: &str = "level";

fn check(name: &str, verdict: Verdict, detail: impl Into<String>, fix: Option<String>) -> Check {
    Check { name: name.into(), verdict, detail: detail.into(), fix }
}

/// Whether a daemon finds our `runc` first.
fn is_strict(daemon: Option<&Daemon>, strict: &Path) -> bool {
    daemon.is_some_and(|d| d.path.split(':').next().is_some_and(|first| Path::new(first) == strict))
}

/// The level that is in force: what runs counts, not what is written. `None` where no level is.
pub(super) fn level(seen: &Observed, config: &Config) -> Option<Level> {
    let strict = seen.places.strict();
    let ours = seen.own.contains(&seen.places.runc());
    let separate = seen.flags.containerd.is_some();
    let by_path = ours
        && is_strict(seen.dockerd.as_ref(), &strict)
        && (!separate || is_strict(seen.containerd.as_ref(), &strict));
    let by_default = seen.engine.as_ref().is_some_and(|e| e.default_runtime == GATE)
        && elsewhere(seen).is_none();
    match (by_path, by_default) {
        _ if (by_path || by_default) && config.policy.observe => Some(Level::Observe),
        (true, _) => Some(Level::Strict),
        (false, true) => Some(Level::Cooperative),
        (false, false) => None,
    }
}

/// Where the Engine's runtime of our gate's name leads, where that is not to us.
fn elsewhere(seen: &Observed) -> Option<&str> {
    let program = seen.engine.as_ref()?.runtimes.get(GATE)?;
    let ours = match seen.program(program) {
        Some(found) => found.ours,
        None => seen.own.contains(Path::new(program)),
    };
    (!ours).then_some(program.as_str())
}

/// NVIDIA's toolkit, as far as it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Toolkit {
    /// nvidia-ctk.
    pub(crate) ctk: Option<PathBuf>,
    /// nvidia-container-runtime-hook on dockerd's PATH.
    pub(crate) hook: Option<PathBuf>,
}

/// What was seen of the host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Judged.
    pub(crate) checks: Vec<Check>,
    /// For who asks it for its version.
    pub(crate) toolkit: Toolkit,
}

/// Looks at the host.
pub(crate) fn checks(config: &Config, config_path: &Path, docker: &Docker) -> Host {
    let places = places(Path::new("/"), config, config_path);
    match look::look(config, places, &config.docker.host, Some(docker), false) {
        Ok(seen) => Host {
            checks: judge(&seen, config),
            toolkit: Toolkit { ctk: seen.ctk, hook: seen.toolkit },
        },
        Err(why) => Host {
            checks: vec![check(LEVEL, Verdict::Problem, why.message, why.hint)],
            ..Host::default()
        },
    }
}

/// Whether containers of a runtime pass us at their next start, as the host is now.
pub(crate) fn leads_through_us(
    config: &Config,
    config_path: &Path,
    docker: &Docker,
    runtime: &str,
) -> bool {
    let places = places(Path::new("/"), config, config_path);
    let Ok(seen) = look::look(config, places, &config.docker.host, Some(docker), false) else {
        return false;
    };
    // That bare containers are only observed changes nothing for those that are managed.
    let enforced = Config { policy: Default::default(), ..config.clone() };
    let strict = level(&seen, &enforced) == Some(Level::Strict);
    strict && daemon_json(&seen).is_ok_and(|json| holes::is_led(&seen, config, &json, runtime))
}

pub(super) fn judge(seen: &Observed, config: &Config) -> Vec<Check> {
    let level = level(seen, config);
    let wanted = seen.record.as_ref().map(|r| r.level.as_str());
    let setup = |flag: &str| Some(format!("docker gpuctl setup{flag}"));
    let mut checks = Vec::new();
    let restart = match seen.flags.containerd {
        Some(_) => "systemctl restart containerd docker",
        None => "systemctl restart docker",
    };
    match level {
        None if seen.hook.is_none() && seen.engine.as_ref().is_some_and(|e| e.default_runtime == GATE) => {
            checks.push(check(
                LEVEL,
                Verdict::Problem,
                "cannot be told while gpuctl-hook is missing or may not be run",
                Some("see the line of the hook, then docker gpuctl doctor".into()),
            ));
        }
        None if seen.engine.as_ref().is_some_and(|e| e.default_runtime == GATE) => {
            let program = elsewhere(seen).unwrap_or_default();
            checks.push(check(
                LEVEL,
                Verdict::Problem,
                format!("the runtime {GATE} is {program}, which is not gpuctl's: nothing is kept from any container"),
                setup(""),
            ));
        }
        None => checks.push(check(LEVEL, Verdict::Warning, "not installed: docker run passes by the leases", setup(""))),
        Some(level) if wanted == Some("strict") && level == Level::Cooperative => checks.push(check(
            LEVEL,
            Verdict::Warning,
            "cooperative; strict is set up and begins when dockerd and containerd are restarted",
            Some(restart.into()),
        )),
        Some(level) if wanted.is_some_and(|w| w != "strict") && level == Level::Strict => checks.push(check(
            LEVEL,
            Verdict::Warning,
            "strict, until dockerd and containerd are restarted",
            Some(restart.into()),
        )),
        Some(Level::Observe) => {
            checks.push(check(LEVEL, Verdict::Warning, "observe: docker run is logged, and nothing is kept from it", setup("")));
        }
        Some(level) => checks.push(check(LEVEL, Verdict::Ok, level.word(), None)),
    }
    if level.is_some()
        && config.gpu.inject == Inject::Env
        && let Some((wrong, mends)) = holes::unheard(seen)
    {
        checks.push(check("injection", Verdict::Problem, wrong, Some(mends)));
    }
    if let (Some(level), Ok(json)) = (level, daemon_json(seen)) {
        let level = if level == Level::Observe { Level::Cooperative } else { level };
        let mut found = holes::holes(seen, config, &json, level);
        found.extend(holes::swarm_resource(seen, config));
        let told = |hole: holes::Hole| check("hole", Verdict::Warning, hole.text, hole.closes);
        checks.extend(found.into_iter().map(told));
    }
    checks
}

fn daemon_json(seen: &Observed) -> Result<daemon_json::DaemonJson, crate::engine::api::Failure> {
    super::plan::daemon_json(seen)
}
