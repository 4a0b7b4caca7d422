//! All that a change may leave behind: the ledger, Docker's containers, volumes and images, the files in
//! them, the node's own files. Two looks are the same where nothing but names that are made up, times and
//! processes differ.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde_json::Value;

use crate::{Node, state};

/// What there is, by what it is: `ledger/containers/train`, `docker/train-0/HostConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look(BTreeMap<String, Value>);

/// A lease that is kept for the few seconds in which `docker stop` may turn out to be `docker restart`. On a
/// machine that is busy they are over before a command ends, on another they are not: it counts as free.
fn is_about_to_be_freed(node: &Node, containers: &[Value], record: &Value) -> bool {
    if record["state"] != "reserved" || record["evidence"]["ended"].is_null() {
        return false;
    }
    let holder = record["holder"]["container"].as_str().expect("a holder");
    let exited = |shown: &Value| shown["Id"] == holder && shown["State"]["Status"] == "exited";
    containers.iter().any(exited) && state::written_by_docker(node, holder).1
}

/// Looks.
///
/// # Panics
/// When something cannot be read.
pub fn look(node: &Node) -> Look {
    let containers = inspected(node, &["ps", "-aq", "--no-trunc"], "container");
    let names = Names::of(&containers);
    let mut all = BTreeMap::new();
    for (key, value) in state::ledger(node) {
        if is_about_to_be_freed(node, &containers, &value) {
            continue;
        }
        all.insert(names.text(&format!("ledger/{key}")), names.value(&value));
    }
    let granted = node.granted();
    for shown in &containers {
        let name = shown["Name"].as_str().expect("a name").trim_start_matches('/');
        let id = shown["Id"].as_str().expect("an id");
        let mut put = |what: &str, value: Value| {
            all.insert(format!("docker/{name}/{what}"), names.value(&value));
        };
        for what in ["Image", "Path", "Args", "Config", "HostConfig"] {
            put(what, shown[what].clone());
        }
        for what in ["Status", "Running", "Paused", "Restarting"] {
            put(&format!("State/{what}"), shown["State"][what].clone());
        }
        put("Mounts", sorted(&shown["Mounts"]));
        for (network, at) in shown["NetworkSettings"]["Networks"].as_object().into_iter().flatten()
        {
            put(&format!("networks/{network}/Aliases"), sorted(&at["Aliases"]));
            for what in ["IPAMConfig", "Links", "DriverOpts"] {
                put(&format!("networks/{network}/{what}"), at[what].clone());
            }
        }
        put("opens", granted.get(id).map_or(Value::Null, |minors| serde_json::json!(minors)));
        if let Some(upper) = shown["GraphDriver"]["Data"]["UpperDir"].as_str() {
            files(&names, &format!("files/{name}"), Path::new(upper), &mut all);
        }
    }
    for volume in inspected(node, &["volume", "ls", "-q"], "volume") {
        let name = volume["Name"].as_str().expect("a name");
        all.insert(names.text(&format!("volume/{name}")), names.value(&volume));
        let place = volume["Mountpoint"].as_str().expect("a folder");
        files(&names, &names.text(&format!("volume/{name}/files")), Path::new(place), &mut all);
    }
    for image in inspected(node, &["image", "ls", "-aq", "--no-trunc"], "image") {
        // Its content is the commit's own affair.
        all.insert(format!("image/{}", image["RepoTags"]), Value::Null);
    }
    let config = node.config();
    let root = node.place().data();
    files(&names, "gpuctl/layers", &config.layers(), &mut all);
    let mounts = node.place().at("volumes/mounts");
    for entry in fs::read_dir(&mounts).into_iter().flatten().flatten() {
        // What keeps it to its size lies beside its content.
        let volume = names.text(&format!("gpuctl/{}", entry.file_name().to_string_lossy()));
        files(&names, &volume, &entry.path().join("data"), &mut all);
    }
    let own = [node.place().state(), node.place().run(), root.join("gpuctl"), root.join("tmp")];
    for folder in own.iter().chain(&[node.place().at("volumes")]) {
        listed(&names, node.place().root(), folder, &mut all);
    }
    let mut flat = BTreeMap::new();
    all.into_iter().for_each(|(key, value)| flatten(key, value, &mut flat));
    Look(flat)
}

fn flatten(key: String, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.into_iter().for_each(|(k, value)| flatten(format!("{key}/{k}"), value, into));
        }
        value => drop(into.insert(key, value)),
    }
}

/// So many differences are told.
const MOST: usize = 12;

/// In what two looks differ, in lines.
pub fn difference(before: &Look, after: &Look) -> Vec<String> {
    let keys = before.0.keys().chain(after.0.keys());
    let keys: std::collections::BTreeSet<&String> = keys.collect();
    let differ = keys.into_iter().filter(|key| before.0.get(*key) != after.0.get(*key));
    let shown = |value: Option<&Value>| {
        let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        text.chars().take(400).collect::<String>()
    };
    differ
        .take(MOST)
        .map(|key| format!("{key}: {} -> {}", shown(before.0.get(key)), shown(after.0.get(key))))
        .collect()
}

fn inspected(node: &Node, list: &[&str], kind: &str) -> Vec<Value> {
    // What is removed meanwhile is not there: then all are listed anew.
    for _ in 0..10 {
        let ids = node.docker_ok(list);
        if ids.is_empty() {
            return Vec::new();
        }
        let words: Vec<&str> = [kind, "inspect"].into_iter().chain(ids.lines()).collect();
        let got = node.docker(&words);
        if got.code == 0 {
            return serde_json::from_str(&got.stdout).expect("JSON");
        }
    }
    panic!("what there is of {kind} changes all the time");
}

