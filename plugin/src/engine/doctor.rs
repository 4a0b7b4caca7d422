//! doctor: one line a check, and with --fix what can be mended safely.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use gpuctl_ledger::config::{Inject, plain_io_error};
use gpuctl_ledger::model::{Health, Unit};
use gpuctl_ledger::node::{busy, quarantine};
use gpuctl_ledger::rules::quarantine::Cause;
use gpuctl_ledger::view;

use super::api::{Answer, Check, Failure, Verdict};
use super::context::Context;
use super::node::{self, NVML_LIMIT};
use super::{bypass, links, look, reconcile, sharing, watch};
use crate::gpu;

struct Checks(Vec<Check>);

impl Checks {
    fn add(
        &mut self,
        name: &str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: Option<String>,
    ) {
        self.0.push(Check { name: name.into(), verdict, detail: detail.into(), fix });
    }
}

/// Looks at everything.
///
/// # Errors
/// None: what cannot be looked at is a problem in the answer.
pub(super) fn doctor(ctx: &Context, fix: bool, user: Option<String>) -> Result<Answer, Failure> {
    let mut checks = Checks(Vec::new());
    let cgroup_driver = engine(ctx, &mut checks);
    programs(ctx, &mut checks);
    ledger(ctx, &mut checks);
    gpus(ctx, fix, &mut checks);
    quarantined(ctx, fix, user.as_deref(), &mut checks);
    cdi(ctx, &mut checks);
    if let Some(driver) = cgroup_driver {
        if let Ok(inventory) = ctx.view().inventory() {
            checks.0.push(links::check(&ctx.config, &inventory, &driver));
        }
        if let Ok(docker) = ctx.docker() {
            checks.0.extend(crate::setup::checks(&ctx.config, &ctx.config_path, docker));
        }
        match bypass::checks(ctx) {
            Ok(found) => checks.0.extend(found),
            Err(why) => checks.add(bypass::NAME, Verdict::Problem, why.message, why.hint),
        }
    }
    together(ctx, fix, &mut checks);
    Ok(Answer::Doctor(checks.0))
}

/// The Engine's cgroup driver, where it answers.
fn engine(ctx: &Context, checks: &mut Checks) -> Option<String> {
    let info = match ctx.docker().and_then(|docker| Ok(docker.info()?)) {
        Ok(info) => info,
        Err(why) => {
            checks.add("engine", Verdict::Problem, why.message, why.hint);
            return None;
        }
    };
    checks.add("engine", Verdict::Ok, format!("Docker Engine {}", info.version), None);
    let name = &ctx.config.runtime.managed_name;
    if info.runtimes.contains_key(name) {
        checks.add("runtime", Verdict::Ok, format!("runtime {name} is there"), None);
    } else {
        let fix = format!("add runtime {name} to daemon.json and reload dockerd");
        checks.add(
            "runtime",
            Verdict::Problem,
            format!("the Engine has no runtime {name}"),
            Some(fix),
        );
    }
    if info.default_runtime.starts_with("gpuctl") {
        let text = format!("containers of docker run pass {}", info.default_runtime);
        checks.add("enforcement", Verdict::Ok, text, None);
    } else {
        let text = format!(
            "the default runtime is {}: docker run passes by the leases",
            info.default_runtime
        );
        let fix =
            "set \"default-runtime\": \"gpuctl-gate\" in daemon.json and reload dockerd".into();
        checks.add("enforcement", Verdict::Warning, text, Some(fix));
    }
    let root = Path::new(&info.root);
    if root == ctx.config.docker.root {
        checks.add("docker root", Verdict::Ok, info.root.clone(), None);
    } else {
        let text = format!(
            "the Engine's root is {}, the config says {}",
            info.root,
            ctx.config.docker.root.display()
        );
        let fix = format!("set docker.root = \"{}\" in {}", info.root, ctx.config_path.display());
        checks.add("docker root", Verdict::Problem, text, Some(fix));
    }
    Some(info.cgroup_driver)
}

/// Programs that root runs must be root's alone.
fn programs(ctx: &Context, checks: &mut Checks) {
    let files = [("hook", &ctx.config.runtime.hook), ("real runtime", &ctx.config.runtime.real)];
    for (name, path) in files {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(meta) if meta.uid() != 0 || meta.mode() & 0o022 != 0 => checks.add(
                name,
                Verdict::Problem,
                format!("{shown} can be written by others than root"),
                Some(format!("chown root {shown}; chmod go-w {shown}")),
            ),
            Ok(meta) if !meta.is_file() || meta.mode() & 0o111 == 0 => {
                checks.add(name, Verdict::Problem, format!("{shown} is no program"), None);
            }
            Ok(_) => checks.add(name, Verdict::Ok, shown.to_string(), None),
            Err(_) => checks.add(name, Verdict::Problem, format!("{shown} is missing"), None),
        }
    }
}

fn ledger(ctx: &Context, checks: &mut Checks) {
    let began = Instant::now();
    let shown = ctx.ledger.store().shown().to_owned();
    let read = ctx.ledger.leases().and_then(|leases| ctx.ledger.try_write().map(|()| leases));
    match read {
        Ok(leases) => {
            let took = began.elapsed();
            let text = format!(
                "{shown}: {} leases, looked at in {:.1} ms",
                leases.len(),
                took.as_secs_f64() * 1000.0
            );
            let slow = took > Duration::from_millis(500);
            checks.add("ledger", if slow { Verdict::Warning } else { Verdict::Ok }, text, None);
        }
        Err(why) => {
            let why = Failure::from(why);
            checks.add("ledger", Verdict::Problem, why.message, why.hint);
        }
    }
}

