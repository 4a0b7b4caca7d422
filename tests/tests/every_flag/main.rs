//! Every flag of docker run: what a container was made with, the one that takes its place has too.
//!
//! The flags are those that the Engine's own `docker run --help` lists: one that is not known here fails
//! the test, so that none is forgotten. What cannot be together goes into containers of its own, and
//! what cannot be at all has its reason.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_sim::engine;
use gpuctl_tests::newer::Debian;
use gpuctl_tests::{Node, Options, engine_runs_here, probe};
use serde_json::Value;

mod flags;
use flags::Use::{In, Not};
use flags::{CONTAINERS, FLAGS};

/// What may differ, and why. A path is one of the inspect; `*` is any one part of it.
const DIFFERS: &[(&str, &str)] = &[
    ("Id", "it is another container"),
    ("Name", "that of the next version"),
    ("Created", "it was made later"),
    ("State", "it was started later, and is another process"),
    ("ResolvConfPath", "its own files"),
    ("HostnamePath", "its own files"),
    ("HostsPath", "its own files"),
    ("LogPath", "its own files"),
    ("GraphDriver.Data", "its own writable layer, with the same content"),
    ("Storage", "its own writable layer, with the same content"),
    ("RestartCount", "it was started once"),
    ("Config.Labels.gpuctl.operation", "the change that made it"),
    ("HostConfig.ContainerIDFile", "the client writes it, and it did not make this one"),
    ("HostConfig.VolumesFrom", "anonymous volumes come from the container before"),
    ("HostConfig.Mounts", "one without a source has become one of those"),
    (
        "HostConfig.Links",
        "Docker shows links with the container's own name, which is the version's",
    ),
    ("Mounts", "compared by place, below: their order is Docker's"),
    ("NetworkSettings.SandboxID", "its own place on the network"),
    ("NetworkSettings.SandboxKey", "its own place on the network"),
    ("NetworkSettings.EndpointID", "its own place on the network"),
    ("NetworkSettings.Networks.*.EndpointID", "its own place on the network"),
    ("NetworkSettings.Networks.*.Aliases", "Docker adds its id; compared below without"),
    (
        "NetworkSettings.Networks.*.DNSNames",
        "Docker adds its id and its name; compared below without",
    ),
    ("NetworkSettings.Ports", "those that Docker chooses at each start"),
    ("Config.Hostname", "one that Docker made of the id; see `own_hostname`"),
];
/// What may differ in one of them only: Docker takes no volumes from a container with a tmpfs among its
/// mounts, and so an anonymous one is named from then on.
const ONLY: (&str, &str) = ("quick", "HostConfig.Binds");
/// Of the networks that Docker numbers by itself, where no address was asked for.
const CHOSEN: &[&str] = &[
    "NetworkSettings.IPAddress",
    "NetworkSettings.MacAddress",
    "NetworkSettings.GlobalIPv6Address",
    "NetworkSettings.Networks.bridge.IPAddress",
    "NetworkSettings.Networks.bridge.MacAddress",
];

/// The long names of the flags in the help of docker run.
fn flags(node: &Node) -> BTreeSet<String> {
    let help = node.docker_ok(&["run", "--help"]);
    let names = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let at = if line.starts_with("--") { 0 } else { line.find(", --").map(|at| at + 2)? };
        let name = line.get(at..)?.strip_prefix("--").filter(|_| at == 0 || at == 4)?;
        Some(name.split(' ').next()?.to_owned())
    });
    names.collect()
}

fn inspect(node: &Node, container: &str) -> Value {
    let text = node.docker_ok(&["inspect", container]);
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[0].take()
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| flatten(&join(key), value, into));
        }
        // How an Engine says that there is nothing differs from field to field, not from one container
        // to the next.
        _ => drop(into.insert(path.to_owned(), value.clone())),
    }
}

fn may_differ(path: &str) -> bool {
    let is = |pattern: &str| {
        let (mut parts, mut wanted) = (path.split('.'), pattern.split('.'));
        loop {
            match (parts.next(), wanted.next()) {
                (_, None) => return true,
                (Some(part), Some(want)) if want == "*" || part == want => {}
                _ => return false,
            }
        }
    };
    DIFFERS.iter().any(|(pattern, _)| is(pattern))
}

/// Names that somebody asked for: none of the container's own.
fn asked(shown: &Value, network: &str, key: &str) -> BTreeSet<String> {
    let id = shown["Id"].as_str().unwrap();
    let name = shown["Name"].as_str().unwrap().trim_start_matches('/');
    let list = shown["NetworkSettings"]["Networks"][network][key].as_array();
    let list = list.into_iter().flatten().filter_map(Value::as_str);
    list.filter(|n| !id.starts_with(n) && *n != name).map(str::to_owned).collect()
}

type Place = (String, Value, Value, Value, Value, Value);

