//! The check after every bad day: no GPU has two holders, counting what really runs and not only
//! records; none is lost for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gpuctl_ledger::model::Lease;
use gpuctl_sim::processes;
use gpuctl_sim::profile::Gpu;
use serde_json::Value;

use crate::Node;

/// How long what is gone may still be on the books, once asked to tidy up.
const TIDY: Duration = Duration::from_secs(15);

impl Node {
    /// The leases in the ledger, by GPU.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn leases(&self) -> BTreeMap<String, Lease> {
        let prefix =
            format!("/gpuctl/v1/nodes/{}/leases/", self.config().node_name().expect("a name"));
        let listing = self.store().list(&prefix).expect("the ledger answers");
        let read = |e: &gpuctl_ledger::store::Entry| {
            let lease: Lease = serde_json::from_slice(&e.value).expect("a lease");
            (lease.unit.to_string(), lease)
        };
        listing.entries.iter().map(read).collect()
    }

    /// The names of the containers whose change is under way, by the ledger.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn open_changes(&self) -> Vec<String> {
        let node = self.config().node_name().expect("a name");
        let prefix = format!("/gpuctl/v1/nodes/{node}/operations/");
        let listing = self.store().list(&prefix).expect("the ledger answers");
        listing.entries.iter().map(|e| e.key.replace(&prefix, "")).collect()
    }

    /// The minors of the GPUs that a Docker container holds by the ledger.
    ///
    /// # Panics
    /// When the ledger cannot be read, or leases a GPU that the node has not.
    pub fn leased_minors(&self, id: &str) -> BTreeSet<u32> {
        let gpus = self.gpus();
        let leases = self.leases();
        let held = leases.values().filter(|l| l.holder.container.as_str() == id);
        held.map(|l| {
            let part = |g: &Gpu| g.mig().iter().any(|mig| mig.uuid == l.unit.as_str());
            let gpu = gpus.iter().find(|g| g.uuid == l.unit.card() || part(g));
            gpu.unwrap_or_else(|| panic!("a lease on {}, which is not there", l.unit)).minor
        })
        .collect()
    }

    /// Whether a container holds a part of the GPU with this minor - a MIG device or a slot - and not
    /// the whole: others may then have its node open too.
    fn holds_part(&self, id: &str, minor: u32) -> bool {
        let whole = self.gpus().into_iter().find(|g| g.minor == minor).map(|g| g.uuid);
        let leases = self.leases();
        let whole = leases.values().any(|l| {
            l.holder.container.as_str() == id && Some(l.unit.as_str()) == whole.as_deref()
        });
        !whole && self.leased_minors(id).contains(&minor)
    }

    /// The GPUs' minors that each running container may open, as the kernel has it (cgroup v1), or
    /// as its bundle says (v2, whose rules cannot be read back).
    ///
    /// # Panics
    /// When a container's rules cannot be read.
    pub fn granted(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let all: BTreeSet<u32> = self.gpus().iter().map(|g| g.minor).collect();
        let mut granted = BTreeMap::new();
        for folder in processes::cgroups(self.place()) {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let id = entry.file_name().to_string_lossy().into_owned();
                if id.len() != 64 || !alive(&entry.path()) || granted.contains_key(&id) {
                    continue;
                }
                if let Ok(list) = fs::read_to_string(entry.path().join("devices.list")) {
                    granted.insert(id, minors_of_list(&list, &all));
                } else if entry.path().join("cgroup.controllers").exists()
                    && !entry
                        .path()
                        .join("cgroup.controllers")
                        .starts_with("/sys/fs/cgroup/unified")
                {
                    let bundle = self.place().bundles().join(&id).join("config.json");
                    if let Ok(text) = fs::read(&bundle) {
                        let spec: Value = serde_json::from_slice(&text).expect("a spec");
                        granted.insert(id, minors_of_spec(&spec, &all));
                    }
                }
            }
        }
        granted
    }

    /// Checks that nobody shares a GPU, that everybody who has one holds the lease, and that, after
    /// `doctor --fix`, no lease stands for a container that neither lives nor will be started again.
    ///
    /// # Panics
    /// When any of it is not so.
    #[track_caller]
    pub fn check(&self) {
        self.check_exclusive();
        // Asked again and again: what was stopped by hand is kept for some seconds.
        let until = Instant::now() + TIDY;
        loop {
            let fix = self.gpuctl(&["doctor", "--fix"]);
            let orphans = self.orphans();
            if orphans.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "leases without a holder: {orphans:#?}\nafter\n{fix}");
            std::thread::sleep(Duration::from_millis(500));
        }
        self.check_exclusive();
    }

    /// The first half of [`Node::check`], which asks nothing of the product.
    ///
    /// # Panics
    /// When a GPU has two users, or one without a lease.
    #[track_caller]
    pub fn check_exclusive(&self) {
        // A container may start or end between two looks: what is wrong must be so twice.
        let wrong = self.wrong();
        if !wrong.is_empty() {
            std::thread::sleep(Duration::from_millis(500));
            let again = self.wrong();
            let stays: Vec<&String> = wrong.intersection(&again).collect();
            assert!(stays.is_empty(), "{stays:#?}\nleases: {:#?}", self.leases());
        }
    }

    fn wrong(&self) -> BTreeSet<String> {
        let mut wrong = BTreeSet::new();
        let granted = self.granted();
        let mut users: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for (id, minors) in &granted {
            for minor in minors {
                users.entry(*minor).or_default().push(id);
            }
            let leased = self.leased_minors(id);
            if !minors.is_subset(&leased) {
                wrong.insert(format!("{id} may open {minors:?} and holds leases on {leased:?}"));
            }
        }
        for (minor, ids) in users {
            if ids.len() > 1 && !ids.iter().all(|id| self.holds_part(id, minor)) {
                wrong.insert(format!("/dev/nvidia{minor} is open to {ids:?}"));
            }
        }
        wrong
    }

    /// Leases whose container neither runs nor is to be started again by Docker itself, nor is one
    /// that is being changed.
    fn orphans(&self) -> Vec<String> {
        let running = self.granted();
        let mut orphans = Vec::new();
        for (unit, lease) in self.leases() {
            let id = lease.holder.container.as_str();
            if running.contains_key(id) || self.restartable(id) {
                continue;
            }
            orphans.push(format!("{unit}: {}, {:?}", lease.holder.shown(), lease.state));
        }
        orphans
    }

    fn restartable(&self, id: &str) -> bool {
        let format = "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}}";
        let got = self.docker(&["inspect", "--format", format, id]);
        let mut words = got.stdout.split_whitespace();
        let (policy, status) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let stopped_by_hand = || {
            let file = self.place().data().join("containers").join(id).join("config.v2.json");
            let text = fs::read(file).unwrap_or_default();
            let config: Value = serde_json::from_slice(&text).unwrap_or_default();
            config["HasBeenManuallyStopped"] == true
        };
        match policy {
            "always" | "unless-stopped" => !stopped_by_hand(),
            "on-failure" => status == "restarting",
            _ => status == "restarting",
        }
    }
}