fn gpus(ctx: &Context, fix: bool, checks: &mut Checks) {
    let known = ctx.view().inventory().is_ok();
    let asked = if fix || !known {
        node::refresh(ctx).map_err(|e| (e.to_string(), e.hint().to_owned()))
    } else {
        let config = ctx.config.clone();
        gpu::within(NVML_LIMIT, move || {
            let previous = gpu::read_inventory(&config).ok().flatten();
            gpu::Driver::open(&config)?.inventory(&config, previous.as_ref())
        })
        .map_err(|e| (e.to_string(), e.hint().to_owned()))
    };
    match asked {
        Ok(inventory) => {
            let text = format!("driver {}, {} GPUs", inventory.driver, inventory.gpus.len());
            checks.add("driver", Verdict::Ok, text, None);
            for gpu in &inventory.gpus {
                if let Health::Bad(why) = &gpu.health {
                    let text = format!("GPU {} ({}): {why}", gpu.index, gpu.unit);
                    checks.add("gpu", Verdict::Problem, text, None);
                }
            }
            checks.0.extend(sharing::checks(&ctx.config.gpu.shared, &inventory));
        }
        Err((why, hint)) => checks.add("driver", Verdict::Problem, why, Some(hint)),
    }
}

/// GPUs in quarantine, and processes on GPUs that belong to no lease. `fix` clears by hand what can be
/// so cleared.
fn quarantined(ctx: &Context, fix: bool, user: Option<&str>, checks: &mut Checks) {
    const NAME: &str = "quarantine";
    let inventory = ctx.view().inventory().ok();
    let gpu = |unit: &Unit| {
        let known = inventory.as_ref().and_then(|inventory| inventory.piece(unit));
        known.map_or_else(
            || format!("GPU {unit}"),
            |piece| format!("GPU {} ({unit})", piece.place()),
        )
    };
    // Also with --fix it is first seen what is over by itself.
    let before = busy::last_watch(&ctx.config.paths.watch());
    let seen = if fix { watch::seen(ctx) } else { look::look(ctx, before.as_ref()) };
    let cleared = if fix { watch::pardon(ctx, user) } else { Ok(Vec::new()) };
    match cleared {
        Ok(cleared) => {
            for held in cleared {
                let text = format!("{}: cleared by hand: {}", gpu(&held.unit), held.cause.words());
                checks.add(NAME, Verdict::Fixed, text, None);
            }
        }
        Err(why) => checks.add(NAME, Verdict::Problem, why.message, why.hint),
    }
    match quarantine::read(&ctx.config.paths, &ctx.boot_id) {
        Ok(now) => {
            for held in &now.held {
                let text = format!("{}: {}", gpu(&held.unit), view::quarantine_words(held));
                let by_hand = match held.cause {
                    Cause::Card { .. } => {
                        "nvidia-smi and dmesg say more; it comes back once it answers"
                    }
                    _ => {
                        "it comes back once it is clean; docker gpuctl doctor --fix clears it by hand"
                    }
                };
                checks.add(NAME, Verdict::Problem, text, Some(by_hand.into()));
            }
        }
        Err(e) => {
            let text = format!("the list of GPUs in quarantine: {}", plain_io_error(&e));
            let fix = Some("docker gpuctl doctor --fix".into());
            checks.add(NAME, Verdict::Problem, text, fix);
        }
    }
    // That the driver does not answer has been said already.
    for (unit, on) in seen.map(|seen| seen.on).unwrap_or_default() {
        if !on.strangers.is_empty() {
            let text = format!(
                "{}: {} without a lease: it is not granted to anybody",
                gpu(&unit),
                look::strangers_words(&on.strangers)
            );
            let fix = "nothing is killed here: see whose it is, and end it, or give it a lease";
            checks.add("processes", Verdict::Warning, text, Some(fix.into()));
        }
    }
}

fn cdi(ctx: &Context, checks: &mut Checks) {
    if ctx.config.gpu.inject == Inject::Env {
        let text = "GPUs are named to NVIDIA's runtime by its environment";
        return checks.add("injection", Verdict::Ok, text, None);
    }
    let dirs = &ctx.config.gpu.cdi_dirs;
    let kind = &ctx.config.gpu.cdi_kind;
    let has = dirs.iter().any(|dir| {
        std::fs::read_dir(dir).is_ok_and(|mut entries| {
            entries.any(|entry| {
                let Ok(entry) = entry else { return false };
                gpuctl_ledger::node::files::read_bounded(&entry.path(), 4 << 20)
                    .is_ok_and(|text| String::from_utf8_lossy(&text).contains(kind.as_str()))
            })
        })
    });
    let shown: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
    if has {
        checks.add(
            "injection",
            Verdict::Ok,
            format!("CDI spec of {kind} in {}", shown.join(", ")),
            None,
        );
    } else {
        let fix = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, or gpu.inject = \"env\" in the config";
        let text = format!("no CDI spec of {kind} in {}", shown.join(", "));
        checks.add("injection", Verdict::Problem, text, Some(fix.into()));
    }
}

fn together(ctx: &Context, fix: bool, checks: &mut Checks) {
    match reconcile::reconcile(ctx, fix) {
        Ok(findings) if findings.is_empty() => {
            checks.add("records", Verdict::Ok, "ledger, node and Docker agree", None);
        }
        Ok(findings) => {
            for finding in findings {
                let (verdict, fix) = match (finding.mended, finding.by_hand) {
                    (true, _) => (Verdict::Fixed, None),
                    (false, Some(by_hand)) => (Verdict::Problem, Some(by_hand)),
                    (false, None) => {
                        (Verdict::Problem, Some("docker gpuctl doctor --fix".to_owned()))
                    }
                };
                checks.add("records", verdict, finding.text, fix);
            }
        }
        Err(why) => checks.add("records", Verdict::Problem, why.message, why.hint),
    }
}
