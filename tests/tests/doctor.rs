//! doctor on nodes on which one thing after the other is broken: each has its line, says what mends it,
//! and is gone once it is mended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gpuctl_sim::engine;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::served::{DAEMON, Served};
use gpuctl_tests::{Node, Options, Output, engine_runs_here, programs, state};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// One line of doctor.
#[derive(Debug)]
struct Line {
    name: String,
    verdict: String,
    detail: String,
    fix: String,
}

fn lines(got: &Output) -> Vec<Line> {
    let read = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |v: Value| Line {
        name: text(&v["name"]),
        verdict: text(&v["verdict"]),
        detail: text(&v["detail"]),
        fix: text(&v["fix"]),
    };
    got.stdout.lines().map(read).map(line).collect()
}

/// What doctor says; its exit code must be that of what it says.
#[track_caller]
fn doctor(node: &Node, more: &[&str]) -> Vec<Line> {
    let got = node.gpuctl(&[&["doctor", "--format", "json"], more].concat());
    let lines = lines(&got);
    assert!(!lines.is_empty(), "{got}");
    let problems = lines.iter().any(|line| line.verdict == "problem");
    assert_eq!(got.code, i32::from(problems), "{got}");
    lines
}

/// The one line with this name that is not ok.
#[track_caller]
fn bad<'a>(lines: &'a [Line], name: &str) -> &'a Line {
    let mut found = lines.iter().filter(|line| line.name == name && line.verdict != "ok");
    found.next().unwrap_or_else(|| panic!("nothing is said of {name}: {lines:#?}"))
}

#[track_caller]
fn good(lines: &[Line], name: &str) {
    let of: Vec<&Line> = lines.iter().filter(|line| line.name == name).collect();
    assert!(!of.is_empty(), "{name} was not looked at: {lines:#?}");
    assert!(of.iter().all(|line| line.verdict == "ok"), "{of:#?}");
}

/// Breaks a thing, and sees that doctor says these words of it, and that all is well once it is mended.
#[track_caller]
fn broken(
    node: &Node,
    name: &str,
    verdict: &str,
    words: &[&str],
    break_it: impl FnOnce(),
    mend: impl FnOnce(),
) {
    break_it();
    let lines = doctor(node, &[]);
    let line = bad(&lines, name);
    assert_eq!(line.verdict, verdict, "{line:?}");
    for word in words {
        assert!(line.detail.contains(word) || line.fix.contains(word), "no {word:?} in {line:?}");
    }
    assert!(!line.fix.is_empty() && !line.fix.contains('\n') && !line.detail.contains('\n'));
    mend();
    let after = doctor(node, &[]);
    let still: Vec<&Line> = after.iter().filter(|l| l.name == name && l.verdict != "ok").collect();
    assert!(still.is_empty(), "{still:#?}");
}

#[test]
fn a_node_that_is_well_has_every_line_and_no_problem() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let lines = doctor(&node, &[]);
    let names = [
        "engine",
        "runtime",
        "enforcement",
        "docker root",
        "hook",
        "real runtime",
        "state",
        "ledger",
        "audit",
        "clock",
        "driver",
        "persistence",
        "injection",
        "quarantine",
        "processes",
        "links",
        "toolkit",
        "passing by",
        "filesystem",
        "service",
        "restarts",
        "records",
    ];
    for name in names {
        good(&lines, name);
    }
    // How full the disk of this machine is, is its own affair.
    assert!(lines.iter().any(|line| line.name == "disk space"), "{lines:#?}");
    assert!(lines.iter().all(|line| line.verdict != "problem"), "{lines:#?}");
    // For people: a line each, and the words of JSON are theirs too.
    let got = node.gpuctl(&["doctor"]);
    assert_eq!(got.code, 0, "{got}");
    assert!(!got.stdout.contains('\u{1b}'), "no colour without a terminal\n{got}");
    for name in names {
        assert!(got.stdout.lines().any(|line| line.starts_with(name)), "{name}\n{got}");
    }
}

