//! A stand-in for NVIDIA's toolkit, which no machine without a driver can run. It does to a container
//! what the real one does: `nvidia-container-runtime` puts the devices that the environment names
//! into config.json, `nvidia-container-runtime.legacy` puts the prestart hook there, and both exec
//! the `runc` that is first on PATH; `nvidia-container-runtime-hook` lets the container at the
//! devices behind the runtime's back.
//!
//! It finds out which node is which GPU by the CDI spec of the place that it lies in.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// What the program is called when it stands for a part of the toolkit.
const RUNTIMES: [&str; 2] = ["nvidia-container-runtime", "nvidia-container-runtime.legacy"];
const HOOK: &str = "nvidia-container-runtime-hook";
/// The file beside the stand-ins that names the process which has put them there.
const RUNNER: &str = "runner.pid";
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES=";

/// Puts the stand-ins into a folder: this very program under their names. They need this process, for as
/// long as they are used, to find the machine's programs.
///
/// # Errors
/// When they cannot be put there.
pub fn install(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("no folder for the toolkit: {e}"))?;
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    // A test's own program does not know these names; the runner lies beside it.
    let runner = match me.file_name().is_some_and(|n| n == "gpuctl-matrix") {
        true => me,
        false => me.ancestors().nth(2).unwrap_or(&me).join("gpuctl-matrix"),
    };
    for name in RUNTIMES.iter().chain([&HOOK]) {
        gpuctl_sim::files::install(&runner, &folder.join(name))?;
    }
    gpuctl_sim::files::write(&folder.join(RUNNER), &std::process::id().to_string())
}

/// Acts as the part of the toolkit that the program is called like; `None` if it is called otherwise.
pub fn entered(program: &Path, arguments: &[String]) -> Option<Result<(), String>> {
    let name = program.file_name()?.to_str()?;
    let place = std::env::current_exe().ok()?.parent()?.parent()?.to_owned();
    match name {
        HOOK => Some(hook(&place)),
        name if RUNTIMES.contains(&name) => {
            Some(runtime(&place, name.ends_with(".legacy"), arguments))
        }
        _ => None,
    }
}

fn runtime(place: &Path, legacy: bool, arguments: &[String]) -> Result<(), String> {
    if arguments.iter().any(|a| a == "create") {
        let bundle = arguments.iter().position(|a| a == "--bundle" || a == "-b");
        let bundle = bundle.and_then(|at| arguments.get(at + 1)).ok_or("no --bundle")?;
        let path = Path::new(bundle).join("config.json");
        let mut spec = read(&path)?;
        if legacy {
            add_hook(place, &mut spec)
        } else {
            add_devices(place, &mut spec)?
        }
        fs::write(&path, spec.to_string()).map_err(|e| format!("config.json: {e}"))?;
    }
    // The first of its candidates that PATH has, as the real one does by default.
    let path = std::env::var("PATH").unwrap_or_default();
    let runc = path.split(':').map(|f| Path::new(f).join("runc")).find(|p| p.is_file());
    let runc = runc.ok_or("no runc on PATH")?;
    Err(format!("{}: {}", runc.display(), Command::new(&runc).args(arguments).exec()))
}

fn read(path: &Path) -> Result<Value, String> {
    let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What the environment names; of duplicates the last counts.
fn visible(spec: &Value) -> Vec<String> {
    let env = spec.pointer("/process/env").and_then(Value::as_array);
    let lines = env.into_iter().flatten().filter_map(Value::as_str);
    let value = lines.filter_map(|l| l.strip_prefix(VISIBLE)).next_back().unwrap_or("void");
    let named = value.split(',').map(str::trim);
    named.filter(|v| !["", "none", "void"].contains(v)).map(str::to_owned).collect()
}

/// Path inside, major and minor of the nodes of these GPUs.
fn nodes(place: &Path, names: &[String]) -> Result<Vec<(String, u64, u64)>, String> {
    let cdi = read(&place.join("cdi/nvidia.json"))?;
    let devices = cdi["devices"].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for name in names {
        let same = |d: &&Value| d["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name));
        let device = devices.iter().find(same).ok_or_else(|| format!("no GPU {name:?}"))?;
        let list = device.pointer("/containerEdits/deviceNodes").and_then(Value::as_array);
        for node in list.into_iter().flatten() {
            let at = |key: &str| node[key].as_str().map(PathBuf::from).ok_or("an odd CDI spec");
            let meta = fs::metadata(at("hostPath")?).map_err(|e| format!("a GPU's node: {e}"))?;
            let numbers = meta.rdev();
            let (major, minor) =
                ((numbers >> 8) & 0xfff, (numbers & 0xff) | ((numbers >> 12) & 0xfff00));
            found.push((at("path")?.display().to_string(), major, minor));
        }
    }
    Ok(found)
}

fn list<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Vec<Value> {
    let mut at = spec;
    for key in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*key];
    }
    if !at.is_array() {
        *at = json!([]);
    }
    at.as_array_mut().expect("made just now")
}

