//! Running containers that may use GPUs and have never passed us: another runtime started them.
//!
//! What they were created with tells, not what they do: a GPU that is open is seen by the node's own
//! look, one that may be opened at any time is not. Only containers of other runtimes than ours are
//! looked at. Ours takes out what is not leased, and inspect shows it all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use gpuctl_ledger::config::{Config, PrivilegedPolicy};
use gpuctl_ledger::model::ContainerId;
use gpuctl_ledger::node::busy::NVIDIA_MAJOR;
use nix::sys::stat::{major, minor};
use serde_json::Value;

use super::api::{Check, Failure, Verdict};
use super::context::Context;
use super::runtimes::Runtimes;
use crate::docker::Inspect;
use crate::gpu;

/// The name of the check.
pub(super) const NAME: &str = "passing by";
/// Minors of NVIDIA's major that are no GPU: nvidia-modeset and nvidiactl.
const SHARED_MINORS: [u64; 2] = [254, 255];
/// The flag that opens every device of the host.
const PRIVILEGED: &str = "--privileged";
/// How long all containers together are asked about.
const LIMIT: Duration = Duration::from_secs(20);
/// How long the device nodes are looked at: one may lie on a filesystem that hangs.
const STAT_LIMIT: Duration = Duration::from_secs(2);

/// GPUs' minors by the path of a node on the host: numbers count, names do not.
type Nodes = BTreeMap<String, Option<u64>>;

/// One that passes by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bypass {
    name: String,
    runtime: String,
    /// What it was given: `--device /dev/nvidia3`.
    given: Vec<String>,
}

/// Looks at what runs, by these runtimes of the Engine.
///
/// # Errors
/// The Engine's and the ledger's.
pub(super) fn checks(ctx: &Context, runtimes: &Runtimes) -> Result<Vec<Check>, Failure> {
    let until = Instant::now() + LIMIT;
    let docker = ctx.docker()?;
    let mut shown = Vec::new();
    let mut unseen = 0;
    for row in docker.list(false)? {
        if Instant::now() >= until {
            unseen += 1;
            continue;
        }
        // One that has just ended is none.
        shown.extend(docker.inspect(&row.id)?);
    }
    let leases = ctx.ledger.leases()?;
    let leased = leases.into_values().map(|at| at.record.holder.container).collect();
    let paths: Vec<String> = shown.iter().flat_map(device_paths).map(str::to_owned).collect();
    let nodes = gpu::within(STAT_LIMIT, move || Ok(look(paths))).unwrap_or_default();
    let found = bypasses(&shown, &leased, &ctx.config, &nodes, runtimes);
    let mut checks: Vec<Check> = found.iter().map(|b| b.check(&ctx.config_path)).collect();
    if unseen > 0 {
        let text = format!("the Engine is slow: {unseen} running containers were not looked at");
        checks.push(check(Verdict::Warning, text, None));
    } else if checks.is_empty() {
        let text = "no running container was given GPUs by another runtime than ours";
        checks.push(check(Verdict::Ok, text.into(), None));
    }
    Ok(checks)
}

fn check(verdict: Verdict, detail: String, fix: Option<String>) -> Check {
    Check { name: NAME.into(), verdict, detail, fix }
}

impl Bypass {
    fn check(&self, config: &Path) -> Check {
        let Self { name, runtime, given } = self;
        let text = format!(
            "{name} was started by runtime {runtime} with {} and holds no lease",
            given.join(", ")
        );
        let fix = format!(
            "docker rm -f {name}, and make it anew with docker gpuctl run --gpus N; \
             or name it in policy.exempt of {}",
            config.display()
        );
        // One that is only privileged was likely not meant to use any.
        let asks = given.iter().any(|flag| flag != PRIVILEGED);
        let verdict = if asks { Verdict::Problem } else { Verdict::Warning };
        check(verdict, text, Some(fix))
    }
}

/// Which of these pass by.
fn bypasses(
    shown: &[Inspect],
    leased: &BTreeSet<ContainerId>,
    config: &Config,
    nodes: &Nodes,
    runtimes: &Runtimes,
) -> Vec<Bypass> {
    let foreign = |s: &&Inspect| {
        let ours = runtimes.is_ours(config, s.runtime());
        s.running() && !ours && !s.id().is_some_and(|id| leased.contains(&id)) && !exempt(s, config)
    };
    let told = |s: &Inspect| {
        let given = given(s, config, nodes);
        let bypass = Bypass { name: s.name().into(), runtime: s.runtime().into(), given };
        (!bypass.given.is_empty()).then_some(bypass)
    };
    shown.iter().filter(foreign).filter_map(told).collect()
}

