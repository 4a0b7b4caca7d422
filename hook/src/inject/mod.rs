//! Puts the GPUs that a container holds into its spec, and takes out what others put there.

mod cdi;
mod hooks;

use gpuctl_ledger::model::Piece;
use serde_json::Value;

use crate::devices::{Meta, Node, Rule};
use crate::request::{
    CDI_ANNOTATIONS, MIG_CONTROL, VISIBLE, is_legacy_hook, is_of_another_kind, mounted,
};
use crate::spec::{STAGES, Spec, str_of};
pub use cdi::CdiSpecs;
pub use hooks::{add_hooks, has_gate};

/// Why GPUs cannot be put into a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// No CDI spec of the kind can be read; a file that is none, if there is one.
    #[error("there is no usable CDI spec of kind {kind}{}; nvidia-ctk cdi generate makes one", .broken.as_ref().map(|p| format!(" ({p} is torn or wrong)")).unwrap_or_default())]
    NoSpec {
        /// The kind.
        kind: String,
        /// The first file that is torn or wrong.
        broken: Option<String>,
    },
    /// The CDI spec knows no device for a GPU.
    #[error(
        "the CDI spec of kind {kind} has no device for {gpu} (/dev/nvidia{minor}); nvidia-ctk cdi generate renews it"
    )]
    NoDevice {
        /// The GPU's UUID.
        gpu: String,
        /// The kind.
        kind: String,
        /// N of /dev/nvidiaN.
        minor: u32,
    },
    /// Two files of one folder say different things of one device.
    #[error("two CDI specs of one folder differ on {0}; remove one of them")]
    Ambiguous(String),
    /// A device node that the CDI spec names is not there.
    #[error(
        "the CDI spec names {0}, and this host has no such device; nvidia-ctk cdi generate renews it"
    )]
    NoNode(String),
    /// The CDI spec's edits cannot be applied.
    #[error("the CDI spec has edits that cannot be applied; nvidia-ctk cdi generate renews it")]
    Wrong,
}

/// Puts GPUs and MIG devices in by CDI; a slot of a shared GPU is that GPU. What dockerd put in for GPUs of its own choice is taken out first, and so is
/// NVIDIA's legacy hook, which would add devices that no spec shows. A second call changes nothing.
///
/// Nodes and rules of GPUs that are not among `held` go too, unless the rules open GPUs unnamed:
/// then [`crate::strip::whitelist`] is to decide.
///
/// # Errors
/// [`InjectError`], with nothing changed.
pub fn inject_cdi<'a, P: Into<Piece<'a>> + Copy>(
    spec: &mut Spec,
    held: &[P],
    cdi: &CdiSpecs,
) -> Result<(), InjectError> {
    let held: Vec<Piece<'a>> = held.iter().map(|piece| (*piece).into()).collect();
    let applied = cdi::applied(cdi.edits_for(&held)?, spec.user())?;
    let minors: Vec<u32> = held.iter().map(|piece| piece.gpu.minor).collect();
    undo_cdi(spec, cdi, &minors);
    take_legacy_hook(spec);
    take_other_names(spec);
    merge(spec, &applied);
    spec.set_env(VISIBLE, "void");
    Ok(())
}

/// Leaves it to NVIDIA's runtime to put GPUs in: names them in the environment, and keeps its hook.
pub fn inject_env(spec: &mut Spec, uuids: &[&str]) {
    take_other_names(spec);
    if uuids.is_empty() {
        return clear(spec);
    }
    spec.set_env(VISIBLE, &uuids.join(","));
}

/// Takes out what would have GPUs put in later: NVIDIA's legacy hook, the mounts and annotations that
/// name GPUs, and the environment's word. Nodes and rules are [`crate::strip::whitelist`]'s.
pub fn clear(spec: &mut Spec) {
    let asks = spec.env(VISIBLE).is_some_and(|v| !matches!(v, "" | "none" | "void"));
    // An old CUDA image that says nothing means all.
    let old = spec.env("CUDA_VERSION").is_some() && spec.env(VISIBLE).is_none();
    if take_legacy_hook(spec) || asks || old {
        spec.set_env(VISIBLE, "void");
    }
    take_other_names(spec);
}

