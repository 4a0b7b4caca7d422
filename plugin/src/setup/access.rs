//! Which GPUs a running container may open. Pure.
//!
//! On cgroup v1 the kernel says it (`devices.list`). On v2 its rules are a program that cannot be read
//! back, so the container's final config.json says it. Devices that NVIDIA's legacy hook adds are in
//! no config.json: there the environment counts.

use std::collections::BTreeSet;

use gpuctl_ledger::model::{GpuRef, Inventory};
use serde_json::Value;

/// NVIDIA's major, and its minors that are no GPU.
const NVIDIA: u64 = 195;
const SHARED: [u32; 2] = [254, 255];

/// What a container may open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Access {
    /// GPUs by minor, each named by a rule.
    pub(super) minors: BTreeSet<u32>,
    /// Whether rules open GPUs without naming them.
    pub(super) all: bool,
    /// Whether the rules are those of `--privileged`: everything, asked for or not.
    pub(super) privileged: bool,
}

impl Access {
    fn add(&mut self, kind: &str, major: Option<u64>, minor: Option<u32>, access: &str) {
        let opens = access.is_empty() || access.contains(['r', 'w']);
        if kind == "b" || !opens || major.is_some_and(|m| m != NVIDIA) {
            return;
        }
        match minor {
            Some(minor) if SHARED.contains(&minor) => {}
            Some(minor) => drop(self.minors.insert(minor)),
            None => self.all = true,
        }
    }
}

/// From `devices.list` of cgroup v1: `c 195:3 rwm`, `a *:* rwm`.
pub(super) fn of_list(text: &str) -> Access {
    let mut access = Access::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(numbers)) = (words.next(), words.next()) else { continue };
        let (major, minor) = numbers.split_once(':').unwrap_or(("*", "*"));
        access.add(kind, major.parse().ok(), minor.parse().ok(), words.next().unwrap_or_default());
    }
    access
}