#[test]
fn a_program_that_others_can_write_is_told_and_closed() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let hook = node.place().libexec().join("gpuctl-hook");
    let mode = |mode| fs::set_permissions(&hook, fs::Permissions::from_mode(mode)).unwrap();
    let words = ["can be written by others than root", "doctor --fix"];
    broken(
        &node,
        "hook",
        "problem",
        &words,
        || mode(0o757),
        || {
            let lines = doctor(&node, &["--fix"]);
            assert_eq!(bad(&lines, "hook").verdict, "fixed", "{lines:#?}");
            assert_eq!(fs::metadata(&hook).unwrap().permissions().mode() & 0o7777, 0o755);
        },
    );
    // A bit that makes whoever starts it root.
    let words = ["set-uid", "chmod 755"];
    broken(&node, "hook", "problem", &words, || mode(0o4755), || mode(0o755));
    // The names by which the Engine runs it.
    for (name, check) in [("gpuctl-runtime", "hook's names"), ("gpuctl-gate", "enforcement")] {
        let (path, aside) = (hook.with_file_name(name), hook.with_file_name("aside"));
        let gone = || fs::rename(&path, &aside).unwrap();
        broken(&node, check, "problem", &["is not there"], gone, || {
            fs::rename(&aside, &path).unwrap();
        });
    }
    // Whose it was may have changed it: that is not mended by taking it back.
    let owner = |uid| std::os::unix::fs::chown(&hook, Some(uid), None).unwrap();
    broken(
        &node,
        "hook",
        "problem",
        &["user 1's", "install the package"],
        || owner(1),
        || {
            assert_eq!(bad(&doctor(&node, &["--fix"]), "hook").verdict, "problem");
            owner(0);
        },
    );
    // One that may not be run: what is in force cannot be told then.
    let shut = ["may not be run", "chmod 755 "];
    broken(
        &node,
        "hook",
        "problem",
        &shut,
        || mode(0o644),
        || {
            let level = bad(&doctor(&node, &[]), "level").detail.clone();
            assert!(level.contains("cannot be told"), "{level}");
            mode(0o755);
        },
    );
    // Nobody waits for what stands in its place.
    let aside = hook.with_extension("aside");
    let fifo = || {
        fs::rename(&hook, &aside).unwrap();
        nix::unistd::mkfifo(&hook, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let words = ["is no program", "install the package"];
    broken(&node, "hook", "problem", &words, fifo, || fs::rename(&aside, &hook).unwrap());
    // One that needs libraries, under names that lead to the real one.
    let real = fs::read(&hook).unwrap();
    let put = |bytes: &[u8]| {
        fs::remove_file(&hook).unwrap();
        fs::write(&hook, bytes).unwrap();
        mode(0o755);
    };
    put(&fs::read(programs::programs().plugin).unwrap());
    let lines = doctor(&node, &[]);
    assert!(bad(&lines, "hook").detail.contains("needs libraries of this host"), "{lines:#?}");
    assert!(bad(&lines, "hook's names").detail.contains("gpuctl-runtime"), "{lines:#?}");
    put(&real);
    good(&doctor(&node, &[]), "hook");
    // The ledger's folder, and a runtime that is gone.
    let state = node.place().state();
    let open = || fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    broken(&node, "state", "problem", &["can be written by others"], open, || {
        assert_eq!(bad(&doctor(&node, &["--fix"]), "state").verdict, "fixed");
    });
    // The ledger itself: without it all else is still said.
    let ledger = state.join("ledger.db");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let words = ["others may write it", "chown root:root ", "ledger.db && chmod 600 "];
    broken(&node, "ledger", "problem", &words, || mode(&ledger, 0o666), || mode(&ledger, 0o600));
    // A log of decisions that takes none, and nobody else would say it: starts go on.
    let (log, kept) = (state.join("audit.log"), state.join("kept"));
    node.docker_ok(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    fs::rename(&log, &kept).unwrap();
    let open = || {
        fs::rename(&kept, &log).unwrap();
        mode(&log, 0o666);
    };
    let words = ["can be written by others than root", "doctor --fix"];
    broken(&node, "audit", "problem", &words, open, || {
        assert_eq!(bad(&doctor(&node, &["--fix"]), "audit").verdict, "fixed");
        fs::rename(&log, &kept).unwrap();
    });
    let words = ["is no file", "decisions about GPUs are not written down", "audit.log.foreign"];
    let link = || std::os::unix::fs::symlink("/dev/null", &log).unwrap();
    broken(&node, "audit", "problem", &words, link, || {
        node.docker_ok(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
        fs::remove_file(&log).unwrap();
        fs::rename(&kept, &log).unwrap();
    });
    let attribute = |flag: &str| {
        let mut chattr = std::process::Command::new("chattr");
        chattr.arg(flag).arg(&log).status().is_ok_and(|status| status.success())
    };
    if attribute("+i") {
        assert!(attribute("-i"));
        let words = ["cannot be written", "chattr -i"];
        let shut = || assert!(attribute("+i"));
        broken(&node, "audit", "problem", &words, shut, || assert!(attribute("-i")));
    }
    let text = fs::read_to_string(node.place().config()).unwrap();
    let runtime = node.config().runtime.real;
    let runtime = runtime.display().to_string();
    let away = || node.edit_config(|text| text.replace(&runtime, "/nowhere/runc"));
    let words = ["/nowhere/runc is missing"];
    broken(&node, "real runtime", "problem", &words, away, || node.edit_config(|_| text));
}

#[test]
fn the_driver_its_spec_and_its_toolkit_are_looked_at() {
    if !engine_runs_here() {
        return;
    }
    let toolkit = tempfile::tempdir().unwrap();
    fs::set_permissions(toolkit.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let engine = engine::Options { toolkit: Some(toolkit.path().into()), ..Default::default() };
    let node = Node::start(Options { engine, ..Options::default() });
    good(&doctor(&node, &[]), "toolkit");
    // Its version, as NVIDIA's says it.
    let ctk = toolkit.path().join("nvidia-ctk");
    let says = |version: &str| {
        let text = format!("#!/bin/sh\necho 'NVIDIA Container Toolkit CLI version {version}'\n");
        fs::write(&ctk, text).unwrap();
        fs::set_permissions(&ctk, fs::Permissions::from_mode(0o755)).unwrap();
    };
    for (version, cves) in [
        ("1.16.1", "host: CVE-2024-0132 (not by CDI), CVE-2025-23359, CVE-2025-23266"),
        ("1.17.3", "host: CVE-2025-23359, CVE-2025-23266 (only by CDI)"),
        ("1.17.7", "host: CVE-2025-23266"),
    ] {
        let words = [cves, version, "to 1.17.8 or later"];
        broken(&node, "toolkit", "problem", &words, || says(version), || says("1.17.8"));
    }
    // One that others can write is not run by root.
    let open = || fs::set_permissions(&ctk, fs::Permissions::from_mode(0o757)).unwrap();
    broken(&node, "toolkit", "warning", &["cannot be asked"], open, || says("1.18.0"));

    // The spec: gone, of a driver before, without a GPU, with a file that is no more.
    let spec = node.place().cdi().join("nvidia.json");
    let text = fs::read_to_string(&spec).unwrap();
    let mend = || fs::write(&spec, &text).unwrap();
    let make = "nvidia-ctk cdi generate --output=";
    let gone = || fs::remove_file(&spec).unwrap();
    broken(&node, "injection", "problem", &["no CDI spec of nvidia.com/gpu", make], gone, mend);
    let change = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        change(&mut value);
        fs::write(&spec, value.to_string()).unwrap();
    };
    let library = toolkit.path().join("libcuda.so.535.1.2");
    fs::write(&library, "").unwrap();
    let mounts = |path: &Path| serde_json::json!([{"hostPath": path, "containerPath": "/x"}]);
    let older = || change(&|spec| spec["containerEdits"]["mounts"] = mounts(&library));
    let words = ["is stale: it is of driver 535.1.2, and ", make];
    broken(&node, "injection", "problem", &words, older, mend);
    let file = Path::new("/nowhere/libcuda.so");
    let missing = || change(&|spec| spec["containerEdits"]["mounts"] = mounts(file));
    let words = ["names /nowhere/libcuda.so, which the host does not have"];
    broken(&node, "injection", "problem", &words, missing, mend);
    let fewer = || change(&|spec| spec["devices"] = serde_json::json!([]));
    let words = ["it has no GPU 0, 1, 2 and 5 more"];
    broken(&node, "injection", "problem", &words, fewer, mend);
    // As nvidia-ctk makes it, with a device of all; that gives no GPU by itself.
    let but_one = || {
        change(&|spec| {
            let devices = spec["devices"].as_array_mut().unwrap();
            let of = |device: &Value| device["containerEdits"]["deviceNodes"].clone();
            let seventh = devices.iter().find(|d| d["name"] == "7").map(of).unwrap();
            devices.retain(|device| of(device) != seventh);
            assert_eq!(devices.last().unwrap()["name"], "all");
        });
        let got = node.gpuctl(&["run", "--rm", "--gpus", "device=7", "busybox", "true"]);
        assert!(got.code == 125 && got.stderr.contains("has no device for GPU-"), "{got}");
        assert!(state::containers(&node).is_empty() && node.leases().is_empty());
    };
    broken(&node, "injection", "problem", &["it has no GPU 7"], but_one, mend);
    let torn = || fs::write(&spec, "{").unwrap();
    let words = ["nvidia.json is torn or wrong", "nvidia.json"];
    broken(&node, "injection", "problem", &words, torn, mend);
    // Another vendor's keeps no GPU away.
    let other = node.place().cdi().join("vendor.json");
    let words = ["vendor.json is no CDI spec", "mv ", "vendor.json.broken"];
    let torn = || {
        fs::write(&other, "{").unwrap();
        node.docker_ok(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
    };
    broken(&node, "injection", "warning", &words, torn, || fs::remove_file(&other).unwrap());

    // The driver: no library, other cards than are written down, cards that fall asleep.
    let nvml = node.place().nvml();
    let aside = nvml.with_extension("aside");
    let (away, back) = (|| fs::rename(&nvml, &aside), || fs::rename(&aside, &nvml));
    let words = ["cannot be loaded", "install the NVIDIA driver"];
    broken(&node, "driver", "problem", &words, || away().unwrap(), || back().unwrap());
    node.set_profile("consumer2");
    let lines = doctor(&node, &[]);
    assert_eq!(bad(&lines, "inventory").verdict, "problem", "{lines:#?}");
    let asleep = bad(&lines, "persistence");
    assert_eq!(asleep.verdict, "warning", "{asleep:?}");
    assert!(asleep.detail.starts_with("off for GPU 0, 1:"), "{asleep:?}");
    assert!(asleep.fix.contains("nvidia-persistenced"), "{asleep:?}");
    // It has been written down by now: starts of containers go by it.
    doctor(&node, &["--fix"]);
    assert!(doctor(&node, &[]).iter().all(|line| line.name != "inventory"));
    fs::remove_file(node.config().paths.inventory()).unwrap();
    assert_eq!(bad(&doctor(&node, &[]), "inventory").verdict, "fixed");
}

#[test]
fn what_the_ledger_knows_is_held_against_the_clock_the_node_and_docker() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    assert_eq!(run(&node, "bare", &["--gpus", "1"]).code, 0);
    // A lease of tomorrow: somebody's clock is wrong.
    let store = node.store();
    let prefix = "/gpuctl/v1/nodes/node1/leases/";
    let lease = store.list(prefix).unwrap().entries.remove(0);
    let mut value: Value = serde_json::from_slice(&lease.value).unwrap();
    let since = value["since"].clone();
    let mut write = |since: Value| {
        use gpuctl_ledger::store::Write;
        value["since"] = since;
        let bytes = value.to_string().into_bytes();
        let _ = store.commit(&[], &[Write::Put(lease.key.clone(), bytes)]).unwrap();
    };
    write("2199-01-01T00:00:00Z".into());
    let lines = doctor(&node, &[]);
    assert!(bad(&lines, "clock").detail.contains("2199-01-01"), "{lines:#?}");
    write(since);
    good(&doctor(&node, &[]), "clock");

    // A change that was broken off.
    let train = ["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"];
    node.gpuctl_ok(&train);
    let cut =
        || drop(node.gpuctl_killed_at("scale:restart:begun", &["scale", "train", "--gpus", "2"]));
    let words = ["a change to train was broken off", "docker gpuctl doctor --fix"];
    broken(&node, "records", "problem", &words, cut, || {
        assert_eq!(bad(&doctor(&node, &["--fix"]), "records").verdict, "fixed");
    });

    // A restart that was refused, which nobody tries again: no service runs here.
    let all = ["run", "-d", "--name", "big", "--gpus", "5", "--restart", "always"];
    node.docker_ok(&[&all[..], &["busybox", "sleep", "100000"]].concat());
    node.docker_ok(&["stop", "-t", "0", "big"]);
    // What was stopped by hand keeps its GPUs for three seconds.
    let limit = std::time::Duration::from_secs(20);
    let scale = ["scale", "train", "--gpus", "4"];
    wait_for("big's GPUs", limit, || node.gpuctl(&scale).code == 0);
    assert_eq!(node.docker(&["start", "big"]).code, 1);
    let lines = doctor(&node, &[]);
    let line = bad(&lines, "restarts");
    assert!(line.detail.starts_with("big was refused once: "), "{line:?}");
    assert!(line.fix.contains("docker start big"), "{line:?}");

    // A disk that is full, seen by this thread and what it starts only.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let images = node.place().at("volumes");
    fs::create_dir_all(&images).unwrap();
    mount(Some("tmpfs"), &images, Some("tmpfs"), MsFlags::empty(), Some("size=2m")).unwrap();
    let _ = fs::write(images.join("full"), vec![1; 4 << 20]);
    let lines = doctor(&node, &[]);
    let line = bad(&lines, "disk space");
    assert!(line.detail.contains("(volumes) is full: ") && line.fix.contains("prune"), "{line:?}");
    nix::mount::umount(&images).unwrap();
}

#[test]
fn without_engine_or_ledger_the_rest_is_said_all_the_same() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    node.kill_engine();
    let lines = doctor(node, &[]);
    let line = bad(&lines, "engine");
    assert!(line.detail.contains("cannot be reached") && !line.fix.is_empty(), "{line:?}");
    good(&lines, "ledger");
    good(&lines, "driver");
    node.start_engine();
    node.kill_service();
    let file = node.place().sqlite();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..100]).unwrap();
    // What was not in the file yet goes with it.
    for beside in ["db-wal", "db-shm"] {
        let _ = fs::remove_file(file.with_extension(beside));
    }
    node.start_service();
    // Root's own look, and the service's for others.
    let asked = served.ask(DAEMON, &["doctor", "--format", "json"]);
    assert_eq!(asked.code, 1, "{asked}");
    for lines in [doctor(node, &[]), self::lines(&asked)] {
        let line = bad(&lines, "ledger");
        assert!(line.detail.contains("damaged") && line.fix.contains("backup"), "{line:?}");
        for name in ["engine", "hook", "driver", "injection", "filesystem", "restarts"] {
            good(&lines, name);
        }
    }
}