/// Takes out what any device of the CDI kind would put in: nodes, rules, mounts, hooks, environment.
/// Nodes of the GPUs in `keep` stay where the user gave them another path.
fn undo_cdi(spec: &mut Spec, cdi: &CdiSpecs, keep: &[u32]) {
    let open = crate::devices::emulate(spec.rules()).is_ok_and(|v| v.opens_gpus_unnamed());
    let goes = |minor: Option<u32>| minor.is_some_and(|m| !keep.contains(&m));
    if !open {
        spec.retain(&["linux", "devices"], |n| !goes(Node::read(n).and_then(|n| n.gpu_minor())));
    }
    const RULES: [&str; 3] = ["linux", "resources", "devices"];
    spec.retain(&RULES, |r| {
        let rule = Rule::read(r);
        !(rule.allow && goes(rule.gpu_minor()))
    });
    for edits in cdi.all_edits() {
        for node in cdi::nodes(&edits).iter().filter_map(Node::read) {
            let same =
                |n: &Node| (n.major, n.minor, &n.path) == (node.major, node.minor, &node.path);
            // With every host device in the spec, the node is not CDI's alone.
            if !open {
                spec.retain(&["linux", "devices"], |n| !Node::read(n).is_some_and(|n| same(&n)));
            }
            let numbers =
                Meta { block: node.other, major: Some(node.major), minor: Some(node.minor) };
            spec.retain(&RULES, |r| {
                let rule = Rule::read(r);
                !(rule.allow && rule.meta() == Some(numbers))
            });
        }
        for mount in list(&edits, "mounts") {
            let ours = (str_of(mount, "containerPath"), str_of(mount, "hostPath"));
            spec.retain(&["mounts"], |m| (str_of(m, "destination"), str_of(m, "source")) != ours);
        }
        for hook in list(&edits, "hooks") {
            let same = |h: &Value| {
                str_of(h, "path") == str_of(hook, "path") && h.get("args") == hook.get("args")
            };
            spec.retain(&["hooks", str_of(hook, "hookName")], |h| !same(h));
        }
        for line in list(&edits, "env") {
            spec.retain(&["process", "env"], |e| e != line);
        }
    }
}

fn list<'a>(edits: &'a Value, key: &str) -> &'a [Value] {
    edits.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Takes NVIDIA's legacy hook out; whether it was there.
fn take_legacy_hook(spec: &mut Spec) -> bool {
    let mut there = false;
    for stage in STAGES {
        spec.retain(&["hooks", stage], |hook| {
            let legacy = is_legacy_hook(hook);
            there |= legacy;
            !legacy
        });
    }
    there
}

/// What else names GPUs, or control of MIG devices, to NVIDIA's runtime.
fn take_other_names(spec: &mut Spec) {
    spec.remove_annotated(CDI_ANNOTATIONS, |device| !is_of_another_kind(device));
    spec.retain(&["mounts"], |mount| mounted::name(mount).is_none());
    for name in MIG_CONTROL {
        spec.remove_env(name);
    }
}

/// Merges an OCI spec that holds nothing but CDI's edits into a container's.
fn merge(spec: &mut Spec, edits: &Value) {
    let at = |pointer: &str| edits.pointer(pointer).and_then(Value::as_array).cloned();
    let each = |pointer: &str| at(pointer).unwrap_or_default();
    for line in each("/process/env") {
        if let Some((name, value)) = line.as_str().and_then(|l| l.split_once('=')) {
            spec.set_env(name, value);
        }
    }
    replace(spec, &["linux", "devices"], "path", each("/linux/devices"));
    replace(spec, &["mounts"], "destination", each("/mounts"));
    add(spec, &["linux", "resources", "devices"], each("/linux/resources/devices"));
    add(spec, &["process", "user", "additionalGids"], each("/process/user/additionalGids"));
    for stage in STAGES {
        add(spec, &["hooks", stage], each(&format!("/hooks/{stage}")));
    }
    let linux = |key: &str| edits.pointer(&format!("/linux/{key}")).cloned();
    if let Some(Value::Object(devices)) = linux("netDevices") {
        spec.object_mut(&["linux", "netDevices"]).extend(devices);
    }
    if let Some(rdt @ Value::Object(_)) = linux("intelRdt") {
        spec.object_mut(&["linux"]).insert("intelRdt".into(), rdt);
    }
}

/// Appends entries, each in place of one that has the same text under `key`.
fn replace(spec: &mut Spec, path: &[&str], key: &str, entries: Vec<Value>) {
    for entry in entries {
        spec.retain(path, |have| str_of(have, key) != str_of(&entry, key));
        spec.list_mut(path).push(entry);
    }
}

/// Appends entries that are not there yet.
fn add(spec: &mut Spec, path: &[&str], entries: Vec<Value>) {
    for entry in entries {
        let list = spec.list_mut(path);
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
}

#[cfg(test)]
mod tests;
