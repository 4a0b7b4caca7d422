//! Stands for NVIDIA's container toolkit, which no Debian has, in its legacy mode and on cgroup v1.
//!
//! `nvidia-container-runtime` puts its prestart hook into the spec of a container whose environment
//! names GPUs, and becomes the `runc` that it finds on PATH. `nvidia-container-runtime-hook` opens
//! those GPUs in the container's cgroup: no config.json shows them. Both lie in one folder, beside the
//! profile of the node's GPUs.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use crate::{Doing as _, Profile, Result, files};

const RUNTIME: &str = "nvidia-container-runtime";
const HOOK: &str = "nvidia-container-runtime-hook";
const PROFILE: &str = "gpus.json";
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// A file beside the programs: what `swarm-resource` is in the toolkit's config.toml.
pub const SWARM: &str = "swarm-resource";

/// Lays both programs out in a folder.
///
/// # Errors
/// When a file cannot be made.
pub fn install(sim: &Path, profile: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
    for name in [RUNTIME, HOOK] {
        files::install(sim, &folder.join(name))?;
    }
    let text = std::fs::read_to_string(profile).doing("read the profile")?;
    files::write(&folder.join(PROFILE), &text)
}

/// Runs the part that the program is entered as; `None` where it is neither.
pub fn entered(me: &Path, arguments: &[String]) -> Option<ExitCode> {
    // By its bare name it is entered too: the profile lies beside the file.
    let file = std::env::current_exe().ok()?;
    let done = match me.file_name()?.to_str()? {
        RUNTIME => runtime(&file, arguments),
        HOOK => hook(&file),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "nvidia stand-in: {why}");
            ExitCode::FAILURE
        }
    })
}

/// What the environment names, by the first variable that is there; nothing for none, void and empty.
fn visible(me: &Path, spec: &Value) -> Option<String> {
    let env = spec.pointer("/process/env").and_then(Value::as_array)?;
    let swarm = std::fs::read_to_string(me.with_file_name(SWARM)).unwrap_or_default();
    let value = |name: &str| {
        let of = |entry: &'_ str| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        env.iter().rev().find_map(|entry| of(entry.as_str()?))
    };
    let names = swarm.split(',').map(str::trim).filter(|name| !name.is_empty());
    let first = names.chain([VISIBLE]).find_map(value)?;
    (!matches!(first.as_str(), "" | "none" | "void")).then_some(first)
}

fn spec(bundle: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(bundle.join("config.json")).doing("read the spec")?;
    serde_json::from_str(&text).doing("understand the spec")
}

fn runtime(me: &Path, arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|a| a == "create" || a == "run") {
        let at = arguments.iter().position(|a| a == "--bundle" || a == "-b");
        let bundle = at.and_then(|at| arguments.get(at + 1)).ok_or("no bundle is named")?;
        let bundle = PathBuf::from(bundle);
        let mut spec = spec(&bundle)?;
        if visible(me, &spec).is_some() {
            let hook = me.with_file_name(HOOK);
            let mine = json!({"path": hook, "args": [hook, "prestart"]});
            let hooks = spec.as_object_mut().ok_or("the spec is no object")?;
            let hooks = hooks.entry("hooks").or_insert_with(|| json!({}));
            let list = hooks.as_object_mut().ok_or("hooks is no object")?;
            let list = list.entry("prestart").or_insert_with(|| json!([]));
            list.as_array_mut().ok_or("prestart is no list")?.push(mine);
            files::write(&bundle.join("config.json"), &spec.to_string())?;
        }
    }
    Err(format!("runc does not start: {}", Command::new("runc").args(arguments).exec()))
}

/// Opens what the environment names, by index, UUID or all.
fn hook(me: &Path) -> Result<()> {
    let mut state = String::new();
    std::io::stdin().read_to_string(&mut state).doing("read the state")?;
    let state: Value = serde_json::from_str(&state).doing("understand the state")?;
    let bundle = state["bundle"].as_str().ok_or("the state names no bundle")?;
    let pid = state["pid"].as_i64().ok_or("the state names no pid")?;
    let Some(named) = visible(me, &spec(Path::new(bundle))?) else { return Ok(()) };
    let gpus = Profile::read(&me.with_file_name(PROFILE))?.gpus;
    let cgroups =
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).doing("read the cgroup")?;
    let devices = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|c| c == "devices").then(|| fields.next().map(str::to_owned))?
    };
    let folder = cgroups.lines().find_map(devices).ok_or("there is no devices cgroup")?;
    let allow = format!("/sys/fs/cgroup/devices{folder}/devices.allow");
    for (index, gpu) in gpus.iter().enumerate() {
        let is = |name: &str| name == "all" || name == gpu.uuid || name.parse() == Ok(index);
        if named.split(',').any(is) {
            std::fs::write(&allow, format!("c 195:{} rw", gpu.minor)).doing("open a GPU")?;
        }
    }
    Ok(())
}