/// From a final config.json: the rules in their order, and the environment where NVIDIA's legacy hook
/// is in it. What is odd counts as opening.
pub(super) fn of_spec(spec: &Value, inventory: Option<&Inventory>) -> Access {
    let mut access = Access::default();
    let rules = spec.pointer("/linux/resources/devices").and_then(Value::as_array);
    for rule in rules.into_iter().flatten() {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| rule.get(key).and_then(Value::as_u64);
        let minor = number("minor").and_then(|n| u32::try_from(n).ok());
        let kind = if text("type").is_empty() { "a" } else { text("type") };
        if rule.get("allow") != Some(&Value::Bool(false)) {
            let (major, minor) = if kind == "a" { (None, None) } else { (number("major"), minor) };
            access.add(kind, major, minor, text("access"));
        } else if kind == "a" {
            access = Access::default();
        } else if number("major") == Some(NVIDIA)
            && let Some(minor) = minor
        {
            access.minors.remove(&minor);
        }
    }
    let hooks = spec.get("hooks").and_then(Value::as_object).into_iter().flat_map(|h| h.values());
    let mut programs =
        hooks.filter_map(Value::as_array).flatten().filter_map(|h| h.get("path")?.as_str());
    let legacy = programs.any(|path| {
        path.ends_with("/nvidia-container-runtime-hook")
            || path.ends_with("/nvidia-container-toolkit")
    });
    if legacy {
        let env = spec.pointer("/process/env").and_then(Value::as_array).into_iter().flatten();
        let mut named = env.filter_map(|e| e.as_str()?.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
        let named = named.next_back();
        by_environment(&mut access, named.unwrap_or_default(), inventory);
    }
    access
}

/// Adds what `NVIDIA_VISIBLE_DEVICES` names. A name that nobody knows may be any GPU.
fn by_environment(access: &mut Access, value: &str, inventory: Option<&Inventory>) {
    for name in value.split(',').map(str::trim) {
        let found = match name {
            "" | "none" | "void" => continue,
            "all" => None,
            name => name.parse::<GpuRef>().ok().and_then(|gpu| inventory?.find(&gpu)),
        };
        match found {
            Some(gpu) => drop(access.minors.insert(gpu.minor)),
            None => access.all = true,
        }
    }
}

/// From what Docker was asked for, where nothing better can be read, and for what a privileged
/// container names besides. `nodes` are the minors of the device paths that it was given.
pub(super) fn of_inspect(shown: &Value, nodes: &[u32], inventory: Option<&Inventory>) -> Access {
    let mut access = Access::default();
    access.minors.extend(nodes.iter().filter(|minor| !SHARED.contains(minor)));
    let list =
        |pointer: &str| shown.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    for request in list("/HostConfig/DeviceRequests") {
        let driver = request.get("Driver").and_then(Value::as_str).unwrap_or_default();
        if !matches!(driver, "" | "nvidia" | "cdi") {
            continue;
        }
        let ids = request.get("DeviceIDs").and_then(Value::as_array).into_iter().flatten();
        let ids: Vec<&str> = ids.filter_map(Value::as_str).collect();
        let count = request.get("Count").and_then(Value::as_i64).unwrap_or_default();
        // nvidia.com/gpu=0 is device 0.
        let names: Vec<String> =
            ids.iter().map(|id| id.rsplit('=').next().unwrap_or(id).to_owned()).collect();
        let names = match (names.is_empty(), count) {
            (false, _) => names.join(","),
            (true, count) if count < 0 => "all".to_owned(),
            // Without us, dockerd takes the first.
            (true, count) => {
                (0..count.min(256)).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
            }
        };
        by_environment(&mut access, &names, inventory);
    }
    for rule in list("/HostConfig/DeviceCgroupRules").filter_map(Value::as_str) {
        let rules = of_list(rule);
        access.minors.extend(rules.minors);
        access.all |= rules.all;
    }
    access
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_list_is_read_as_it_means_it() {
        let access = of_list("c *:* m\nb *:* m\nc 1:3 rwm\nc 195:255 rw\nc 195:2 rw\nc 510:0 rw\n");
        assert_eq!((access.minors, access.all), ([2].into(), false));
        assert!(of_list("a *:* rwm\n").all);
        assert!(of_list("c 195:* r\n").all);
        assert!(!of_list("c 195:1 m\nb 195:* rwm\n").all);
    }

    #[test]
    fn a_specs_rules_count_in_order_and_the_legacy_hook_by_its_environment() {
        let spec = |rules: Value, hook: &str, env: &str| {
            json!({"linux": {"resources": {"devices": rules}}, "process": {"env": [env]},
                "hooks": {"prestart": [{"path": hook}]}})
        };
        let deny = json!({"allow": false, "access": "rwm"});
        let gpu = |minor: u32| json!({"allow": true, "type": "c", "major": 195, "minor": minor, "access": "rw"});
        let plain = spec(json!([deny, gpu(3), gpu(255)]), "/x", "NVIDIA_VISIBLE_DEVICES=all");
        assert_eq!(of_spec(&plain, None), Access { minors: [3].into(), ..Access::default() });
        let legacy = spec(
            json!([deny]),
            "/usr/bin/nvidia-container-runtime-hook",
            "NVIDIA_VISIBLE_DEVICES=all",
        );
        assert!(of_spec(&legacy, None).all);
        let void = spec(
            json!([deny]),
            "/usr/bin/nvidia-container-runtime-hook",
            "NVIDIA_VISIBLE_DEVICES=void",
        );
        assert_eq!(of_spec(&void, None), Access::default());
        let every = spec(json!([{"allow": true, "access": "rwm"}]), "/x", "");
        assert!(of_spec(&every, None).all);
        let taken_back = spec(json!([{"allow": true, "access": "rwm"}, deny, gpu(1)]), "/x", "");
        assert_eq!(of_spec(&taken_back, None), Access { minors: [1].into(), ..Access::default() });
    }

    #[test]
    fn requests_count_as_dockerd_reads_them_without_us() {
        let inventory = super::super::testing::inventory(4);
        let of = |host: Value| of_inspect(&json!({"HostConfig": host}), &[255], Some(&inventory));
        let minors = |host: Value| of(host).minors.into_iter().collect::<Vec<_>>();
        // Index is not minor: GPU 0 is /dev/nvidia3 here.
        assert_eq!(minors(json!({"DeviceRequests": [{"Count": 2, "DeviceIDs": null}]})), [2, 3]);
        assert_eq!(
            minors(
                json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=3"]}]})
            ),
            [0]
        );
        assert!(of(json!({"DeviceRequests": [{"Count": -1}]})).all);
        assert!(of(json!({"DeviceCgroupRules": ["c 195:* rmw"]})).all);
        assert_eq!(of(json!({"DeviceRequests": null})), Access::default());
    }
}
