//! What is to be compared before and after: all of the ledger, and one managed container from
//! every side.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Node;
use crate::probe;

/// Records by key.
pub type Records = BTreeMap<String, Value>;

/// Every record of the node in the ledger by its key below the node's prefix. The node's own record,
/// which tells of its GPUs, is left out: it is not what a command changes.
///
/// # Panics
/// When the ledger cannot be read.
pub fn ledger(node: &Node) -> Records {
    let prefix = format!("/gpuctl/v1/nodes/{}/", node.config().node_name().expect("a name"));
    let listing = node.store().list(&prefix).expect("the ledger answers");
    let entries = listing.entries.iter().map(|entry| {
        let value = serde_json::from_slice(&entry.value).expect("JSON");
        (entry.key.replacen(&prefix, "", 1), value)
    });
    entries.filter(|(key, _)| key != "self").collect()
}

/// In which records two looks at the ledger differ; for messages that can be read.
pub fn difference(before: &Records, after: &Records) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let short = |value: Option<&Value>| {
        let mut value = value.cloned().unwrap_or(Value::Null);
        if let Some(object) = value.as_object_mut() {
            object.remove("spec");
        }
        value
    };
    let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differ
        .map(|key| format!("{key}: {} -> {}", short(before.get(key)), short(after.get(key))))
        .collect()
}

/// What Docker has written down of a container's state: `State` of its config.v2.json, and whether its user
/// stopped it.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn written_by_docker(node: &Node, container: &str) -> (Value, bool) {
    let folder = node.config().docker.root.join("containers").join(node.id(container));
    let text = std::fs::read(folder.join("config.v2.json")).expect("Docker's file");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    (all["State"].clone(), all["HasBeenManuallyStopped"] == true)
}

/// All containers of the Engine, with what would show that one was touched.
///
/// # Panics
/// When the Engine does not answer.
#[track_caller]
pub fn containers(node: &Node) -> BTreeMap<String, String> {
    let format = "{{.Id}} {{.Name}} {{.State.Status}} {{.State.StartedAt}} {{.State.Pid}}";
    let mut list = None;
    // One that is removed after it was listed, as with --rm, is not there: then all are listed anew.
    for _ in 0..10 {
        let ids = node.docker_ok(&["ps", "-aq", "--no-trunc"]);
        if ids.is_empty() {
            return BTreeMap::new();
        }
        let mut words = vec!["inspect", "--format", format];
        words.extend(ids.lines());
        let got = node.docker(&words);
        if got.code == 0 {
            list = Some(got.stdout);
            break;
        }
        assert!(got.stderr.to_lowercase().contains("no such object"), "{got}");
    }
    let list = list.expect("containers that stay for a moment");
    let split = |l: &str| l.split_once(' ').map(|(id, rest)| (id.to_owned(), rest.to_owned()));
    list.lines().filter_map(split).collect()
}

/// A managed container from every side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name in Docker.
    pub docker_name: String,
    /// Its id.
    pub id: String,
    /// Whether Docker shows it running.
    pub running: bool,
    /// When Docker last started it.
    pub started_at: String,
    /// Its version by ps.
    pub version: u64,
    /// What it is to get by ps.
    pub gpus: String,
    /// The minors that it holds by the ledger.
    pub leased: BTreeSet<u32>,
    /// The minors that it can open; none when it does not run.
    pub opens: BTreeSet<u32>,
    /// The versions of its history, the oldest first.
    pub history: Vec<u64>,
}

/// What is to be seen of a managed container; `None` when neither Docker nor ps shows it.
///
/// # Panics
/// When Docker and ps disagree, or there are several.
#[track_caller]
pub fn seen(node: &Node, name: &str) -> Option<Seen> {
    let filter = format!("name=^/{name}-[0-9]+$");
    let list = node.docker_ok(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
    let ps = row(node, name);
    let names: Vec<&str> = list.lines().collect();
    let (docker_name, ps) = match (names.as_slice(), ps) {
        ([], None) => return None,
        ([one], Some(ps)) => ((*one).to_owned(), ps),
        (names, ps) => panic!("Docker shows {names:?}, ps shows {ps:?}"),
    };
    let format = "{{.Id}} {{.State.Running}} {{.State.StartedAt}}";
    let shown = node.docker_ok(&["inspect", "--format", format, &docker_name]);
    let words: Vec<&str> = shown.split(' ').collect();
    let [id, running, started_at] = words.as_slice() else { panic!("inspect says {shown:?}") };
    let running = *running == "true";
    let opens = if running { probe::opens(node, &docker_name) } else { BTreeSet::new() };
    Some(Seen {
        id: (*id).to_owned(),
        running,
        started_at: (*started_at).to_owned(),
        version: ps["version"].as_u64().expect("a version"),
        gpus: ps["gpus"].as_str().expect("GPUs").to_owned(),
        leased: node.leased_minors(id),
        opens,
        history: history(node, name),
        docker_name,
    })
}

/// The row of `ps -a` of a container.
///
/// # Panics
/// When ps fails.
#[track_caller]
pub fn row(node: &Node, name: &str) -> Option<Value> {
    let text = node.gpuctl_ok(&["ps", "-a", "--format", "json"]);
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    rows.into_iter().find(|r| r["name"] == name)
}

/// The versions of a container's history, the oldest first; none when it is unknown.
pub fn history(node: &Node, name: &str) -> Vec<u64> {
    let got = node.gpuctl(&["history", "-q", name]);
    if got.code != 0 {
        return Vec::new();
    }
    got.stdout.lines().map(|l| l.trim().parse().expect("a version")).collect()
}