/// Whether anything runs in a cgroup or below it.
fn alive(folder: &Path) -> bool {
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    if procs.lines().filter_map(|l| l.parse().ok()).any(|p| processes::start_time(p).is_some()) {
        return true;
    }
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|e| e.file_type().is_ok_and(|t| t.is_dir()) && alive(&e.path()))
}

/// GPUs' minors in a `devices.list`: lines such as `c 195:3 rwm` or `a *:* rwm`. To make a node (m)
/// is not to open it.
fn minors_of_list(list: &str, all: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut open = BTreeSet::new();
    for line in list.lines() {
        let mut words = line.split(' ');
        let (Some(kind), Some(number), Some(access)) = (words.next(), words.next(), words.next())
        else {
            panic!("a line of devices.list reads {line:?}");
        };
        let (major, minor) = number.split_once(':').expect("major:minor");
        if kind == "b" || !(major == "*" || major == "195") || !access.contains(['r', 'w']) {
            continue;
        }
        match minor {
            "*" => open.extend(all),
            n => open.extend(n.parse().ok().filter(|n| all.contains(n))),
        }
    }
    open
}

/// The GPUs' minors, of `all`, that a spec's device rules open; a later rule overrides an earlier.
pub fn minors_of_spec(spec: &Value, all: &BTreeSet<u32>) -> BTreeSet<u32> {
    let rules = spec.pointer("/linux/resources/devices").and_then(Value::as_array);
    let mut open = BTreeSet::new();
    for rule in rules.into_iter().flatten() {
        let number = |name| rule[name].as_i64().filter(|n| *n >= 0);
        let kind = rule["type"].as_str().unwrap_or("a");
        let access = rule["access"].as_str().unwrap_or("rwm");
        if kind == "b" || number("major").is_some_and(|m| m != 195) || !access.contains(['r', 'w'])
        {
            continue;
        }
        let named = |m: &&u32| number("minor").is_none_or(|n| n == i64::from(**m));
        let minors: BTreeSet<u32> = all.iter().filter(named).copied().collect();
        if rule["allow"] == true {
            open.extend(minors);
        } else {
            open.retain(|m| !minors.contains(m));
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeSet<u32> {
        (0..4).collect()
    }

    #[test]
    fn devices_list_is_read_as_the_kernel_means_it() {
        let of = |t: &str| minors_of_list(t, &all()).into_iter().collect::<Vec<_>>();
        assert_eq!(of("c *:* m\nb *:* m\nc 1:3 rwm\nc 195:255 rw\nc 195:2 rwm\n"), [2]);
        assert_eq!(of("a *:* rwm\n"), [0, 1, 2, 3]);
        assert_eq!(of("c 195:* r\n"), [0, 1, 2, 3]);
        assert!(of("c 195:1 m\nb 195:1 rwm\nc 510:1 rwm\n").is_empty());
    }

    #[test]
    fn rules_of_a_spec_are_read_in_order() {
        let spec = serde_json::json!({"linux": {"resources": {"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "c", "major": 195, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 195, "minor": -1, "access": "r"},
            {"allow": false, "type": "c", "major": 195, "minor": 0, "access": "rwm"},
        ]}}});
        assert_eq!(minors_of_spec(&spec, &all()).into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