fn mounts(shown: &Value) -> BTreeMap<String, Place> {
    let of = |m: &Value| {
        let text = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
        // Docker has it by name where it comes from another container.
        let propagation = m["Propagation"].clone();
        let place = (
            text("Type"),
            m["Name"].clone(),
            m["Source"].clone(),
            m["RW"].clone(),
            propagation,
            m["Driver"].clone(),
        );
        (text("Destination"), place)
    };
    shown["Mounts"].as_array().unwrap().iter().map(of).collect()
}

/// Everything that must be the same is.
#[track_caller]
fn same(name: &str, old: &Value, new: &Value) {
    let (mut was, mut is) = (BTreeMap::new(), BTreeMap::new());
    flatten("", old, &mut was);
    flatten("", new, &mut is);
    let asked_address = name.contains("main");
    let paths: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let differ: Vec<String> = paths
        .into_iter()
        .filter(|path| was.get(*path) != is.get(*path) && !may_differ(path))
        .filter(|path| !(name.contains(ONLY.0) && path.as_str() == ONLY.1))
        .filter(|path| asked_address || !CHOSEN.contains(&path.as_str()))
        .map(|path| format!("{path}: {:?} -> {:?}", was.get(path), is.get(path)))
        .collect();
    assert_eq!(differ, Vec::<String>::new(), "{name}");
    assert_eq!(mounts(old), mounts(new), "{name}");
    for network in old["NetworkSettings"]["Networks"].as_object().unwrap().keys() {
        for key in ["Aliases", "DNSNames"] {
            assert_eq!(
                asked(old, network, key),
                asked(new, network, key),
                "{name} {network} {key}"
            );
        }
    }
    let own_hostname = |shown: &Value| {
        let (id, hostname) = (shown["Id"].as_str().unwrap(), shown["Config"]["Hostname"].as_str());
        let hostname = hostname.unwrap_or_default();
        if !hostname.is_empty() && id.starts_with(hostname) {
            String::new()
        } else {
            hostname.to_owned()
        }
    };
    assert_eq!(own_hostname(old), own_hostname(new), "{name}");
    assert_eq!(links(old), links(new), "{name}");
}

/// `/other:/train-0/db` is `/other` as `db`.
fn links(shown: &Value) -> Vec<(String, String)> {
    let list = shown["HostConfig"]["Links"].as_array().cloned().unwrap_or_default();
    let of = |link: &Value| {
        let (other, own) = link.as_str().unwrap().split_once(':').unwrap();
        (other.to_owned(), own.rsplit('/').next().unwrap().to_owned())
    };
    list.iter().map(of).collect()
}

/// A block device of the host, made known to the Engine.
fn block_device(node: &Node) -> Option<String> {
    let entries = std::fs::read_dir("/sys/block").ok()?.flatten();
    let number = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with("vd") || e.file_name() == "sda")
        .find_map(|e| std::fs::read_to_string(e.path().join("dev")).ok())?;
    let (major, minor) = number.trim().split_once(':')?;
    let path = node.place().dev().join("disk0");
    let made = std::process::Command::new("mknod").arg(&path).args(["b", major, minor]).status();
    assert!(made.unwrap().success());
    Some("/dev/disk0".to_owned())
}

/// The CLI mounts the usual socket: there is none of this Engine in its root.
fn socket_in_its_place(node: &Node) {
    let script = format!("mount --bind {} /var/run", node.place().root().display());
    let mut command = node.site().engine().inside(std::path::Path::new("sh"));
    assert!(command.args(["-c", &script]).status().unwrap().success());
    assert!(node.place().root().join("docker.sock").exists());
}