fn sorted(list: &Value) -> Value {
    let mut texts: Vec<String> =
        list.as_array().into_iter().flatten().map(Value::to_string).collect();
    texts.sort();
    serde_json::json!(texts)
}

/// The files in a folder, with all that is to stay of them.
fn files(names: &Names, under: &str, folder: &Path, all: &mut BTreeMap<String, Value>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let key = format!("{under}/{}", names.text(&name.to_string_lossy()));
        let mut content = DefaultHasher::new();
        let kind = meta.file_type();
        if kind.is_file() {
            fs::read(&path).unwrap_or_default().hash(&mut content);
            (meta.mtime(), meta.mtime_nsec()).hash(&mut content);
        } else if kind.is_symlink() {
            let to = fs::read_link(&path).unwrap_or_default();
            to.as_os_str().as_bytes().hash(&mut content);
        } else if kind.is_char_device() || kind.is_block_device() {
            meta.rdev().hash(&mut content);
        }
        let owner = (meta.uid(), meta.gid());
        // Overlay makes one whiteout of several, as it likes.
        let links = if kind.is_file() { meta.nlink() } else { 0 };
        let shown = (format!("{:o}", meta.mode()), owner, links, content.finish());
        all.insert(key.clone(), serde_json::json!(shown));
        if kind.is_dir() {
            files(names, &key, &path, all);
        }
    }
}

/// The names of the files in a folder of the node's own.
fn listed(names: &Names, root: &Path, folder: &Path, all: &mut BTreeMap<String, Value>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        // Locks and logs stay, and so does what a database keeps beside itself.
        let stays = [
            "locks",
            "volume-locks",
            "audit",
            "ledger.db",
            "watch",
            "gpus",
            "inventory",
            "quarantine",
            ".quarantine",
        ];
        let name = entry.file_name().to_string_lossy().into_owned();
        if stays.iter().any(|stay| name.starts_with(stay))
            || shown.starts_with("docker/gpuctl/layers/")
        {
            continue;
        }
        // What is in a volume is looked at from Docker's side.
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir())
            && !shown.starts_with("volumes/mounts/")
        {
            listed(names, root, &path, all);
        }
        let meta = fs::symlink_metadata(&path).ok();
        let image = meta.filter(|_| name.ends_with(".img")).map(|meta| Value::from(meta.len()));
        all.insert(names.text(&format!("node/{shown}")), image.unwrap_or_default());
    }
}

/// What is made up anew each time, by what it stands for.
struct Names(BTreeMap<String, String>);

impl Names {
    fn of(containers: &[Value]) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().trim_start_matches('/').to_owned();
        let mut known: BTreeMap<String, String> = containers
            .iter()
            .map(|c| (text(&c["Id"]), format!("<{}>", text(&c["Name"]))))
            .collect();
        // An anonymous volume by where the first of its containers has it.
        let mut sorted: Vec<&Value> = containers.iter().collect();
        sorted.sort_by_key(|c| text(&c["Name"]));
        for container in sorted {
            for mount in container["Mounts"].as_array().into_iter().flatten() {
                let name = text(&mount["Name"]);
                if name.len() == 64 {
                    let shown =
                        format!("<{}{}>", text(&container["Name"]), text(&mount["Destination"]));
                    known.entry(name).or_insert(shown);
                }
            }
        }
        Self(known)
    }

    /// A text without what is made up.
    fn text(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let hex = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
            let run = &rest[..hex];
            match run.len() {
                64 => out.push_str(self.0.get(run).map_or("<64>", String::as_str)),
                12 => match self.0.iter().find(|(id, _)| id.starts_with(run)) {
                    Some((_, name)) => out.push_str(name),
                    None => out.push_str("<12>"),
                },
                n @ (8 | 32) => out.push_str(&format!("<{n}>")),
                0 => out.push(first),
                _ => out.push_str(run),
            }
            rest = &rest[hex.max(if hex == 0 { first.len_utf8() } else { 0 })..];
        }
        out
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if is_time(text) => Value::from("<time>"),
            Value::String(text) if text.starts_with("GPU-") => value.clone(),
            Value::String(text) => Value::from(self.text(text)),
            Value::Array(list) => list.iter().map(|v| self.value(v)).collect(),
            Value::Object(map) => {
                let of = |(key, value): (&String, &Value)| {
                    // Which process it is, and when it began.
                    let process = matches!(
                        key.as_str(),
                        "pid"
                            | "start"
                            | "start_time"
                            | "cgroup"
                            | "init"
                            | "CreatedAt"
                            | "actor"
                            | "claimer"
                    );
                    let value = match value {
                        value if process && !value.is_null() => Value::from("<set>"),
                        // In whatever order Docker tells them.
                        value if matches!(key.as_str(), "Mounts" | "Binds" | "Aliases") => {
                            sorted(&self.value(value))
                        }
                        value => self.value(value),
                    };
                    (self.text(key), value)
                };
                map.iter().map(of).collect()
            }
            other => other.clone(),
        }
    }
}

fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[10] == b'T'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_goes_and_the_rest_stays() {
        let id = "ab".repeat(32);
        let names = Names([(id.clone(), "<train-0>".to_owned())].into());
        assert_eq!(names.text(&format!("x/{id}/lower")), "x/<train-0>/lower");
        assert_eq!(names.text(&id[..12]), "<train-0>");
        assert_eq!(names.text("0-1a2b3c4d"), "0-<8>");
        assert_eq!(names.text("fade added über"), "fade added über");
        let value =
            serde_json::json!({"at": "2026-01-02T03:04:05Z", "pid": 7, "n": 7, "init": null});
        let shown = serde_json::json!({"at": "<time>", "pid": "<set>", "n": 7, "init": null});
        assert_eq!(names.value(&value), shown);
    }
}
