//! doctor: one line a check, and with `fix` what can be mended safely.
//!
//! One file a group of checks. Each has a thin part that looks, with a limit of time, and a pure one
//! that judges what was seen. Nothing here ends the look: what cannot be looked at is a problem in the
//! answer, and where the ledger cannot be opened everything that does without it is still said.

mod ask;
mod audit;
mod cdi;
mod clock;
mod disks;
mod driver;
mod engine;
mod held;
mod ledger;
mod packaged;
mod programs;
mod records;
mod service;
mod toolkit;
mod waiting;

use std::path::Path;
use std::time::Duration;

use gpuctl_ledger::config::Config;

use super::api::{Answer, Check, Failure, Verdict};
use super::context::Context;
use super::runtimes::Runtimes;
use super::{bypass, links};
use crate::docker::Docker;

/// How long the Engine may take for one answer to doctor.
const ENGINE_LIMIT: Duration = Duration::from_secs(10);

/// The checks so far, in the order of the answer.
#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn ok(&mut self, name: &str, detail: impl Into<String>) {
        self.0.push(check(name, Verdict::Ok, detail, None));
    }

    fn warning(&mut self, name: &str, detail: impl Into<String>, fix: Option<String>) {
        self.0.push(check(name, Verdict::Warning, detail, fix));
    }

    fn problem(&mut self, name: &str, detail: impl Into<String>, fix: Option<String>) {
        self.0.push(check(name, Verdict::Problem, detail, fix));
    }

    fn failed(&mut self, name: &str, why: Failure) {
        self.problem(name, why.message, why.hint);
    }
}

fn check(name: &str, verdict: Verdict, detail: impl Into<String>, fix: Option<String>) -> Check {
    Check { name: name.into(), verdict, detail: detail.into(), fix }
}

/// What mends what `--fix` can mend.
fn by_fix() -> Option<String> {
    Some("docker gpuctl doctor --fix".into())
}

/// Looks at everything.
///
/// # Errors
/// None: what cannot be looked at is a problem in the answer.
pub(super) fn doctor(ctx: &Context, fix: bool, user: Option<String>) -> Result<Answer, Failure> {
    let (config, path) = (&ctx.config, ctx.config_path.as_path());
    let mut checks = Checks::default();
    let docker = engine(config, path, &mut checks);
    programs::checks(config, path, fix, &mut checks);
    ledger::checks(ctx, &mut checks);
    audit::checks(config, fix, &mut checks);
    clock::checks(ledger::newest(ctx), &mut checks);
    driver::with_ledger(ctx, fix, &mut checks);
    cdi::checks(config, &mut checks);
    held::checks(ctx, fix, user.as_deref(), &mut checks);
    if let Some(docker) = &docker {
        host(config, path, docker, fix, &mut checks);
        match bypass::checks(ctx, &docker.2) {
            Ok(found) => checks.0.extend(found),
            Err(why) => checks.failed(bypass::NAME, why),
        }
    }
    disks::checks(config, docker.as_ref().map(|d| d.1.storage_driver.as_str()), &mut checks);
    service::checks(config, &mut checks);
    waiting::checks(config, &mut checks);
    match &docker {
        Some(_) => records::checks(ctx, fix, &mut checks),
        None => records::unasked(&mut checks),
    }
    Ok(Answer::Doctor(checks.0))
}

/// What doctor says where the ledger cannot be opened, for `why`: all that does without it.
pub fn doctor_without_ledger(config: &Config, path: &Path, fix: bool, why: Failure) -> Answer {
    let mut checks = Checks::default();
    let docker = engine(config, path, &mut checks);
    programs::checks(config, path, fix, &mut checks);
    checks.failed(ledger::NAME, why);
    audit::checks(config, fix, &mut checks);
    clock::checks(None, &mut checks);
    driver::alone(config, &mut checks);
    cdi::checks(config, &mut checks);
    if let Some(docker) = &docker {
        host(config, path, docker, fix, &mut checks);
    }
    disks::checks(config, docker.as_ref().map(|d| d.1.storage_driver.as_str()), &mut checks);
    service::checks(config, &mut checks);
    waiting::checks(config, &mut checks);
    Answer::Doctor(checks.0)
}

/// The Engine, what it says of itself and which of its runtimes are ours, where it answers.
type Answering = (Docker, crate::docker::Info, Runtimes);

fn engine(config: &Config, path: &Path, checks: &mut Checks) -> Option<Answering> {
    let docker = Docker::connect(&config.docker.host, ENGINE_LIMIT).map_err(Failure::from);
    match docker.and_then(|docker| Ok((docker.info()?, docker))) {
        Ok((info, docker)) => {
            let runtimes = Runtimes::look(config, &info.runtimes);
            engine::judge(&info, &runtimes, config, path, checks);
            Some((docker, info, runtimes))
        }
        Err(why) => {
            let hint = why.hint.clone().or_else(|| Some("systemctl start docker".into()));
            checks.problem(engine::NAME, why.message, hint);
            None
        }
    }
}

/// What concerns the Engine's surroundings and not its containers.
fn host(config: &Config, path: &Path, docker: &Answering, fix: bool, checks: &mut Checks) {
    let (docker, info, _) = docker;
    if let Ok(Some(inventory)) = crate::gpu::read_inventory(config) {
        checks.0.push(links::check(config, &inventory, &info.cgroup_driver, fix));
    }
    let found = crate::setup::checks(config, path, docker);
    checks.0.extend(found.checks);
    toolkit::checks(&found.toolkit, config, checks);
}

/// A node with two GPUs.
#[cfg(test)]
fn two_gpus() -> gpuctl_ledger::model::Inventory {
    serde_json::from_str(
        r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"550.54.14","gpus":[
        {"index":0,"unit":"GPU-a","minor":1,"model":"m","pci":"00000000:01:00.0","memory":8},
        {"index":1,"unit":"GPU-c","minor":2,"model":"m","pci":"00000000:03:00.0","memory":8}]}"#,
    )
    .unwrap()
}
