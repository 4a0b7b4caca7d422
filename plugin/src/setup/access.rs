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

/// What is known of the driver.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Driver<'a> {
    /// The GPUs; `None` where they are not known.
    pub(super) inventory: Option<&'a Inventory>,
    /// Major number of nvidia-caps, by whose nodes MIG devices are opened.
    pub(super) caps_major: Option<u32>,
}

/// What a container may open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Access {
    /// GPUs by minor, each named by a rule.
    pub(super) minors: BTreeSet<u32>,
    /// Whether rules open GPUs without naming them.
    pub(super) all: bool,
    /// Nodes of nvidia-caps by minor: two of them open a MIG device of a GPU that is open.
    pub(super) caps: BTreeSet<u32>,
    /// Whether rules open nvidia-caps without naming them.
    pub(super) all_caps: bool,
    /// Whether the rules are those of `--privileged`: everything, asked for or not.
    pub(super) privileged: bool,
}

impl Access {
    fn add(
        &mut self,
        kind: &str,
        (major, minor): (Option<u64>, Option<u32>),
        access: &str,
        caps_major: Option<u32>,
    ) {
        let opens = access.is_empty() || access.contains(['r', 'w']);
        if kind == "b" || !opens {
            return;
        }
        if major.is_none_or(|m| caps_major.is_some_and(|caps| m == u64::from(caps))) {
            match minor {
                Some(minor) => drop(self.caps.insert(minor)),
                None => self.all_caps = true,
            }
        }
        if major.is_some_and(|m| m != NVIDIA) {
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
pub(super) fn of_list(text: &str, driver: Driver<'_>) -> Access {
    let mut access = Access::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(numbers)) = (words.next(), words.next()) else { continue };
        let (major, minor) = numbers.split_once(':').unwrap_or(("*", "*"));
        let numbers = (major.parse().ok(), minor.parse().ok());
        access.add(kind, numbers, words.next().unwrap_or_default(), driver.caps_major);
    }
    access
}

/// From a final config.json: the rules in their order, and the environment where NVIDIA's legacy hook
/// is in it. What is odd counts as opening.
pub(super) fn of_spec(spec: &Value, driver: Driver<'_>) -> Access {
    let mut access = Access::default();
    let rules = spec.pointer("/linux/resources/devices").and_then(Value::as_array);
    for rule in rules.into_iter().flatten() {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| rule.get(key).and_then(Value::as_u64);
        let minor = number("minor").and_then(|n| u32::try_from(n).ok());
        let kind = if text("type").is_empty() { "a" } else { text("type") };
        if rule.get("allow") != Some(&Value::Bool(false)) {
            let numbers = if kind == "a" { (None, None) } else { (number("major"), minor) };
            access.add(kind, numbers, text("access"), driver.caps_major);
        } else if kind == "a" {
            access = Access::default();
        } else if let (Some(major), Some(minor)) = (number("major"), minor) {
            if major == NVIDIA {
                access.minors.remove(&minor);
            } else if driver.caps_major.is_some_and(|caps| major == u64::from(caps)) {
                access.caps.remove(&minor);
            }
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
        let list = |at: &str| spec.pointer(at).and_then(Value::as_array).into_iter().flatten();
        let env = |name: &str| {
            let of =
                |e: &'_ Value| e.as_str()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            list("/process/env").filter_map(of).next_back()
        };
        let says = |name: &str| env(name).is_some_and(|value| !value.is_empty());
        // An old CUDA image says nothing and means all.
        let old = says("CUDA_VERSION") && !says("NVIDIA_REQUIRE_CUDA");
        let named = env("NVIDIA_VISIBLE_DEVICES");
        let named = named.unwrap_or_else(|| if old { "all".into() } else { String::new() });
        by_environment(&mut access, &named, driver.inventory);
        // Such a mount may name any GPU, if it is not a channel's.
        let mounted = list("/mounts").any(|mount| {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("destination").strip_prefix("/var/run/nvidia-container-devices");
            text("source") == "/dev/null" && name.is_some_and(|name| !name.starts_with("/imex/"))
        });
        access.all |= mounted;
        access.all_caps |= mounted;
    }
    access
}

/// Adds what `NVIDIA_VISIBLE_DEVICES` names. A name that nobody knows may be any GPU.
fn by_environment(access: &mut Access, value: &str, inventory: Option<&Inventory>) {
    for name in value.split(',').map(str::trim) {
        let found = match name {
            "" | "none" | "void" => continue,
            "all" => None,
            name => name.parse::<GpuRef>().ok().and_then(|gpu| inventory?.locate(&gpu)),
        };
        match found {
            Some(piece) => {
                access.minors.insert(piece.gpu.minor);
                access.caps.extend(piece.mig().into_iter().flat_map(|mig| mig.caps));
            }
            None => (access.all, access.all_caps) = (true, true),
        }
    }
}

/// From what Docker was asked for, where nothing better can be read, and for what a privileged
/// container names besides. `nodes` are major and minor of the device paths that it was given.
pub(super) fn of_inspect(shown: &Value, nodes: &[(u64, u32)], driver: Driver<'_>) -> Access {
    let mut access = Access::default();
    for (major, minor) in nodes {
        access.add("c", (Some(*major), Some(*minor)), "", driver.caps_major);
    }
    let list =
        |pointer: &str| shown.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    for request in list("/HostConfig/DeviceRequests") {
        let by = request.get("Driver").and_then(Value::as_str).unwrap_or_default();
        if !matches!(by, "" | "nvidia" | "cdi") {
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
        by_environment(&mut access, &names, driver.inventory);
    }
    for rule in list("/HostConfig/DeviceCgroupRules").filter_map(Value::as_str) {
        let rules = of_list(rule, driver);
        access.minors.extend(rules.minors);
        access.caps.extend(rules.caps);
        access.all |= rules.all;
        access.all_caps |= rules.all_caps;
    }
    access
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_list_is_read_as_it_means_it() {
        let of_list = |text: &str| of_list(text, Driver::default());
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
        let of_spec = |spec: &Value| of_spec(spec, Driver::default());
        let deny = json!({"allow": false, "access": "rwm"});
        let gpu = |minor: u32| json!({"allow": true, "type": "c", "major": 195, "minor": minor, "access": "rw"});
        let plain = spec(json!([deny, gpu(3), gpu(255)]), "/x", "NVIDIA_VISIBLE_DEVICES=all");
        assert_eq!(of_spec(&plain), Access { minors: [3].into(), ..Access::default() });
        let legacy = spec(
            json!([deny]),
            "/usr/bin/nvidia-container-runtime-hook",
            "NVIDIA_VISIBLE_DEVICES=all",
        );
        assert!(of_spec(&legacy).all);
        // An old CUDA image says nothing, and a mount may say it.
        let hook = "/usr/bin/nvidia-container-runtime-hook";
        assert!(of_spec(&spec(json!([deny]), hook, "CUDA_VERSION=8.0")).all);
        let mut by_mount = spec(json!([deny]), hook, "CUDA_VERSION=");
        assert_eq!(of_spec(&by_mount), Access::default());
        for (at, all) in [("/0", true), ("/imex/0", false)] {
            let at = format!("/var/run/nvidia-container-devices{at}");
            by_mount["mounts"] = json!([{"source": "/dev/null", "destination": at}]);
            assert_eq!(of_spec(&by_mount).all, all);
        }
        let void = spec(
            json!([deny]),
            "/usr/bin/nvidia-container-runtime-hook",
            "NVIDIA_VISIBLE_DEVICES=void",
        );
        assert_eq!(of_spec(&void), Access::default());
        let every = spec(json!([{"allow": true, "access": "rwm"}]), "/x", "");
        assert!(of_spec(&every).all);
        let taken_back = spec(json!([{"allow": true, "access": "rwm"}, deny, gpu(1)]), "/x", "");
        assert_eq!(of_spec(&taken_back), Access { minors: [1].into(), ..Access::default() });
    }

    #[test]
    fn requests_count_as_dockerd_reads_them_without_us() {
        let inventory = super::super::testing::inventory(4);
        let of = |host: Value| {
            let driver = Driver { inventory: Some(&inventory), caps_major: None };
            of_inspect(&json!({"HostConfig": host}), &[(195, 255)], driver)
        };
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

    #[test]
    fn nodes_of_nvidia_caps_are_seen_by_whichever_way_they_come() {
        let inventory = super::super::testing::cut(2);
        let driver = Driver { inventory: Some(&inventory), caps_major: Some(236) };
        let seen = |access: Access| {
            (
                access.minors.into_iter().collect(),
                access.caps.into_iter().collect(),
                access.all_caps,
            )
        };
        type Seen = (Vec<u32>, Vec<u32>, bool);
        let list = of_list("c 195:1 rw\nc 236:3 r\nc 236:4 r\nc 236:9 m\nc 237:5 rw\n", driver);
        let one: Seen = (vec![1], vec![3, 4], false);
        assert_eq!(seen(list), one);
        assert!(of_list("c 236:* r\n", driver).all_caps && of_list("a *:* rwm\n", driver).all_caps);
        let rule = |major: u32, minor: u32, allow: bool| json!({"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rw"});
        let rules = json!([
            rule(195, 1, true),
            rule(236, 3, true),
            rule(236, 4, true),
            rule(236, 5, true),
            rule(236, 5, false)
        ]);
        let spec = json!({"linux": {"resources": {"devices": rules}}});
        assert_eq!(seen(of_spec(&spec, driver)), one);
        // GPU 0 is /dev/nvidia1 here.
        for name in ["0:0", "MIG-0-0", "nvidia.com/gpu=0:0"] {
            let request = json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [name]}]});
            let asked = of_inspect(&json!({"HostConfig": request}), &[], driver);
            assert_eq!(seen(asked), one, "{name}");
        }
        let nodes = [(195, 1), (195, 255), (236, 3), (236, 4), (10, 200)];
        assert_eq!(seen(of_inspect(&json!({}), &nodes, driver)), one);
    }
}
