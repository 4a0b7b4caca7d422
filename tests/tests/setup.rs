//! `docker gpuctl setup` on a host with a real Engine that takes its runtimes from daemon.json: what
//! containers can open before it, at each level, and after its removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_sim::{command, files};
use gpuctl_tests::hosts::{default_runtime, host, host_with, restart, root, setup, setup_ok};
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Node, Options, engine_runs_here, probe};
use serde_json::Value;

fn daemon_json(node: &Node) -> Value {
    serde_json::from_str(&fs::read_to_string(node.place().at("daemon.json")).unwrap()).unwrap()
}

fn device(node: &Node, index: usize) -> String {
    format!("/dev/nvidia{}", node.minor(index))
}

fn minors(node: &Node, indexes: &[usize]) -> BTreeSet<u32> {
    indexes.iter().map(|index| node.minor(*index)).collect()
}

#[track_caller]
fn opens(node: &Node, name: &str, flags: &[&str]) -> BTreeSet<u32> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    probe::opens(node, name)
}

#[track_caller]
fn refused(node: &Node, name: &str, flags: &[&str], word: &str) {
    let got = run(node, name, flags);
    assert_eq!(got.code, 125, "{got}");
    assert!(got.stderr.contains("gpuctl: ") && got.stderr.contains(word), "{word}\n{got}");
    node.docker_ok(&["rm", "-f", name]);
}

/// Every file that setup might touch, with its content.
fn tree(node: &Node) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(path: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let Ok(meta) = path.symlink_metadata() else { return };
        if meta.is_dir() {
            for entry in fs::read_dir(path).unwrap().flatten() {
                walk(&entry.path(), all);
            }
            all.insert(path.to_owned(), Vec::new());
        } else if meta.is_symlink() {
            all.insert(
                path.to_owned(),
                fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
            );
        } else if meta.is_file() {
            all.insert(path.to_owned(), fs::read(path).unwrap());
        }
    }
    let mut all = BTreeMap::new();
    let place = node.place();
    for path in [
        root(node),
        place.libexec(),
        place.state(),
        place.run(),
        place.cdi(),
        place.dev().join("char"),
        place.config(),
        place.at("daemon.json"),
        place.root().join("daemon.json"),
    ] {
        walk(&path, &mut all);
    }
    all
}

fn foreign_keys() -> String {
    let runc = command::find(&["runc"]).unwrap();
    format!(
        "{{\n  \"shutdown-timeout\": 16,\n  \"log-opts\": {{\"max-size\": \"10m\",\n               \"max-file\": \"3\"}},\n  \
         \"labels\": [\"a=b\",\"c=d\"],\n  \"runtimes\": {{\"abs\": {{\"path\": \"{}\"}}}},\n  \"max-concurrent-downloads\": 2\n}}\n",
        runc.display()
    )
}

