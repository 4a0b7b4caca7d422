//! The node as files: device nodes, `/proc/driver/nvidia`, CDI spec, config.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use crate::profile::Gpu;
use crate::{Doing as _, Place, Profile, Result};

/// The major of /dev/nvidiaN.
pub const NVIDIA: u64 = 195;
/// The major of nvidia-uvm here; the kernel gives it a free one from the top.
pub const UVM: u64 = 510;
/// The major of nvidia-caps here.
pub const CAPS: u64 = 511;

/// The nodes that any `/dev` has: name, major, minor.
const ORDINARY: [(&str, u64, u64); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("fuse", 10, 229),
];

/// Lays the GPUs of a profile out in a place, or changes what lies there to be just these: what the
/// profile no longer has is gone afterwards, as a card is that fell off the bus.
///
/// # Errors
/// When a file cannot be made.
pub fn lay_out(place: &Place, profile: &Profile) -> Result<()> {
    nodes(&place.dev(), profile)?;
    let majors = format!(
        "Character devices:\n  1 mem\n{NVIDIA:>3} nvidia\n{UVM:>3} nvidia-uvm\n{CAPS:>3} nvidia-caps\n\n\
         Block devices:\n  7 loop\n"
    );
    write(&place.majors(), &majors)?;
    proc_tree(&place.proc(), profile)?;
    write(&place.cdi().join("nvidia.json"), &format!("{:#}\n", cdi(&place.dev(), profile)))
}

