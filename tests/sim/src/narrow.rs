//! On a machine whose root lacks a capability (a virtual machine's guest, a container), runc cannot
//! start a container that is given all of them: `--privileged` fails with "unable to apply caps".
//! There, and only there, this stands between gpuctl-runtime and the real runc and takes out of the
//! spec those that nobody on the machine has.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Doing as _, Result};

/// In the order of their bits, from linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The capabilities that this process can never have; empty on an ordinary machine.
///
/// # Errors
/// When /proc cannot be read.
pub fn missing() -> Result<Vec<String>> {
    let status = std::fs::read_to_string("/proc/self/status").doing("read /proc/self/status")?;
    let bits = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|t| u64::from_str_radix(t.trim(), 16).ok())
        .ok_or("/proc/self/status shows no CapBnd")?;
    Ok(absent(bits))
}

fn absent(bits: u64) -> Vec<String> {
    let lacks = |(i, name): (usize, &&str)| (bits >> i & 1 == 0).then(|| format!("CAP_{name}"));
    NAMES.iter().enumerate().filter_map(lacks).collect()
}

/// The file to change for this call of runc, if any: config.json of a bundle, or exec's process.
pub fn file_of(arguments: &[String]) -> Option<PathBuf> {
    let value = |names: [&str; 2]| {
        arguments.iter().enumerate().find_map(|(i, a)| {
            if names.contains(&a.as_str()) {
                arguments.get(i + 1).cloned()
            } else {
                a.strip_prefix(&format!("{}=", names[0])).map(str::to_owned)
            }
        })
    };
    let verb = |v: &str| arguments.iter().any(|a| a == v);
    if verb("exec") {
        value(["--process", "-p"]).map(PathBuf::from)
    } else if verb("create") || verb("run") || verb("restore") {
        let bundle = value(["--bundle", "-b"]).unwrap_or_else(|| ".".into());
        Some(Path::new(&bundle).join("config.json"))
    } else {
        None
    }
}

/// Takes the capabilities out of a spec or a process; says whether anything changed.
pub fn take_out(spec: &mut Value, names: &[String]) -> bool {
    let process = if spec.get("process").is_some() { spec.get_mut("process") } else { Some(spec) };
    let sets = process.and_then(|p| p.get_mut("capabilities")).and_then(Value::as_object_mut);
    let mut changed = false;
    for set in sets.into_iter().flat_map(|s| s.values_mut()).filter_map(Value::as_array_mut) {
        let before = set.len();
        set.retain(|c| !c.as_str().is_some_and(|c| names.iter().any(|n| n == c)));
        changed |= set.len() != before;
    }
    changed
}

/// Changes the spec of this call where needed.
///
/// # Errors
/// When the file cannot be read or written.
pub fn apply(arguments: &[String]) -> Result<()> {
    let Some(file) = file_of(arguments) else { return Ok(()) };
    let text = std::fs::read_to_string(&file).doing("read the spec")?;
    let mut spec = serde_json::from_str(&text).doing("understand the spec")?;
    if take_out(&mut spec, &missing()?) {
        std::fs::write(&file, spec.to_string()).doing("write the spec")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_bits_have_their_names() {
        assert_eq!(absent(0x1ff_feff_ffff), ["CAP_SYS_RESOURCE"]);
        assert!(absent(0x1ff_ffff_ffff).is_empty());
    }

    #[test]
    fn they_are_taken_out_of_every_set() {
        let mut spec = json!({"process": {"capabilities": {
            "bounding": ["CAP_KILL", "CAP_SYS_RESOURCE"], "effective": ["CAP_SYS_RESOURCE"]}}});
        assert!(take_out(&mut spec, &["CAP_SYS_RESOURCE".into()]));
        assert_eq!(
            spec["process"]["capabilities"],
            json!({"bounding": ["CAP_KILL"], "effective": []})
        );
        assert!(!take_out(&mut spec, &["CAP_SYS_RESOURCE".into()]));
    }

    #[test]
    fn the_file_is_found_for_each_verb() {
        let of = |t: &str| file_of(&t.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("--root /r create --bundle /b id"), Some("/b/config.json".into()));
        assert_eq!(of("exec --process /p.json -d id"), Some("/p.json".into()));
        assert_eq!(of("delete --force id"), None);
    }
}
