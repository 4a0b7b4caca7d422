//! Stands for NVIDIA's container toolkit, which no Debian has, in its legacy mode and on cgroup v1.
//!
//! `nvidia-container-runtime` puts its prestart hook into the spec of every container, and becomes the
//! `runc` that it finds on PATH. `nvidia-container-runtime-hook` opens those GPUs that the container asks
//! for in its cgroup: no config.json shows them. Both lie in one folder, beside the profile of the node's
//! GPUs. What is a request, and how a list of names is read, is as in the versions of the toolkit that take
//! the most for one.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use crate::profile::Gpu;
use crate::{Doing as _, Profile, Result, files};

const RUNTIME: &str = "nvidia-container-runtime";
const HOOK: &str = "nvidia-container-runtime-hook";
const PROFILE: &str = "gpus.json";
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// A file beside the programs: what `swarm-resource` is in the toolkit's config.toml.
pub const SWARM: &str = "swarm-resource";
/// A file beside the programs: what `accept-nvidia-visible-devices-as-volume-mounts = true` is there.
pub const MOUNTS: &str = "accept-mounts";
/// Mounts of /dev/null below here name GPUs then.
const MOUNTED: &str = "/var/run/nvidia-container-devices";

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

/// What a container asks for: by mounts, else by the first variable that is there, else, an old image, by
/// its silence; nothing for none, void and empty.
fn asked(me: &Path, spec: &Value) -> Option<String> {
    let list = |at: &str| spec.pointer(at).and_then(Value::as_array).into_iter().flatten();
    if me.with_file_name(MOUNTS).exists() {
        let null = list("/mounts").filter(|mount| mount["source"] == "/dev/null");
        let named = null.filter_map(|mount| mount["destination"].as_str()?.strip_prefix(MOUNTED));
        let named: Vec<&str> = named.map(|name| name.trim_matches('/')).collect();
        let gpus = named.into_iter().filter(|name| !name.is_empty() && !name.starts_with("imex/"));
        let gpus = gpus.collect::<Vec<_>>().join(",");
        if !gpus.is_empty() {
            return Some(gpus);
        }
    }
    let swarm = std::fs::read_to_string(me.with_file_name(SWARM)).unwrap_or_default();
    let value = |name: &str| {
        let of = |entry: &'_ str| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        list("/process/env").filter_map(|entry| of(entry.as_str()?)).next_back()
    };
    let names = swarm.split(',').map(str::trim).filter(|name| !name.is_empty());
    let says = |name: &str| value(name).is_some_and(|text| !text.is_empty());
    let old = says("CUDA_VERSION") && !says("NVIDIA_REQUIRE_CUDA");
    let first = names.chain([VISIBLE]).find_map(value).or_else(|| old.then(|| "all".into()))?;
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
        let hook = me.with_file_name(HOOK);
        let mine = json!({"path": hook, "args": [hook, "prestart"]});
        let hooks = spec.as_object_mut().ok_or("the spec is no object")?;
        let hooks = hooks.entry("hooks").or_insert_with(|| json!({}));
        let list = hooks.as_object_mut().ok_or("hooks is no object")?;
        let list = list.entry("prestart").or_insert_with(|| json!([]));
        list.as_array_mut().ok_or("prestart is no list")?.push(mine);
        files::write(&bundle.join("config.json"), &spec.to_string())?;
    }
    Err(format!("runc does not start: {}", Command::new("runc").args(arguments).exec()))
}

/// The GPUs that a list names, each by its place, its UUID or its address; from an `all` on nothing is read.
///
/// # Errors
/// A name that is none of a GPU.
fn select<'a>(gpus: &'a [Gpu], names: &str) -> Result<Vec<&'a Gpu>> {
    let mut selected = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        if name.eq_ignore_ascii_case("all") {
            return Ok(gpus.iter().collect());
        }
        let mut is = gpus.iter().enumerate().filter(|(index, gpu)| {
            gpu.uuid.eq_ignore_ascii_case(name)
                || name.parse() == Ok(*index)
                || address(name).is_some_and(|of| address(&gpu.pci) == Some(of))
        });
        selected.push(is.next().ok_or(format!("{name}: unknown device"))?.1);
    }
    Ok(selected)
}

/// An address as C's `sscanf("%x:%02x:%02x.0")` reads it: whatever stands behind it does not count.
fn address(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.splitn(3, ':');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        u32::from_str_radix(part.get(..end)?, 16).ok()
    };
    Some([next()?, next()?, next()?])
}

/// Opens what the container asks for.
fn hook(me: &Path) -> Result<()> {
    let mut state = String::new();
    std::io::stdin().read_to_string(&mut state).doing("read the state")?;
    let state: Value = serde_json::from_str(&state).doing("understand the state")?;
    let bundle = state["bundle"].as_str().ok_or("the state names no bundle")?;
    let pid = state["pid"].as_i64().ok_or("the state names no pid")?;
    let Some(named) = asked(me, &spec(Path::new(bundle))?) else { return Ok(()) };
    let gpus = Profile::read(&me.with_file_name(PROFILE))?.gpus;
    let selected = select(&gpus, &named)?;
    let cgroups =
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).doing("read the cgroup")?;
    let devices = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|c| c == "devices").then(|| fields.next().map(str::to_owned))?
    };
    let folder = cgroups.lines().find_map(devices).ok_or("there is no devices cgroup")?;
    let allow = format!("/sys/fs/cgroup/devices{folder}/devices.allow");
    for gpu in selected {
        std::fs::write(&allow, format!("c 195:{} rw", gpu.minor)).doing("open a GPU")?;
    }
    Ok(())
}
