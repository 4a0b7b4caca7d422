//! Our own hooks in a spec.

use std::path::Path;

use serde_json::{Value, json};

use crate::spec::{Spec, str_of};

/// After this the runtime kills a hook of ours, in seconds: above the longest wait for the ledger
/// that the config takes.
const TIMEOUT_S: u32 = 90;
/// All that our hooks see of an environment. Without one they would inherit dockerd's.
const ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The stages in which hooks of ours can stand.
const OURS: [&str; 3] = ["createRuntime", "prestart", "poststop"];

/// Puts the gate and the release hook in, with these arguments (the first is the program's name).
/// Earlier ones of the same program are taken out, so that a second call leaves one of each.
///
/// The gate is the first of its stage: what it refuses, no later hook prepares.
pub fn add_hooks(spec: &mut Spec, hook: &Path, gate: &[&str], release: &[&str]) {
    let path = hook.to_string_lossy();
    for stage in OURS {
        spec.retain(&["hooks", stage], |h| str_of(h, "path") != path);
    }
    let entry =
        |args: &[&str]| json!({"path": path, "args": args, "env": [ENV], "timeout": TIMEOUT_S});
    let stage = gate_stage(spec.oci_version());
    spec.list_mut(&["hooks", stage]).insert(0, entry(gate));
    spec.list_mut(&["hooks", "poststop"]).push(entry(release));
}

/// Whether the gate is in the spec.
pub fn has_gate(spec: &Spec, hook: &Path) -> bool {
    let path = hook.to_string_lossy();
    let ours = |h: &Value| str_of(h, "path") == path;
    ["createRuntime", "prestart"].iter().any(|stage| spec.hooks(stage).iter().any(ours))
}

/// `createRuntime` came with version 1.0.2 of the runtime specification, its drafts included: runc
/// 1.1 says 1.0.2-dev. Every runtime still runs `prestart`, so that is for all we cannot read.
fn gate_stage(version: &str) -> &'static str {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b)), Some(Ok(c))) if (a, b, c) >= (1, 0, 2) => "createRuntime",
        _ => "prestart",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_one_that_the_spec_version_knows() {
        for new in ["1.0.2-dev", "1.0.2", "1.1.0+x", "1.3.0", "2.0.0-rc1"] {
            assert_eq!(gate_stage(new), "createRuntime", "{new}");
        }
        for old in ["1.0.1", "1.0.0-rc5", "", "x", "1"] {
            assert_eq!(gate_stage(old), "prestart", "{old}");
        }
    }

    #[test]
    fn hooks_go_in_once_beside_those_of_others() {
        let other = json!({"path": "/usr/bin/other"});
        let mut spec = Spec::from_value(json!({"ociVersion": "1.0.2-dev",
            "hooks": {"createRuntime": [other], "poststop": null}}))
        .unwrap();
        let hook = Path::new("/usr/libexec/gpuctl/gpuctl-hook");
        assert!(!has_gate(&spec, hook));
        add_hooks(&mut spec, hook, &["gpuctl-hook", "gate", "old"], &["gpuctl-hook", "release"]);
        let first = ["gpuctl-hook", "gate", "--token", "t"];
        add_hooks(&mut spec, hook, &first, &["gpuctl-hook", "release"]);
        assert!(has_gate(&spec, hook));
        let gate = spec.hooks("createRuntime");
        assert_eq!((gate.len(), &gate[1]), (2, &other));
        assert_eq!(gate[0]["args"], json!(first));
        assert_eq!(gate[0]["env"].as_array().unwrap().len(), 1);
        assert_eq!(gate[0]["timeout"], 90);
        assert_eq!(spec.hooks("poststop").len(), 1);
    }
}