fn add_devices(place: &Path, spec: &mut Value) -> Result<(), String> {
    let nodes = nodes(place, &visible(spec))?;
    if !nodes.is_empty() {
        // What the CDI spec says of every container.
        let cdi = read(&place.join("cdi/nvidia.json"))?;
        let env = cdi.pointer("/containerEdits/env").and_then(Value::as_array);
        for line in env.into_iter().flatten().filter_map(Value::as_str) {
            let name = line.split('=').next().unwrap_or(line);
            let env = list(spec, &["process", "env"]);
            env.retain(|have| have.as_str().and_then(|l| l.split('=').next()) != Some(name));
            env.push(line.into());
        }
    }
    for (path, major, minor) in nodes {
        list(spec, &["linux", "devices"]).push(json!(
            {"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 438,
             "uid": 0, "gid": 0}));
        list(spec, &["linux", "resources", "devices"]).push(json!(
            {"allow": true, "type": "c", "major": major, "minor": minor, "access": "rw"}));
    }
    Ok(())
}

fn add_hook(place: &Path, spec: &mut Value) {
    let path = place.join("nvidia").join(HOOK).display().to_string();
    let hooks = list(spec, &["hooks", "prestart"]);
    let there = |h: &Value| h["path"].as_str().is_some_and(|p| p.ends_with(HOOK));
    if !hooks.iter().any(there) {
        hooks.push(json!({"path": path, "args": [path, "prestart"]}));
    }
}

/// The prestart hook: in the runtime's namespaces, it lets the container's cgroup at the devices.
fn hook(place: &Path) -> Result<(), String> {
    let state: Value = serde_json::from_reader(std::io::stdin()).map_err(|e| e.to_string())?;
    let bundle = state["bundle"].as_str().ok_or("a state without a bundle")?;
    let pid = state["pid"].as_u64().ok_or("a state without a pid")?;
    let spec = read(&Path::new(bundle).join("config.json"))?;
    let nodes = nodes(place, &visible(&spec))?;
    if nodes.is_empty() {
        return Ok(());
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|e| e.to_string())?;
    let of = |wanted: &str| {
        cgroups.lines().find_map(|l| {
            let mut fields = l.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|c| c == wanted).then(|| fields.next()).flatten()
        })
    };
    // Where version 2 alone is mounted, version 1 may be there nevertheless, for others.
    let first = Path::new("/sys/fs/cgroup/devices").is_dir();
    if let Some(path) = of("devices").filter(|_| first) {
        let allow = format!("/sys/fs/cgroup/devices{path}/devices.allow");
        for (_, major, minor) in nodes {
            fs::write(&allow, format!("c {major}:{minor} rw"))
                .map_err(|e| format!("{allow}: {e}"))?;
        }
        return Ok(());
    }
    // Version 2 keeps the rules in a program, which the real one replaces; this one takes it away.
    // bpftool sees the cgroups that are mounted here by this process.
    let here = std::process::id();
    let path = format!("/proc/{here}/root/sys/fs/cgroup{}", of("").ok_or("no cgroup")?);
    detach_all(place, &path)
}

fn detach_all(place: &Path, cgroup: &str) -> Result<(), String> {
    // A hook's environment is empty: it has no PATH. An Engine of another Debian has only what is in its
    // own root: the program is that of the machine, where whoever has installed this runs. Not process 1,
    // into which root may not look everywhere.
    let runner = fs::read_to_string(place.join("nvidia").join(RUNNER));
    let process = format!("/proc/{}", runner.map_err(|e| format!("no runner: {e}"))?.trim());
    let outside = Path::new(&process).join("root");
    let program = ["usr/sbin/bpftool", "sbin/bpftool", "usr/bin/bpftool"];
    let program =
        program.into_iter().find(|p| outside.join(p).exists()).ok_or("no bpftool here")?;
    let bpftool = |arguments: &[&str]| {
        let mut enter = Command::new("/usr/bin/nsenter");
        enter.arg(format!("--mount={process}/ns/mnt")).arg("--").arg(Path::new("/").join(program));
        let got = enter.args(arguments).output().map_err(|e| format!("bpftool: {e}"))?;
        let said = String::from_utf8_lossy(&got.stderr).into_owned();
        got.status.success().then_some(got.stdout).ok_or(format!("bpftool: {said}"))
    };
    let listed = bpftool(&["-j", "cgroup", "show", cgroup])?;
    let programs: Value = serde_json::from_slice(&listed).map_err(|e| e.to_string())?;
    for program in programs.as_array().into_iter().flatten() {
        let kind = program["attach_type"].as_str().unwrap_or_default();
        if kind == "device" || kind == "cgroup_device" {
            let id = program["id"].to_string();
            bpftool(&["cgroup", "detach", cgroup, "device", "id", &id]).map(drop)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_duplicates_the_last_counts_and_void_is_nothing() {
        let of = |lines: &[&str]| visible(&json!({"process": {"env": lines}}));
        assert_eq!(
            of(&["NVIDIA_VISIBLE_DEVICES=0", "A=b", "NVIDIA_VISIBLE_DEVICES=1,2"]),
            ["1", "2"]
        );
        assert!(of(&["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_VISIBLE_DEVICES=void"]).is_empty());
        assert!(of(&[]).is_empty());
    }
}