#[test]
fn from_nothing_to_cooperative_to_strict_and_back() {
    if !engine_runs_here() {
        return;
    }
    let node = host(&foreign_keys(), None);
    let (first, second) = (device(&node, 0), device(&node, 1));
    // Before: whoever asks has it, and two have the same.
    assert_eq!(opens(&node, "early", &["--device", &first]), minors(&node, &[0]));
    assert_eq!(opens(&node, "twin", &["--device", &first]), minors(&node, &[0]));
    node.docker_ok(&["rm", "-f", "twin"]);
    node.docker_ok(&["create", "--name", "old", "--device", &first, "busybox", "sleep", "100000"]);

    let before = tree(&node);
    let dry = setup_ok(&node, &["--dry-run"]);
    for word in [
        "change ",
        "daemon.json",
        "+   \"default-runtime\": \"gpuctl-gate\"",
        "zz-gpuctl.conf",
        "SIGHUP",
        "GPU 0 to early",
    ] {
        assert!(dry.stdout.contains(word), "{word:?}\n{dry}");
    }
    assert_eq!(tree(&node), before, "a dry run changed something");
    assert_eq!(default_runtime(&node), "runc");

    // Cooperative, by a reload alone.
    let got = setup_ok(&node, &[]);
    assert!(got.stderr.contains("hole: docker run --runtime runc"), "{got}");
    assert!(
        got.stderr.contains("to do: ") && got.stderr.contains("systemctl restart docker"),
        "{got}"
    );
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    let text = fs::read_to_string(node.place().at("daemon.json")).unwrap();
    for kept in [
        "\"max-size\": \"10m\",\n               \"max-file\": \"3\"",
        "[\"a=b\",\"c=d\"]",
        "\"shutdown-timeout\": 16",
    ] {
        assert!(text.contains(kept), "{kept}\n{text}");
    }
    let copies: Vec<PathBuf> = fs::read_dir(node.place().root())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains("daemon.json.gpuctl-"))
        .collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(fs::read_to_string(&copies[0]).unwrap(), foreign_keys());
    assert_eq!(node.leased_minors(&node.id("early")), minors(&node, &[0]));
    refused(&node, "late", &["--device", &first], "early");
    assert_eq!(opens(&node, "late", &["--device", &second]), minors(&node, &[1]));
    assert!(opens(&node, "plain", &[]).is_empty());
    node.check();
    // What is named as a hole is one.
    assert_eq!(
        opens(&node, "past", &["--runtime", "runc", "--device", &second]),
        minors(&node, &[1])
    );
    node.docker_ok(&["rm", "-f", "past"]);
    let seen = tree(&node);
    let again = setup_ok(&node, &[]);
    assert!(again.stdout.is_empty() && again.stderr.contains("nothing to change"), "{again}");
    assert_eq!(tree(&node).keys().collect::<Vec<_>>(), seen.keys().collect::<Vec<_>>());
    let doctor = node.gpuctl(&["doctor"]);
    let said = |name: &str, word: &str| {
        doctor.stdout.lines().any(|line| line.starts_with(name) && line.contains(word))
    };
    assert!(said("level", "cooperative") && said("hole", "--runtime runc"), "{doctor}");
    assert!(said("hole", "early") && said("hole", "old"), "{doctor}");

    // Strict, once the Engine was restarted with the drop-in's PATH.
    let got = setup_ok(&node, &["--strict"]);
    assert!(got.stderr.contains("strict mode begins when these are restarted"), "{got}");
    assert!(!got.stderr.contains("hole: "), "{got}");
    restart(&node);
    let again = setup_ok(&node, &["--strict"]);
    assert!(again.stdout.is_empty() && !again.stderr.contains("to do"), "{again}");
    let doctor = node.gpuctl(&["doctor"]);
    assert!(doctor.stdout.lines().any(|l| l.contains("level") && l.contains("strict")), "{doctor}");
    // One that was made before is caught too, and holds a lease now.
    node.docker_ok(&["start", "early", "late"]);
    assert_eq!(node.leased_minors(&node.id("early")), minors(&node, &[0]));
    assert_eq!(node.docker(&["start", "old"]).code, 1);
    for runtime in ["runc", "abs", "io.containerd.runc.v2"] {
        refused(&node, "past", &["--runtime", runtime, "--device", &first], "early");
        assert!(opens(&node, "past", &["--runtime", runtime]).is_empty());
        node.docker_ok(&["rm", "-f", "past"]);
    }
    // The stub lets a bare --gpus through.
    // And the wrapper makes the links of just what it grants.
    let links = || {
        let folder = fs::read_dir(node.place().dev().join("char")).unwrap().flatten();
        folder.map(|e| e.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let shared = ["195:254", "195:255", "510:0", "510:1"].map(str::to_owned);
    assert_eq!(links().len(), shared.len() + 8, "setup makes those of all nodes");
    fs::remove_dir_all(node.place().dev().join("char")).unwrap();
    let two = opens(&node, "two", &["--gpus", "2"]);
    assert_eq!(two.len(), 2);
    let granted = two.iter().map(|minor| format!("195:{minor}"));
    assert_eq!(links(), granted.chain(shared).collect::<BTreeSet<_>>());
    node.check();

    // Removed, with containers left that name our runtime.
    let got = setup_ok(&node, &["--remove"]);
    for word in [
        "hole: the runtime gpuctl-gate stays",
        "late",
        "plain",
        "two",
        "strict mode ends when these are restarted",
    ] {
        assert!(got.stderr.contains(word), "{word:?}\n{got}");
    }
    assert_eq!(default_runtime(&node), "runc");
    assert_eq!(daemon_json(&node)["default-runtime"], "runc");
    let real = node.config().runtime.real;
    assert_eq!(daemon_json(&node)["runtimes"]["gpuctl-gate"]["path"], real.display().to_string());
    assert_eq!(daemon_json(&node)["runtimes"]["gpuctl"], Value::Null);
    assert_eq!(
        daemon_json(&node)["runtimes"]["abs"]["path"],
        command::find(&["runc"]).unwrap().display().to_string()
    );
    restart(&node);
    node.docker_ok(&["start", "plain", "late"]);
    assert_eq!(probe::opens(&node, "late"), minors(&node, &[1]));
    assert_eq!(opens(&node, "free", &["--device", &second]), minors(&node, &[1]));
    let again = setup_ok(&node, &["--remove"]);
    assert!(again.stdout.is_empty(), "{again}");
    node.docker_ok(&["rm", "-f", "plain", "late", "two"]);
    setup_ok(&node, &["--remove"]);
    assert_eq!(daemon_json(&node)["runtimes"].as_object().unwrap().len(), 1);
}

#[test]
fn what_runs_is_leased_and_what_two_share_is_said_by_name() {
    if !engine_runs_here() {
        return;
    }
    let node = host("{}", None);
    node.edit_config(|text| format!("{text}\n[[policy.exempt]]\nname = \"known\"\n"));
    let devices: Vec<String> = (0..4).map(|index| device(&node, index)).collect();
    opens(&node, "older", &["--device", &devices[0], "--device", &devices[1]]);
    opens(&node, "newer", &["--device", &devices[1], "--device", &devices[2]]);
    opens(&node, "known", &["--device", &devices[3]]);
    opens(&node, "rule", &["--device-cgroup-rule", &format!("c 195:{} rw", node.minor(4))]);
    opens(&node, "plain", &[]);
    opens(&node, "mount", &["-v", &format!("{}:/dev/x", devices[3])]);
    // The real runc as the config has it: where this machine's root lacks a capability, one that
    // leaves it out.
    let real = node.config().runtime.real;
    let narrow = format!("{{\"runtimes\": {{\"narrow\": {{\"path\": \"{}\"}}}}}}", real.display());
    fs::write(node.place().at("daemon.json"), narrow).unwrap();
    let dockerd = nix::unistd::Pid::from_raw(node.site().engine().pid().unwrap());
    nix::sys::signal::kill(dockerd, nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_for("the reload", Duration::from_secs(10), || {
        node.docker(&["info", "--format", "{{.Runtimes}}"]).stdout.contains("narrow")
    });
    opens(&node, "priv", &["--runtime", "narrow", "--privileged"]);
    opens(&node, "gone", &["--device", &devices[3]]);
    node.docker_ok(&["kill", "gone"]);
    let got = setup_ok(&node, &[]);
    let sharing = "newer may open GPU 1, which older holds";
    assert!(got.stderr.contains(sharing), "{got}");
    assert!(got.stderr.contains("priv is privileged and may open every GPU"), "{got}");
    let leased = |name: &str| node.leased_minors(&node.id(name));
    assert_eq!(leased("older"), minors(&node, &[0, 1]));
    assert_eq!(leased("newer"), minors(&node, &[2]));
    assert_eq!(leased("rule"), minors(&node, &[4]));
    for none in ["known", "plain", "mount", "priv", "gone"] {
        assert!(leased(none).is_empty(), "{none}");
    }
    // What is in use is not granted; what is not, is.
    for index in [0, 1, 2, 4] {
        refused(&node, "late", &["--device", &device(&node, index)], "not free");
    }
    assert_eq!(opens(&node, "late", &["--device", &device(&node, 5)]), minors(&node, &[5]));
    // A lease ends with its container.
    node.docker_ok(&["rm", "-f", "older", "newer", "priv", "known"]);
    assert_eq!(opens(&node, "next", &["--device", &devices[0]]), minors(&node, &[0]));
    let again = setup_ok(&node, &[]);
    assert!(again.stdout.is_empty(), "{again}");
    node.check();
}

#[test]
fn whoever_runs_with_a_mig_device_is_leased_that_and_whoever_has_a_shared_gpu_all_of_it() {
    if !engine_runs_here() {
        return;
    }
    let config = "[[gpu.shared]]\ngpus = [1]\nslots = 2\n".into();
    let node = host_with("{}", Options { profile: "mig1", config, ..Options::default() });
    let gpus = node.gpus();
    let [_, mine, other] = gpus[0].mig() else { panic!("three MIG devices") };
    let parent = device(&node, 0);
    let [gi, ci] = mine.caps.map(|minor| format!("/dev/nvidia-caps/nvidia-cap{minor}"));
    opens(&node, "part", &["--device", &parent, "--device", &gi, "--device", &ci]);
    opens(&node, "bare", &["--device", &device(&node, 1)]);
    let got = setup_ok(&node, &[]);
    assert!(got.stdout.contains("GPU 0:1 to part"), "{got}");
    let leased = |name: &str| -> Vec<String> {
        let id = node.id(name);
        let leases = node.leases();
        let mine = leases.iter().filter(|(_, lease)| lease.holder.container.as_str() == id);
        mine.map(|(unit, _)| unit.clone()).collect()
    };
    assert_eq!(leased("part"), [mine.uuid.as_str()]);
    assert_eq!(leased("bare"), [gpus[1].uuid.as_str()]);
    // The other parts of its GPU can be had; it and the shared one cannot.
    let ask = |gpus: &str| {
        let line = ["run", "-d", "--name", "late", "--gpus", gpus, "busybox", "sleep", "100000"];
        node.gpuctl(&line)
    };
    for (gpus, word) in [("device=0:1", "part"), ("shared", "bare")] {
        let got = ask(gpus);
        assert!(got.code == 125 && got.stderr.contains(word), "{got}");
    }
    let got = ask("device=0:2");
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(leased("late-0"), [other.uuid.as_str()]);
    assert!(setup_ok(&node, &[]).stdout.is_empty(), "once is enough");
    node.check();
}

#[test]
fn a_setup_killed_between_its_steps_goes_on_with_the_next() {
    if !engine_runs_here() {
        return;
    }
    let node = host(&foreign_keys(), None);
    let first = device(&node, 0);
    opens(&node, "early", &["--device", &first]);
    let root = root(&node).display().to_string();
    let points = [
        "gpuctl-gate:done",
        "config.toml:begun",
        "config.toml:done",
        "setup.json:done",
        "links:done",
        "inventory:done",
        "seeds:begun",
        "seeds:done",
        "zz-gpuctl.conf:done",
        "daemon.json:begun",
        "daemon.json:done",
        "reload:done",
    ];
    for point in points {
        let flags = ["setup", "--root", &root, "--observe"];
        // What there is to do differs from the last time only in level: back to nothing first.
        setup_ok(&node, &["--remove"]);
        let _ = fs::remove_dir_all(node.place().state());
        let _ = fs::remove_dir_all(node.place().dev().join("char"));
        let _ = fs::remove_dir_all(node.place().run().join("grants"));
        let _ = fs::remove_file(node.place().libexec().join("gpuctl-gate"));
        let flags = if point.starts_with("config") { &flags[..] } else { &flags[..3] };
        node.gpuctl_killed_at(&format!("setup:{point}"), flags);
        // Whatever stands there now, containers start, and so does the Engine.
        node.docker_ok(&["run", "--rm", "busybox", "true"]);
        setup_ok(&node, &[]);
        assert_eq!(default_runtime(&node), "gpuctl-gate", "{point}");
        assert_eq!(node.leased_minors(&node.id("early")), minors(&node, &[0]), "{point}");
        refused(&node, "late", &["--device", &first], "early");
        let again = setup_ok(&node, &[]);
        assert!(again.stdout.is_empty(), "{point}\n{again}");
    }
    restart(&node);
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    node.check();
}

#[test]
fn what_dockerd_would_not_start_with_is_refused_and_nothing_changes() {
    if !engine_runs_here() {
        return;
    }
    // This Engine has the runtimes as flags.
    let node = Node::start(Options::default());
    fs::create_dir_all(root(&node)).unwrap();
    let before = tree(&node);
    let untouched = |before: &BTreeMap<PathBuf, Vec<u8>>| {
        // The lock of setup itself is there.
        let lock = node.place().run();
        let rest = |all: &BTreeMap<PathBuf, Vec<u8>>| {
            let rest = all.iter().filter(|(path, _)| !path.starts_with(&lock));
            rest.map(|(path, text)| (path.clone(), text.clone())).collect::<BTreeMap<_, _>>()
        };
        assert!(rest(&tree(&node)) == rest(before), "something was changed");
    };
    let got = setup(&node, &[]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("dockerd's command line has --add-runtime gpuctl="), "{got}");
    assert!(got.stderr.contains("hint: "), "{got}");
    untouched(&before);
    drop(node);
    let node = host("{}", None);
    fs::write(node.place().at("daemon.json"), "{\n  \"debug\": true,\n}\n").unwrap();
    for flags in [&[][..], &["--strict"], &["--remove"], &["--dry-run"]] {
        let got = setup(&node, flags);
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("daemon.json is broken: line 3"), "{got}");
    }
    // dockerd's own word: a value that it does not take is found by asking it, and taken back.
    let odd = "{\"max-concurrent-downloads\": -1}\n";
    fs::write(node.place().at("daemon.json"), odd).unwrap();
    let got = setup(&node, &[]);
    assert_eq!(got.code, 1, "{got}");
    assert!(
        got.stderr.contains("dockerd did not take") && got.stderr.contains("is as it was before"),
        "{got}"
    );
    assert_eq!(fs::read_to_string(node.place().at("daemon.json")).unwrap(), odd);
    assert_eq!(default_runtime(&node), "runc");
    let got = node.gpuctl_as(65534, 65534, &["setup"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("runs as root"), "{got}");
}

#[test]
fn programs_replaced_under_a_running_container_serve_it_to_its_end() {
    if !engine_runs_here() {
        return;
    }
    let node = host("{}", None);
    setup_ok(&node, &[]);
    assert_eq!(opens(&node, "runs", &["--device", &device(&node, 0)]), minors(&node, &[0]));
    node.gpuctl_ok(&["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"]);
    assert_eq!(node.leases().len(), 2);
    let hook = node.place().libexec().join("gpuctl-hook");
    let before = fs::metadata(&hook).unwrap();
    files::install(&gpuctl_tests::programs::programs().hook, &hook).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_ne!(fs::metadata(&hook).unwrap().ino(), before.ino());
    let again = setup_ok(&node, &[]);
    assert!(again.stdout.is_empty(), "{again}");
    node.docker_ok(&["exec", "runs", "true"]);
    node.docker_ok(&["restart", "-t", "0", "runs"]);
    assert_eq!(probe::opens(&node, "runs"), minors(&node, &[0]));
    node.docker_ok(&["rm", "-f", "runs"]);
    // Both ends were seen by the release hook, which is the new program.
    wait_for("the release", Duration::from_secs(10), || {
        let ended = |l: &gpuctl_ledger::model::Lease| l.evidence.ended.is_some();
        node.leases().values().filter(|l| l.holder.name.is_none()).all(ended)
    });
    node.gpuctl_ok(&["stop", "-t", "0", "train"]);
    wait_for("the leases' end", Duration::from_secs(15), || {
        node.gpuctl(&["doctor", "--fix"]);
        node.leases().is_empty()
    });
    // The real runc is elsewhere: containers without GPUs start, and setup finds it.
    let real = node.config().runtime.real.display().to_string();
    node.edit_config(|text| text.replace(&real, "/gone/runc"));
    node.docker_ok(&["run", "--rm", "busybox", "true"]);
    setup_ok(&node, &[]);
    assert_ne!(node.config().runtime.real, Path::new("/gone/runc"));
    assert_eq!(opens(&node, "next", &["--device", &device(&node, 0)]), minors(&node, &[0]));
    node.check();
}
