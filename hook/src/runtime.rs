//! The OCI runtime wrapper: its verbs, and what there is to know of a container before anything is decided.
//!
//! Only `create`, `run` and `restore` are changed. `delete` is passed on and is a hint for release.
//! All else is exec'd through untouched.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::config::{Config, ConfigError};
use gpuctl_ledger::model::ContainerId;
use gpuctl_ledger::node::docker::{DockerFiles, DockerFilesError};
use gpuctl_ledger::node::{files, notes};

use crate::command::{self, Command};
use crate::driver::Driver;
use crate::gate::LONGEST_SPEC;
use crate::making::Making;
use crate::spec::Spec;
use crate::spec_alone::without_gpus;
use crate::{fault, real, refuse, turned_away};

/// Entered as an OCI runtime, under the program name `entered`. The exit status; on success it does
/// not return.
pub fn main(entered: &str, args: &[OsString]) -> i32 {
    let command = command::parse(args);
    let loaded = Config::load();
    let fallback = Config::default();
    let config = loaded.as_ref().map_or(&fallback, |(config, _)| config);
    let real = match real::find(real::behind(config, entered)) {
        Ok(real) => real,
        Err(why) => {
            if command.makes_container() {
                turned_away_early(config, &command, &why);
            }
            return refuse::tell(&command, &why);
        }
    };
    let verdict = match command.verb.as_str() {
        "delete" => return delete(config, &real, &command, args),
        _ if command.makes_container() => create(entered, &loaded, config, &command),
        _ => Ok(()),
    };
    match verdict {
        Ok(()) => refuse::tell(&command, &real::exec(&real, args)),
        Err(why) => refuse::tell(&command, &why),
    }
}

/// `delete` comes after every end of a container that containerd saw, also where poststop did not
/// run: after the wrapper was killed between claim and exec. Only where a grant is still noted is
/// there anything to do.
fn delete(config: &Config, real: &Path, command: &Command, args: &[OsString]) -> i32 {
    let noted = command
        .id
        .as_deref()
        .and_then(|id| ContainerId::new(id).ok())
        .filter(|id| notes::has_grant(&config.paths, id));
    let Some(id) = noted else { return refuse::tell(command, &real::exec(real, args)) };
    match real::run(real, args) {
        Ok(status) => {
            fault::here(config, "deleted");
            let token = notes::read_grant(&config.paths, &id).ok().flatten().map(|g| g.token);
            if let Some(token) = token {
                let _ = crate::release::release(config, id.as_str(), Some(&token));
            }
            status
        }
        Err(why) => refuse::tell(command, &why),
    }
}

/// Writes down a refusal of which nothing but the command is known.
fn turned_away_early(config: &Config, command: &Command, why: &str) {
    let id = command.id.as_deref().unwrap_or_default();
    turned_away::write_down(config, Decision::Refused, id, why);
}

fn create(
    entered: &str,
    loaded: &Result<(Config, PathBuf), ConfigError>,
    config: &Config,
    command: &Command,
) -> Result<(), String> {
    let making = prepare(entered, loaded, config, command)
        .inspect_err(|why| turned_away_early(config, command, why))?;
    let Some(mut making) = making else { return Ok(()) };
    making.start().map_err(|why| making.turned_away(why))
}

/// What there is to know of the container; `None` where it is dealt with already. What a broken config
/// leaves possible: containers that have nothing to do with GPUs.
fn prepare<'a>(
    entered: &str,
    loaded: &'a Result<(Config, PathBuf), ConfigError>,
    config: &'a Config,
    command: &Command,
) -> Result<Option<Making<'a>>, String> {
    let bundle = match &command.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|_| "the bundle's folder is gone")?,
    };
    let bytes = files::read_bounded(&bundle.join("config.json"), LONGEST_SPEC)
        .map_err(|_| "the bundle's config.json cannot be read, or is longer than 16 MiB")?;
    let spec = Spec::parse(&bytes).map_err(|e| e.to_string())?;
    let id = command.id.as_deref().unwrap_or_default();
    let nvidia = real::is_nvidia(real::behind(config, entered));
    let alone = |spec, why: &dyn Fn() -> String| {
        without_gpus(config, (id, nvidia), &bundle, spec, why).map(|()| None)
    };
    let config_path = match loaded {
        Ok((_, path)) => path,
        // Of a managed container only the binding knows what it gets.
        Err(broken) if entered == real::MANAGED_ENTRY => return Err(broken.to_string()),
        Err(broken) => return alone(spec, &|| broken.to_string()),
    };
    let Ok(id) = ContainerId::new(id) else {
        // No engine makes such an id; without one nothing can be leased.
        let why = || "the container's id is not one that GPUs can be leased to".into();
        return alone(spec, &why);
    };
    // Under this name daemon.json calls us for managed containers only.
    let managed_entry = entered == real::MANAGED_ENTRY;
    let files = match DockerFiles::read(&config.docker.root, &id) {
        Ok(files) => Some(files),
        Err(DockerFilesError::Absent) => None,
        Err(why) => {
            let why = || format!("{why}; docker gpuctl doctor tells more");
            // What they would say counts only where there is something to decide.
            return if managed_entry { Err(why()) } else { alone(spec, &why) };
        }
    };
    if files.is_none() && managed_entry {
        return Err(format!(
            "Docker has no files of this container under {}; hint: set docker.root in the config to \
             the Engine's own",
            config.docker.root.display()
        ));
    }
    let began = Instant::now();
    let driver = Driver::new(config);
    let behind = real::behind(config, entered);
    let view = OnceCell::new();
    Ok(Some(Making {
        config,
        config_path,
        id,
        bundle,
        behind,
        spec,
        files,
        driver,
        view,
        began,
        owner: None,
        request: None,
        heeded: Vec::new(),
    }))
}