fn all(node: &Node, third: u8, port: u16) {
    let listed = flags(node);
    let known: BTreeSet<&str> = FLAGS.iter().map(|(flag, _)| *flag).collect();
    assert!(listed.len() > 90, "the help is not understood: {listed:?}");
    let unknown: Vec<&String> =
        listed.iter().filter(|flag| !known.contains(flag.as_str())).collect();
    assert!(unknown.is_empty(), "flags of docker run that nobody tries: {unknown:?}");
    let version = node.docker_ok(&["version", "--format", "{{.Server.Version}}"]);
    let dir = node.place().at("dir");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("env"), "FROM_FILE=1\n").unwrap();
    std::fs::write(dir.join("labels"), "from.file=1\n").unwrap();
    let device = block_device(node);
    let (v4, v6) = (format!("10.215.{third}.0/24"), format!("fd00:215:{third}::/64"));
    let create = ["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6];
    node.docker_ok(&[&create[..], &["lan"]].concat());
    node.docker_ok(&[
        "run", "-d", "--name", "other", "-v", "/shared", "busybox", "sleep", "100000",
    ]);
    node.docker_ok(&["volume", "create", "named"]);
    let mut stays = Vec::new();
    for name in CONTAINERS {
        let mut words: Vec<String> = Vec::new();
        for (long, used) in FLAGS.iter().filter(|(long, _)| listed.contains(*long)) {
            let words_of = match used {
                Not(why) => {
                    if name == "main" {
                        eprintln!("--{long} is not tried: {why}");
                    }
                    continue;
                }
                In(all) => all.iter().filter(|(container, _)| *container == name),
            };
            for word in words_of.flat_map(|(_, words)| words.iter()) {
                let word = word
                    .replace("@dev@", device.as_deref().unwrap_or("/dev/none"))
                    .replace("@dir@", dir.to_str().unwrap())
                    .replace("@n@", &third.to_string())
                    .replace("@port@", &port.to_string())
                    .replace("@cgroup@", &format!("/gpuctl-parent-{third}"));
                words.push(word);
            }
        }
        if words.is_empty() {
            continue;
        }
        if name == "socket" {
            if !listed.contains("use-api-socket") {
                continue;
            }
            socket_in_its_place(node);
        }
        let run = if name == "attached" { "create" } else { "run" };
        let command: &[&str] = match name {
            "main" => &["busybox", "sleep", "100000"],
            _ => &["busybox", "/bin/sleep", "100000"],
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let got = node.gpuctl(&[&[run, "--name", name], &words[..], command].concat());
        assert_eq!(got.code, 0, "{version} {name}\n{got}");
        let old_name = format!("{name}-0");
        if name != "attached" {
            let running = node.docker_ok(&["inspect", "-f", "{{.State.Running}}", &old_name]);
            assert_eq!(running, "true", "{version} {name}");
        }
        let old = inspect(node, &old_name);
        // What was asked for has come to be: else the comparison would say nothing.
        if name == "main" {
            assert_eq!(old["HostConfig"]["CpuShares"], 512);
            assert_eq!(old["HostConfig"]["ShmSize"], 65 << 20);
            assert_eq!(old["Config"]["Labels"]["from.file"], "1");
            assert_eq!(
                old["NetworkSettings"]["Networks"]["lan"]["MacAddress"],
                "02:42:0a:d7:00:09"
            );
            node.docker_ok(&[
                "exec",
                &old_name,
                "sh",
                "-c",
                "echo a >/scratch/a; echo b >/made/b; echo c >/c",
            ]);
        }
        if name == ONLY.0 {
            stays.push(mounts(&old)["/scratch"].1.as_str().unwrap().to_owned());
        }
        let got = node.gpuctl(&["update", name, "--replace"]);
        assert_eq!(got.code, 0, "{version} {name}\n{got}");
        let new_name = format!("{name}-1");
        let new = inspect(node, &new_name);
        same(&format!("{version} {name}"), &old, &new);
        if name == "main" {
            let seen =
                node.docker_ok(&["exec", &new_name, "sh", "-c", "cat /scratch/a /made/b /c"]);
            assert_eq!(seen, "a\nb\nc");
            assert_eq!(probe::opens(node, &new_name), node.leased_minors(&node.id(&new_name)));
        }
        // Once more: what came of the first is as good as what a user made.
        node.gpuctl_ok(&["update", name, "--replace"]);
        same(&format!("{version} {name} again"), &new, &inspect(node, &format!("{name}-2")));
        node.gpuctl_ok(&["rm", "-f", "-v", "--history", name]);
    }
    let left = node.docker_ok(&["volume", "ls", "-q"]);
    let shared = mounts(&inspect(node, "other"))["/shared"].1.as_str().unwrap().to_owned();
    stays.extend(["data".to_owned(), "named".to_owned(), shared]);
    let left: BTreeSet<String> = left.lines().map(str::to_owned).collect();
    assert_eq!(left, stays.into_iter().collect(), "rm -v takes the anonymous ones");
    node.check();
}

#[test]
fn every_flag_on_the_engine_of_this_host() {
    if !engine_runs_here() {
        return;
    }
    let config = "[ports]\nrange = \"21870-21879\"\n".to_owned();
    all(&Node::start(Options { config, ..Options::default() }), 1, 21990);
}

#[test]
fn every_flag_on_newer_engines() {
    if !engine_runs_here() {
        return;
    }
    // The newest always, with the store that it comes with.
    let engines = [("sid", 4, true), ("sid", 3, false), ("trixie", 2, false)];
    let count = if gpuctl_tests::full() { engines.len() } else { 1 };
    for (suite, third, store) in engines.into_iter().take(count) {
        let Some(debian) = Debian::of(suite) else { continue };
        let root = Some(debian.root());
        let engine =
            engine::Options { root, containerd_store: store, ..engine::Options::default() };
        let config = "[ports]\nrange = \"21880-21889\"\n".to_owned();
        all(
            &Node::start(Options { engine, config, ..Options::default() }),
            third,
            21990 + u16::from(third),
        );
    }
}