fn node(dev: &Path, name: &str, major: u64, minor: u64) -> Result<()> {
    let path = dev.join(name);
    if fs::symlink_metadata(&path).is_ok_and(|m| m.rdev() == makedev(major, minor)) {
        return Ok(());
    }
    let _ = fs::remove_file(&path);
    mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
        .doing(format!("make the node {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).doing("open the node's mode")
}

/// The nodes that NVIDIA's driver has: name below `/dev`, major, minor.
pub fn driver_nodes(profile: &Profile) -> Vec<(String, u64, u64)> {
    let mut nodes = vec![
        ("nvidiactl".into(), NVIDIA, 255),
        ("nvidia-modeset".into(), NVIDIA, 254),
        ("nvidia-uvm".into(), UVM, 0),
        ("nvidia-uvm-tools".into(), UVM, 1),
    ];
    for gpu in &profile.gpus {
        nodes.push((format!("nvidia{}", gpu.minor), NVIDIA, u64::from(gpu.minor)));
        for cap in gpu.mig().iter().flat_map(|m| m.caps) {
            nodes.push((format!("nvidia-caps/nvidia-cap{cap}"), CAPS, u64::from(cap)));
        }
    }
    nodes
}

fn nodes(dev: &Path, profile: &Profile) -> Result<()> {
    for folder in ["pts", "shm", "mqueue", "char", "nvidia-caps"] {
        fs::create_dir_all(dev.join(folder)).doing(format!("make {folder} in /dev"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        if fs::symlink_metadata(dev.join(name)).is_err() {
            symlink(target, dev.join(name)).doing(format!("link {name} in /dev"))?;
        }
    }
    let mut wanted: Vec<(String, u64, u64)> =
        ORDINARY.iter().map(|(n, a, b)| ((*n).to_owned(), *a, *b)).collect();
    wanted.extend(driver_nodes(profile));
    for (name, major, minor) in &wanted {
        node(dev, name, *major, *minor)?;
    }
    let wanted: BTreeSet<PathBuf> = wanted.iter().map(|(n, ..)| dev.join(n)).collect();
    for folder in [dev.to_owned(), dev.join("nvidia-caps")] {
        for entry in fs::read_dir(&folder).doing("list /dev")?.flatten() {
            let is_ours = entry.file_name().as_encoded_bytes().starts_with(b"nvidia");
            let is_node = entry.file_type().is_ok_and(|t| !t.is_dir());
            if is_ours && is_node && !wanted.contains(&entry.path()) {
                fs::remove_file(entry.path()).doing("remove a node")?;
            }
        }
    }
    Ok(())
}

/// As driver 550 prints them, read at a real /proc.
fn information(gpu: &Gpu, driver: &str) -> String {
    format!(
        "Model: \t\t {}\nIRQ:   \t\t 10\nGPU UUID: \t {}\nVideo BIOS: \t 92.00.45.00.03\n\
         Bus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\n\
         Bus Location: \t {}\nDevice Minor: \t {}\nGPU Firmware: \t {driver}\nGPU Excluded:\t No\n",
        gpu.name,
        gpu.uuid,
        gpu.proc_name(),
        gpu.minor
    )
}

/// What stands for `/proc/driver/nvidia`, made or changed to show just these GPUs.
///
/// # Errors
/// When a file cannot be made.
pub fn proc_tree(proc: &Path, profile: &Profile) -> Result<()> {
    let gpus = proc.join("gpus");
    fs::create_dir_all(&gpus).doing("make the driver's folder")?;
    write(
        &proc.join("version"),
        &format!(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  (simulated)\n\
             GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            profile.driver
        ),
    )?;
    for gpu in &profile.gpus {
        let folder = gpus.join(gpu.proc_name());
        fs::create_dir_all(&folder).doing("make a GPU's folder")?;
        write(&folder.join("information"), &information(gpu, &profile.driver))?;
    }
    capabilities(proc, profile)?;
    let wanted: BTreeSet<String> = profile.gpus.iter().map(Gpu::proc_name).collect();
    for entry in fs::read_dir(&gpus).doing("list the GPUs")?.flatten() {
        if !wanted.contains(&*entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path()).doing("remove a GPU's folder")?;
        }
    }
    Ok(())
}

/// Where the driver tells the minors of the nvidia-caps nodes; the GPU's number in it is its minor.
fn capabilities(proc: &Path, profile: &Profile) -> Result<()> {
    let root = proc.join("capabilities");
    let _ = fs::remove_dir_all(&root);
    for gpu in &profile.gpus {
        for mig in gpu.mig() {
            let gi = root.join(format!("gpu{}/mig/gi{}", gpu.minor, mig.gi));
            let ci = gi.join(format!("ci{}", mig.ci));
            fs::create_dir_all(&ci).doing("make a MIG device's folder")?;
            for (folder, minor) in [(&gi, mig.caps[0]), (&ci, mig.caps[1])] {
                let text =
                    format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
                write(&folder.join("access"), &text)?;
            }
        }
    }
    Ok(())
}

/// The CDI spec, shaped as nvidia-ctk makes it: devices by index, by UUID, and `all`.
/// Its device nodes are below `dev`.
pub fn cdi(dev: &Path, profile: &Profile) -> Value {
    let edit = |names: &[String]| {
        let nodes: Vec<Value> = names
            .iter()
            .map(|n| json!({"path": format!("/dev/{n}"), "hostPath": dev.join(n)}))
            .collect();
        json!({"deviceNodes": nodes})
    };
    let mut devices = Vec::new();
    let mut all = Vec::new();
    for (index, gpu) in profile.gpus.iter().enumerate() {
        let whole = vec![format!("nvidia{}", gpu.minor)];
        for (place, mig) in gpu.mig().iter().enumerate() {
            let caps = mig.caps.iter().map(|c| format!("nvidia-caps/nvidia-cap{c}"));
            let names: Vec<String> = whole.iter().cloned().chain(caps).collect();
            devices
                .push(json!({"name": format!("{index}:{place}"), "containerEdits": edit(&names)}));
            devices.push(json!({"name": mig.uuid, "containerEdits": edit(&names)}));
            all.extend(names);
        }
        if gpu.mig().is_empty() {
            devices.push(json!({"name": index.to_string(), "containerEdits": edit(&whole)}));
            devices.push(json!({"name": gpu.uuid, "containerEdits": edit(&whole)}));
            all.extend(whole);
        }
    }
    all.sort();
    all.dedup();
    devices.push(json!({"name": "all", "containerEdits": edit(&all)}));
    let mut shared = edit(&[
        "nvidiactl".into(),
        "nvidia-modeset".into(),
        "nvidia-uvm".into(),
        "nvidia-uvm-tools".into(),
    ]);
    if let Some(edits) = shared.as_object_mut() {
        edits.insert("env".into(), json!(["NVIDIA_VISIBLE_DEVICES=void"]));
    }
    json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": shared,
    })
}

/// Where the GPUs of a node come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The place's own files.
    Simulated,
    /// The host's driver, with CDI specs from this folder.
    Real(PathBuf),
}

/// What goes into the config.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name in the ledger.
    pub node: String,
    /// The ledger's URL; `None` is SQLite in the place.
    pub ledger: Option<String>,
    /// The real OCI runtime.
    pub real_runtime: PathBuf,
    /// Where the GPUs come from.
    pub gpus: Gpus,
    /// More TOML, after a blank line: `[policy]` and the like.
    pub more: String,
}