#[test]
fn docker_run_that_passes_by_is_told() {
    if !engine_runs_here() {
        return;
    }
    let engine = engine::Options { default_runtime: Some("runc".into()), ..Default::default() };
    let node = Node::start(Options { engine, ..Options::default() });
    let lines = doctor(&node, &[]);
    let line = bad(&lines, "enforcement");
    assert_eq!((line.verdict.as_str(), line.fix.as_str()), ("warning", "docker gpuctl setup"));
    assert_eq!(bad(&lines, "level").verdict, "warning");
}

#[test]
fn what_never_ran_is_kept_where_the_ledger_has_lost_it() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let sleep = ["busybox", "sleep", "1000"];
    for name in ["made", "filled"] {
        node.gpuctl_ok(&[&["create", "--name", name, "--gpus", "1"], &sleep[..]].concat());
    }
    node.docker_ok(&["cp", "/etc/hostname", "filled-0:/precious"]);
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = std::fs::remove_file(node.place().state().join(file));
    }
    // Where the node's own copies are lost as well, files still speak for it.
    let copy = format!("bindings/{}.json", node.id("filled-0"));
    std::fs::remove_file(node.place().state().join(copy)).unwrap();
    let got = node.gpuctl(&["doctor", "--fix"]);
    for name in ["made-0", "filled-0"] {
        let line = format!("{name} is marked as managed and the ledger does not know it");
        assert!(got.code == 1 && got.stdout.contains(&line), "{got}");
    }
    for name in ["made", "filled"] {
        node.gpuctl_ok(&["adopt", &format!("{name}-0"), "--name", name]);
        node.gpuctl_ok(&["start", name]);
    }
    node.docker_ok(&["exec", "filled-0", "test", "-e", "/precious"]);
    node.check();
}
