//! `docker gpuctl setup`: installs enforcement on this host, and removes it.
//!
//! `look` sees, `plan` and `remove` decide, `execute` does. What is decided is data, so that
//! `--dry-run` shows just what would be done. Setup twice changes nothing the second time, and one
//! that was killed goes on with the next: each step is harmless without those after it. See
//! docs/setup.md and docs/adr/0009-setup.md.

mod access;
mod daemon_json;
mod daemons;
mod diff;
mod doctor;
mod execute;
mod execute_seeds;
mod files;
mod flags;
mod holes;
mod keep;
mod look;
mod observed;
mod ordered;
mod plan;
mod record;
mod remove;
mod seed;
mod services;
mod settings;
mod show;
#[cfg(test)]
mod testing;
mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::node::lock;

use crate::docker::Docker;
use crate::engine::api::Failure;
use crate::ui;
pub(crate) use doctor::{Toolkit, checks, leads_through_us};
use observed::{Level, Places};

/// The limit of a call to the Engine.
const DOCKER_LIMIT: Duration = Duration::from_secs(30);
/// dockerd's config, where no flag names another.
const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `--observe`.
    Observe,
    /// No flag.
    Cooperative,
    /// `--strict`.
    Strict,
    /// `--remove`.
    Remove,
    /// `--reload-units`: systemd reads its units anew, and no container loses a GPU by it.
    ReloadUnits,
}

/// One call of setup.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is wanted.
    pub wanted: Wanted,
    /// Only tell.
    pub dry_run: bool,
    /// Before the system's paths: see `observed::Places`.
    pub root: PathBuf,
    /// The settings as they are.
    pub config: Config,
    /// Where they are.
    pub config_path: PathBuf,
    /// The Engine: `unix:///var/run/docker.sock`.
    pub host: String,
}

fn places(root: &Path, config: &Config, config_path: &Path) -> Places {
    let libexec = config.runtime.hook.parent().unwrap_or(Path::new("/")).to_owned();
    let mut places = Places {
        root: root.to_owned(),
        config: config_path.to_owned(),
        daemon_json: PathBuf::new(),
        libexec,
    };
    places.daemon_json = places.at(DAEMON_JSON);
    places
}

/// Sets this host up, or removes what setup made.
///
/// # Errors
/// [`Failure`]: nothing was changed, or it says where it stopped.
pub fn run(call: &Call) -> Result<(), Failure> {
    let Call { config, .. } = call;
    let places = places(&call.root, config, &call.config_path);
    let _locked = if call.dry_run {
        None
    } else {
        // No container's name begins with a dot.
        let locks = config.paths.locks();
        let locked = lock::take(&locks, ".setup", Duration::ZERO).map_err(|e| {
            let why = gpuctl_ledger::config::plain_io_error(&e);
            Failure::new(format!("{} cannot be used: {why}", locks.display()))
        })?;
        Some(locked.ok_or_else(|| {
            Failure::new("another setup is at work").hint("try again when it is done")
        })?)
    };
    let docker = Docker::connect(&call.host, DOCKER_LIMIT)?;
    let answers = docker.info();
    let docker = match (&answers, call.wanted) {
        (Err(_), Wanted::Remove | Wanted::ReloadUnits) => None,
        (Err(why), _) => return Err(why.clone().into()),
        (Ok(_), _) => Some(&docker),
    };
    let seeding = !matches!(call.wanted, Wanted::Remove | Wanted::ReloadUnits);
    let seen = look::look(config, places.clone(), &call.host, docker, seeding)?;
    let level = match call.wanted {
        Wanted::Observe => Some(Level::Observe),
        Wanted::Cooperative => Some(Level::Cooperative),
        Wanted::Strict => Some(Level::Strict),
        Wanted::Remove | Wanted::ReloadUnits => None,
    };
    let plan = match (level, call.wanted) {
        (Some(level), _) => plan::plan(&seen, config, level)?,
        (None, Wanted::ReloadUnits) => keep::units(&seen)?,
        (None, _) => remove::plan(&seen, config)?,
    };
    if call.dry_run {
        ui::lines(show::dry_run(&plan));
    } else {
        let doing = execute::Doing { seen: &seen, docker, places: &seen.places, config };
        doing.all(&plan)?;
        if level.is_some() {
            late(call, &places, docker)?;
        }
    }
    if plan.steps.is_empty() && call.wanted != Wanted::ReloadUnits {
        let word = level.map_or("removed", Level::word);
        ui::tell(&format!("nothing to change: {word}"));
    }
    for note in show::notes(&plan) {
        ui::tell(&note);
    }
    Ok(())
}

/// What was started between the look and the reload has leases too.
fn late(call: &Call, places: &Places, docker: Option<&Docker>) -> Result<(), Failure> {
    let config = Config::at(&call.config_path).map_err(|e| Failure::new(e.to_string()))?;
    let seen = look::look(&config, places.clone(), &call.host, docker, true)?;
    let Ok(inventory) = &seen.driver else { return Ok(()) };
    let seeding = seed::seeding(&seen.containers, inventory, &seen.leases);
    if seeding.seeds.is_empty() {
        return Ok(());
    }
    let plan = plan::Plan { steps: vec![plan::Step::Seeds(seeding.seeds)], notes: Vec::new() };
    execute::Doing { seen: &seen, docker, places: &seen.places, config: &config }.all(&plan)
}