/// Writes the product's config.
///
/// # Errors
/// When the file cannot be written.
pub fn config(place: &Place, settings: &Settings) -> Result<()> {
    let at = |path: PathBuf| path.display().to_string();
    let ledger =
        settings.ledger.clone().unwrap_or_else(|| format!("sqlite://{}", place.sqlite().display()));
    let mut text = format!("# Made by gpuctl-sim.\nnode = \"{}\"\n\n", settings.node);
    let mut section = |name: &str, pairs: &[(&str, String)]| {
        let _ = writeln!(text, "[{name}]");
        for (key, value) in pairs {
            let _ = writeln!(text, "{key} = \"{value}\"");
        }
        text.push('\n');
    };
    section("ledger", &[("url", ledger)]);
    section(
        "paths",
        &[
            ("state", at(place.state())),
            ("run", at(place.run())),
            ("socket", at(place.socket())),
            ("machine_id", at(place.machine_id())),
            ("boot_id", at(place.boot_id())),
            ("journal", at(place.journal())),
        ],
    );
    section("docker", &[("root", at(place.data())), ("host", place.docker_host())]);
    section(
        "runtime",
        &[
            ("real", at(settings.real_runtime.clone())),
            ("hook", at(place.libexec().join("gpuctl-hook"))),
            ("managed_name", "gpuctl".into()),
        ],
    );
    match &settings.gpus {
        Gpus::Simulated => {
            let dirs = format!("cdi_dirs = [\"{}\"]\n\n", at(place.cdi()));
            section(
                "gpu",
                &[
                    ("nvml", at(place.nvml())),
                    ("proc", at(place.proc())),
                    ("dev", at(place.dev())),
                    ("majors", at(place.majors())),
                ],
            );
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(&dirs);
        }
        Gpus::Real(folder) => {
            let _ = writeln!(text, "[gpu]\ncdi_dirs = [\"{}\"]\n", folder.display());
        }
    }
    text.push_str(&settings.more);
    write(&place.config(), &text)
}

/// A boot id or machine id that no other place has.
///
/// # Errors
/// When the kernel's source cannot be read or the file not written.
pub fn fresh_id(path: &Path, dashes: bool) -> Result<()> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").doing("draw a random id")?;
    write(path, &if dashes { uuid } else { uuid.replace('-', "") })
}

/// Writes a file that root alone may change, through a new name so that a reader never sees half.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let doing = format!("write {}", path.display());
    fs::write(&new, text).doing(&doing)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).doing(&doing)?;
    fs::rename(&new, path).doing(&doing)
}

/// Copies a program to a name of its own, through a new name so that one that runs is left alone.
///
/// # Errors
/// When it cannot be copied.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    let doing = format!("copy {} to {}", from.display(), to.display());
    fs::copy(from, &new).doing(&doing)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).doing(&doing)?;
    fs::rename(&new, to).doing(&doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Profile {
        serde_json::from_value(json!({"driver": "550.90.07", "gpus": [
            {"uuid": "GPU-a", "minor": 1, "name": "X", "pci": "00000000:3B:00.0", "memory_total": 1},
            {"uuid": "GPU-b", "minor": 0, "name": "X", "pci": "00000000:5E:00.0", "memory_total": 1,
             "mig": [{"uuid": "MIG-c", "index": 0, "memory": 1, "gi": 1, "ci": 0, "caps": [3, 4]}]},
        ]}))
        .unwrap()
    }

    #[test]
    fn index_and_minor_are_two_things_in_the_spec() {
        let place = Place::new(Path::new("/p")).unwrap();
        let spec = cdi(&place.dev(), &two());
        let of = |name: &str| {
            spec["devices"]
                .as_array()
                .unwrap()
                .iter()
                .find(|d| d["name"] == name)
                .map(|d| d["containerEdits"]["deviceNodes"].to_string())
        };
        assert!(of("0").unwrap().contains("/p/dev/nvidia1"));
        assert_eq!(of("0"), of("GPU-a"));
        assert_eq!(of("GPU-b"), None, "a GPU with MIG devices is no device itself");
        assert!(of("1:0").unwrap().contains("nvidia-cap4"));
        assert_eq!(of("1:0"), of("MIG-c"));
    }

    #[test]
    fn a_gpu_that_left_the_profile_leaves_the_node() {
        let folder = tempfile::tempdir().unwrap();
        proc_tree(folder.path(), &two()).unwrap();
        assert!(folder.path().join("gpus/0000:3b:00.0/information").exists());
        let mut one = two();
        one.gpus.remove(0);
        proc_tree(folder.path(), &one).unwrap();
        assert!(!folder.path().join("gpus/0000:3b:00.0").exists());
        let text = fs::read_to_string(folder.path().join("gpus/0000:5e:00.0/information")).unwrap();
        assert!(text.contains("GPU UUID: \t GPU-b\n") && text.contains("Device Minor: \t 0\n"));
    }
}