/// Whether root's exempt list has it: as the wrapper reads that list.
pub(crate) fn exempt(shown: &Inspect, config: &Config) -> bool {
    config.policy.exempt.iter().any(|entry| {
        entry
            .image
            .as_deref()
            .is_none_or(|image| image == shown.image() || image == shown.image_id())
            && entry.name.as_deref().is_none_or(|name| name == shown.name())
    })
}

fn list<'a>(shown: &'a Inspect, pointer: &str) -> impl Iterator<Item = &'a Value> {
    shown.0.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn device_paths(shown: &Inspect) -> impl Iterator<Item = &str> {
    list(shown, "/HostConfig/Devices").filter_map(|d| d.get("PathOnHost")?.as_str())
}

/// By which flags it may open GPUs; none where it may not.
fn given(shown: &Inspect, config: &Config, nodes: &Nodes) -> Vec<String> {
    let mut flags: Vec<String> = device_paths(shown)
        .filter(|path| match nodes.get(*path) {
            Some(Some(minor)) => !SHARED_MINORS.contains(minor),
            Some(None) => false,
            None => named_as_gpu(path),
        })
        .map(|path| format!("--device {path}"))
        .collect();
    if list(shown, "/HostConfig/DeviceRequests").any(|r| asks_for_gpus(r, &config.gpu.cdi_kind)) {
        flags.push("--gpus".into());
    }
    let rules = list(shown, "/HostConfig/DeviceCgroupRules").filter_map(Value::as_str);
    flags.extend(rules.filter(|r| opens_gpus(r)).map(|r| format!("--device-cgroup-rule '{r}'")));
    let privileged = shown.0.pointer("/HostConfig/Privileged") == Some(&Value::Bool(true));
    if privileged && config.policy.privileged != PrivilegedPolicy::Allow {
        flags.push(PRIVILEGED.into());
    }
    // Many images carry the variable; only NVIDIA's own runtime heeds it.
    if shown.runtime().contains("nvidia")
        && let Some(value) = list(shown, "/Config/Env")
            .filter_map(|v| v.as_str()?.strip_prefix("NVIDIA_VISIBLE_DEVICES="))
            .last()
            .filter(|v| !["", "none", "void"].contains(v))
    {
        flags.push(format!("NVIDIA_VISIBLE_DEVICES={value}"));
    }
    flags
}

/// What these paths are; those that are not there, or lie in the Engine's own /dev, are left out.
fn look(paths: Vec<String>) -> Nodes {
    let of = |path: String| {
        let meta = std::fs::metadata(&path).ok()?;
        let nvidia = meta.file_type().is_char_device() && major(meta.rdev()) == NVIDIA_MAJOR;
        Some((path, nvidia.then(|| minor(meta.rdev()))))
    };
    paths.into_iter().filter_map(of).collect()
}

fn named_as_gpu(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("nvidia").is_some_and(|n| n.parse::<u32>().is_ok())
}

/// A request of `--gpus`, or of `--device nvidia.com/gpu=...`.
fn asks_for_gpus(request: &Value, cdi_kind: &str) -> bool {
    let texts = |value: Option<&Value>| -> Vec<String> {
        let list = value.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let driver = request.get("Driver").and_then(Value::as_str).unwrap_or_default();
    let capable = request.get("Capabilities").and_then(Value::as_array).into_iter().flatten();
    let by_cdi = texts(request.get("DeviceIDs"))
        .iter()
        .any(|id| id.split_once('=').is_some_and(|(kind, _)| kind == cdi_kind));
    driver == "nvidia"
        || (driver == "cdi" && by_cdi)
        || capable.into_iter().any(|all| texts(Some(all)).iter().any(|c| c == "gpu"))
}

/// Whether a rule as `c 195:* rwm` lets a GPU be opened.
fn opens_gpus(rule: &str) -> bool {
    let mut words = rule.split_whitespace();
    let (Some(kind), Some(numbers)) = (words.next(), words.next()) else { return false };
    let (high, low) = numbers.split_once(':').unwrap_or((numbers, "*"));
    let is_gpu = low == "*" || low.parse().is_ok_and(|n: u64| !SHARED_MINORS.contains(&n));
    let access = words.next().unwrap_or("rwm");
    let nvidia = high == "*" || high.parse() == Ok(NVIDIA_MAJOR);
    access.contains(['r', 'w']) && (kind == "a" || (kind == "c" && nvidia && is_gpu))
}

#[cfg(test)]
#[path = "bypass_tests.rs"]
mod tests;
