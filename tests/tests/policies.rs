//! What root's config can have it do otherwise, each with a real Engine: bare requests refused, what
//! "all" gives, privileged and exempt containers, watching only, injection by environment; how a
//! refusal reads; and what doctor says of those that no policy is asked about.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::traps::TRAPS;
use gpuctl_tests::{Node, Options, Output, engine_runs_here, probe};
use serde_json::Value;

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

fn node(config: &str) -> Node {
    Node::start(Options { config: config.into(), ..Options::default() })
}

/// Runs it and gives the minors that it can open.
#[track_caller]
fn runs(node: &Node, name: &str, flags: &[&str]) -> BTreeSet<u32> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    probe::opens(node, name)
}

/// What the probe finds open where everything is: more minors than there are GPUs.
fn probed() -> BTreeSet<u32> {
    (0..10).collect()
}

/// A refusal: Docker's 125, one line of ours, none of the traps, all the words.
#[track_caller]
fn refused(got: &Output, words: &[&str]) -> String {
    assert_eq!(got.code, 125, "{got}");
    let ours: Vec<&str> = got.stderr.lines().filter(|l| l.contains("gpuctl: ")).collect();
    let [line] = ours.as_slice() else { panic!("{} lines of ours\n{got}", ours.len()) };
    for word in words {
        assert!(line.contains(word), "no {word:?} in\n{got}");
    }
    for trap in TRAPS {
        assert!(!got.stderr.to_lowercase().contains(trap), "{trap:?} in\n{got}");
    }
    (*line).to_owned()
}

/// What the audit log has of a container, by its name.
fn audit(node: &Node, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(node.place().state().join("audit.log")).unwrap_or_default();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
    lines.filter(|line| line["name"] == name).collect()
}

fn has(lines: &[Value], decision: &str, reason: &str) -> bool {
    lines.iter().any(|l| {
        l["decision"] == decision && l["reason"].as_str().is_some_and(|r| r.contains(reason))
    })
}

#[test]
fn bare_requests_are_refused_where_the_policy_says_so() {
    if !engine_runs_here() {
        return;
    }
    let node = node("[policy]\nbare = \"refuse\"\n");
    for (n, flags) in
        [&["--gpus", "1"][..], &["--gpus", "all"], &["--gpus", "device=1"]].into_iter().enumerate()
    {
        let got = run(&node, &format!("c{n}"), flags);
        refused(&got, &["docker gpuctl only", "hint: docker gpuctl run --gpus"]);
    }
    let device = node.place().dev().join(format!("nvidia{}", node.minor(0)));
    let device = format!("{}:/dev/nvidia0", device.display());
    refused(&run(&node, "c4", &["--device", &device]), &["docker gpuctl only"]);
    assert!(node.leases().is_empty());
    assert!(runs(&node, "plain", &[]).is_empty());
    assert!(runs(&node, "priv", &["--privileged"]).is_empty());
    node.gpuctl_ok(&[&["run", "-d", "--name", "train", "--gpus", "2"], &LONG[..]].concat());
    assert_eq!(probe::opens(&node, "train-0").len(), 2);
    node.gpuctl_ok(&["scale", "train", "--gpus", "3", "--timeout", "0"]);
    assert_eq!(probe::opens(&node, "train-1").len(), 3);
    node.check();
}

#[test]
fn all_is_what_the_policy_says() {
    if !engine_runs_here() {
        return;
    }
    let free = node("[policy]\nall = \"free\"\n");
    let one = runs(&free, "one", &["--gpus", "1"]);
    let rest = runs(&free, "rest", &["--gpus", "all"]);
    assert_eq!((rest.len(), rest.is_disjoint(&one)), (7, true));
    refused(&run(&free, "late", &["--gpus", "all"]), &["0 of 8 free", "rest", "since", "hint: "]);
    free.docker_ok(&["rm", "-f", "rest"]);
    wait_for("the rest", Duration::from_secs(10), || {
        let line = ["run", "-d", "--name", "train", "--gpus", "all", "busybox", "sleep", "100000"];
        free.gpuctl(&line).code == 0
    });
    let train = probe::opens(&free, "train-0");
    assert!(!train.is_empty() && train.is_disjoint(&one), "{train:?}");
    free.check();
    drop(free);

    let three = node("[policy]\nall = 3\n");
    assert_eq!(runs(&three, "ca", &["--gpus", "all"]).len(), 3);
    assert_eq!(runs(&three, "cb", &["--gpus", "all"]).len(), 3);
    refused(&run(&three, "cc", &["--gpus", "all"]), &["2", "free", "hint: "]);
    assert_eq!(runs(&three, "cd", &["--gpus", "2"]).len(), 2);
    three.check();
}

#[test]
fn privileged_containers_are_let_be_where_the_policy_says_so() {
    if !engine_runs_here() {
        return;
    }
    let node = node("[policy]\nprivileged = \"allow\"\n");
    let mine = runs(&node, "mine", &["--gpus", "2"]);
    assert_eq!(runs(&node, "ca", &["--privileged"]), probed());
    assert!(node.leased_minors(&node.id("ca")).is_empty());
    let open = "every GPU is open to it";
    assert!(has(&audit(&node, "ca"), "exempted", open), "{:?}", audit(&node, "ca"));
    // One that asks besides gets a lease on that, and keeps the rest.
    assert_eq!(runs(&node, "cb", &["--privileged", "--gpus", "1"]), probed());
    let leased = node.leased_minors(&node.id("cb"));
    assert_eq!((leased.len(), leased.is_disjoint(&mine)), (1, true));
    assert!(has(&audit(&node, "cb"), "exempted", open), "{:?}", audit(&node, "cb"));
    assert!(has(&audit(&node, "cb"), "granted", "started"));
    // A wildcard without --privileged is closed all the same, and a managed one has what it leases.
    assert!(runs(&node, "cc", &["--device-cgroup-rule", "c 195:* rwm"]).is_empty());
    let line = ["run", "-d", "--name", "train", "--privileged", "--gpus", "1"];
    node.gpuctl_ok(&[&line[..], &LONG[..]].concat());
    assert_eq!(probe::opens(&node, "train-0").len(), 1);
    node.docker_ok(&["rm", "-f", "ca", "cb"]);
    node.check();
}

#[test]
fn the_exempt_pass_by_image_or_by_name_and_it_is_written_down() {
    if !engine_runs_here() {
        return;
    }
    let node = node(
        "[[policy.exempt]]\nimage = \"cuda-like\"\n\n[[policy.exempt]]\nname = \"exporter\"\n\n\
         [[policy.exempt]]\nimage = \"busybox\"\nname = \"both\"\n",
    );
    assert_eq!(runs(&node, "holder", &["--gpus", "8"]).len(), 8);
    let minor = node.minor(0);
    let path = node.place().dev().join(format!("nvidia{minor}"));
    let device = format!("{}:/dev/nvidia{minor}", path.display());
    let one: BTreeSet<u32> = [minor].into();
    let got = node.docker(&[
        "run",
        "-d",
        "--name",
        "by-image",
        "--device",
        &device,
        "cuda-like",
        "sleep",
        "100000",
    ]);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(probe::opens(&node, "by-image"), one);
    // By --gpus it gets what it asks for too, though NVIDIA's toolkit is not here.
    let by_gpus = ["run", "-d", "--name", "by-gpus", "--gpus", "all", "cuda-like", "sleep", "9999"];
    let got = node.docker(&by_gpus);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(probe::opens(&node, "by-gpus").len(), 8);
    assert_eq!(runs(&node, "exporter", &["--privileged"]), probed());
    assert_eq!(runs(&node, "both", &["--device", &device]), one);
    for name in ["by-image", "by-gpus", "exporter", "both"] {
        let lines = audit(&node, name);
        assert!(has(&lines, "exempted", "exempt list"), "{name}: {lines:?}");
        assert!(node.leased_minors(&node.id(name)).is_empty());
    }
    // Of an entry with both, both must be right; a name that only begins so is another.
    refused(&run(&node, "other", &["--device", &device]), &["holder"]);
    assert!(runs(&node, "exporter2", &["--privileged"]).is_empty());
    let got = node.docker(&[
        "run", "-d", "--name", "both2", "--device", &device, "busybox", "sleep", "100000",
    ]);
    refused(&got, &["holder"]);
    node.docker_ok(&["rm", "-f", "by-image", "by-gpus", "exporter", "both"]);
    node.check();
}

/// A program that stands for NVIDIA's legacy hook: it notes what it would put in.
fn legacy_hook(folder: &Path) {
    let log = folder.join("log");
    let script = format!(
        "#!/bin/sh\nbundle=$(sed -n 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/p')\n\
         grep -o 'NVIDIA_VISIBLE_DEVICES=[^\"]*' \"$bundle/config.json\" | tail -n 1 >>{}\n",
        log.display()
    );
    program(&folder.join("nvidia-container-runtime-hook"), &script);
}

fn program(path: &Path, script: &str) {
    gpuctl_sim::files::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A node with NVIDIA's toolkit, as far as dockerd can tell.
fn with_toolkit(folder: &Path, config: &str) -> Node {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    legacy_hook(folder);
    let mut options = Options { config: config.into(), ..Options::default() };
    options.engine.first_on_path = Some(folder.to_owned());
    Node::start(options)
}

#[test]
fn observe_changes_nothing_and_writes_down_what_it_would_have_done() {
    if !engine_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = with_toolkit(folder.path(), "[policy]\nobserve = true\n");
    let minor = node.minor(0);
    let device = format!("/dev/nvidia{minor}");
    for (name, flags, opens, decision, reason) in [
        ("two", &["--gpus", "2"][..], BTreeSet::new(), "granted", "would claim 2"),
        ("many", &["--gpus", "99"], BTreeSet::new(), "refused", "99 GPUs asked for"),
        ("priv", &["--privileged"], probed(), "stripped", "would hold no lease"),
        ("dev1", &["--device", &device], [minor].into(), "granted", "would claim"),
        ("dev2", &["--device", &device], [minor].into(), "granted", "would claim"),
    ] {
        assert_eq!(runs(&node, name, flags), opens, "{name}");
        let lines = audit(&node, name);
        assert!(has(&lines, decision, reason), "{name}: {lines:?}");
        assert!(lines.iter().all(|l| l["observe"] == true), "{lines:?}");
        assert!(node.leases().is_empty(), "{name}");
        let hooks = node.place().bundles().join(node.id(name)).join("config.json");
        let spec = fs::read_to_string(hooks).unwrap();
        assert!(!spec.contains("gpuctl-hook"), "{name}: {spec}");
    }
    assert!(runs(&node, "plain", &[]).is_empty());
    assert!(audit(&node, "plain").is_empty());
    // dockerd's own choice is what the hook got: GPUs 0 and 1.
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log.lines().next(), Some("NVIDIA_VISIBLE_DEVICES=0,1"), "{log}");
}

#[test]
fn observe_without_nvidias_toolkit_says_who_gives_no_gpus() {
    if !engine_runs_here() {
        return;
    }
    let node = node("[policy]\nobserve = true\n");
    let got = run(&node, "two", &["--gpus", "2"]);
    refused(&got, &["NVIDIA's Container Toolkit gives", "policy.observe", "docker gpuctl setup"]);
    assert!(!got.stderr.contains("leave out --runtime"), "{got}");
    assert!(has(&audit(&node, "two"), "refused", "policy.observe"), "{:?}", audit(&node, "two"));
}

/// The UUIDs that a container leases.
fn leased(node: &Node, name: &str) -> BTreeSet<String> {
    let id = node.id(name);
    let leases = node.leases();
    let mine = leases.iter().filter(|(_, l)| l.holder.container.as_str() == id);
    mine.map(|(unit, _)| unit.clone()).collect()
}

#[test]
fn injection_by_environment_names_what_is_leased_and_nothing_else() {
    if !engine_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = with_toolkit(folder.path(), "");
    node.edit_config(|text| text.replacen("[gpu]\n", "[gpu]\ninject = \"env\"\n", 1));
    let named = |line: &str| -> BTreeSet<String> {
        let list = line.strip_prefix("NVIDIA_VISIBLE_DEVICES=").expect("the variable");
        list.split(',').map(str::to_owned).collect()
    };
    let of = |name: &str| {
        let env = node.docker_ok(&["exec", name, "cat", "/proc/1/environ"]);
        let lines: Vec<&str> =
            env.split('\0').filter(|l| l.starts_with("NVIDIA_VISIBLE_DEVICES=")).collect();
        assert_eq!(lines.len(), 1, "{env}");
        named(lines[0])
    };
    assert_eq!(run(&node, "ca", &["--gpus", "2"]).code, 0);
    assert_eq!(run(&node, "cb", &["--gpus", "2"]).code, 0);
    assert_eq!((of("ca"), of("ca").len()), (leased(&node, "ca"), 2));
    assert_eq!(of("cb"), leased(&node, "cb"));
    assert!(leased(&node, "ca").is_disjoint(&leased(&node, "cb")));
    // The hook is still there, and was told the same.
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let told: Vec<BTreeSet<String>> = log.lines().map(named).collect();
    assert_eq!(told, [leased(&node, "ca"), leased(&node, "cb")]);
    node.gpuctl_ok(&[&["run", "-d", "--name", "train", "--gpus", "3"], &LONG[..]].concat());
    assert_eq!((of("train-0"), of("train-0").len()), (leased(&node, "train-0"), 3));
    let got = run(&node, "cc", &["--gpus", "2"]);
    refused(&got, &["2 GPUs asked for, 1 free", "hint: "]);

    // Somebody after us names others: the gate sees the final spec, and refuses.
    let foreign = leased(&node, "ca").pop_first().unwrap();
    let real = node.config().runtime.real;
    let between = folder.path().join("between");
    node.edit_config(|text| {
        let old = format!("real = \"{}\"", real.display());
        assert!(text.contains(&old), "{text}");
        text.replace(&old, &format!("real = \"{}\"", between.display()))
    });
    for value in [foreign.as_str(), "all", "0"] {
        let script = format!(
            "#!/bin/sh\nfor word; do\n[ \"$last\" = --bundle ] && bundle=$word\nlast=$word\ndone\n\
             case \" $* \" in *' create '*)\n\
             sed -i 's/NVIDIA_VISIBLE_DEVICES=[^\"]*/NVIDIA_VISIBLE_DEVICES={value}/' \
             \"$bundle/config.json\" ;;\nesac\nexec {} \"$@\"\n",
            real.display()
        );
        program(&between, &script);
        let got = node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
        assert_eq!(got.code, 125, "{value}\n{got}");
        assert!(got.stderr.contains("gpuctl: "), "{value}\n{got}");
        assert!(got.stderr.contains("without a lease"), "{value}\n{got}");
    }
    node.edit_config(|text| {
        text.replace(&between.display().to_string(), &real.display().to_string())
    });
    wait_for("the refused one's GPU", Duration::from_secs(10), || {
        node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]).code == 0
    });
    node.check();
}

#[test]
fn a_wrong_policy_is_said_with_its_line_and_stops_gpu_containers_only() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let good = fs::read_to_string(node.place().config()).unwrap();
    for (wrong, words) in [
        ("[policy]\nbear = \"refuse\"\n", &["bear", "line"][..]),
        ("[policy]\nbare = \"reject\"\n", &["reject", "line"]),
        ("[policy]\nall = 0\n", &["all is", "line"]),
        ("[policy]\nprivileged = true\n", &["line"]),
        ("[[policy.exempt]]\n", &["exempt", "image or a name"]),
        ("[[policy.exempt]]\nlabel = \"x\"\n", &["label", "line"]),
        ("[polcy]\n", &["polcy", "line"]),
    ] {
        node.edit_config(|_| format!("{good}\n{wrong}"));
        node.docker_ok(&["run", "--rm", "busybox", "true"]);
        let words = [words, &["config", "wrong"]].concat();
        refused(&run(&node, "ca", &["--gpus", "1"]), &words);
        node.docker_ok(&["rm", "-f", "ca"]);
        let got = node.gpuctl(&["gpus"]);
        assert_eq!(got.code, 1, "{wrong}\n{got}");
        for start in ["error: ", "hint: "] {
            assert_eq!(got.stderr.lines().filter(|l| l.starts_with(start)).count(), 1, "{got}");
        }
        assert!(words.iter().all(|word| got.stderr.contains(word)), "{wrong}\n{got}");
    }
    node.edit_config(|_| good);
    assert_eq!(runs(&node, "cb", &["--gpus", "1"]).len(), 1);
    node.check();
}

#[test]
fn a_refusal_says_who_has_it_since_when_what_is_free_and_what_to_type() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&[&["run", "-d", "--name", "train", "--gpus", "2"], &LONG[..]].concat());
    assert_eq!(runs(&node, "bare", &["--gpus", "3"]).len(), 3);
    let hint = "hint: docker gpuctl gpus shows all of them";
    let long = "x".repeat(200);
    for (gpus, words) in [
        ("4", &["4 GPUs asked for, 3 free", "train-0", "bare", "since", hint, "--gpus 3"][..]),
        ("all", &["all GPUs asked for, 3 of 8 free", "train-0", "since", hint, "--gpus 3"]),
        ("\"device=0,5\"", &["GPU 0", "not free", "train-0", "root", "since", hint]),
        ("device=4", &["GPU 4", "not free", "bare", "owner unknown", "since", hint]),
        ("9", &["9 GPUs asked for", "has 8", hint]),
        ("device=8", &["no GPU 8", "GPUs 0 to 7", hint]),
        (&format!("device={long}"), &["GPU"]),
    ] {
        let got = node.docker(&["run", "--rm", "--gpus", gpus, "busybox", "true"]);
        let line = refused(&got, words);
        assert!(line.len() < 2000, "{line}");
        assert_eq!(node.leases().len(), 5);
    }
    // The same through docker gpuctl, on lines of their own.
    let got = node.gpuctl(&["run", "--rm", "--gpus", "4", "busybox", "true"]);
    assert_eq!(got.code, 125, "{got}");
    let lines: Vec<&str> = got.stderr.lines().collect();
    assert!(
        lines.first().is_some_and(|l| l.starts_with("error: 4 GPUs asked for, 3 free")),
        "{got}"
    );
    assert_eq!(lines.iter().filter(|l| l.starts_with("  GPU ")).count(), 5, "{got}");
    assert!(lines.iter().any(|l| l.starts_with("hint: ") && l.contains("--gpus 3")), "{got}");
    node.check();
}

/// What doctor says of containers that pass by: verdict and text.
fn passing_by(node: &Node) -> BTreeSet<(String, String)> {
    let got = node.gpuctl(&["doctor", "--format", "json"]);
    let lines = got.stdout.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours = lines.filter(|l| l["name"] == "passing by");
    ours.map(|l| (text(&l["verdict"]), text(&l["detail"]))).collect()
}

#[test]
fn doctor_names_what_runs_past_the_leases_and_nothing_else() {
    if !engine_runs_here() {
        return;
    }
    let node = node("[[policy.exempt]]\nname = \"known\"\n");
    let device = format!("/dev/nvidia{}", node.minor(3));
    runs(&node, "holder", &["--gpus", "1"]);
    runs(&node, "stripped", &["--privileged"]);
    runs(&node, "plain", &["--runtime", "runc"]);
    assert_eq!(runs(&node, "known", &["--runtime", "runc", "--device", &device]).len(), 1);
    let clean = passing_by(&node);
    assert_eq!(clean.iter().map(|(verdict, _)| verdict.as_str()).collect::<Vec<_>>(), ["ok"]);

    assert_eq!(runs(&node, "past", &["--runtime", "runc", "--device", &device]).len(), 1);
    let wildcard = ["--runtime", "runc", "--device-cgroup-rule", "c 195:* rwm"];
    assert_eq!(runs(&node, "wild", &wildcard), probed());
    let row = |name: &str, flag: &str| {
        let text = format!("{name} was started by runtime runc with {flag} and holds no lease");
        ("problem".to_owned(), text)
    };
    let past = row("past", &format!("--device {device}"));
    let wild = row("wild", "--device-cgroup-rule 'c 195:* rwm'");
    assert_eq!(passing_by(&node), [past, wild].into());
    let got = node.gpuctl(&["doctor"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stdout.contains("docker rm -f past, and make it anew"), "{got}");

    // One that has ended passes by no more.
    node.docker_ok(&["kill", "past", "wild"]);
    assert_eq!(passing_by(&node), clean);
    node.docker_ok(&["rm", "-f", "known"]);
    node.check();
}

#[test]
fn stop_and_rm_say_what_keeps_the_gpus_of_a_container() {
    if !engine_runs_here() {
        return;
    }
    let node = node("");
    let run = ["run", "-d", "--name", "vic", "--gpus", "1", "--stop-timeout", "0"];
    node.gpuctl_ok(&[&run[..], &["busybox", "sleep", "100000"]].concat());
    let lease = node.leases().into_values().next().expect("a lease");
    let cgroup = lease.evidence.cgroup.expect("it is active").folder;
    let below = ["/sys/fs/cgroup/devices", "/sys/fs/cgroup"];
    let parent = below.iter().find_map(|mount| cgroup.strip_prefix(mount)).expect("a cgroup");
    let guest = ["run", "-d", "--name", "guest", "--cgroup-parent", parent];
    node.docker_ok(&[&guest[..], &["busybox", "sleep", "100000"]].concat());
    let pid = node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", "guest"]);
    for line in [["stop", "vic"], ["rm", "vic"]] {
        let got = node.gpuctl(&line);
        assert_eq!(got.code, 0, "{got}");
        for word in ["warning: ", "vic-0 has ended", "GPU ", &format!("sleep (pid {pid})")] {
            assert!(got.stderr.contains(word), "{word:?} is not said\n{got}");
        }
        assert_eq!(node.leases().len(), 1, "{got}");
    }
    node.docker_ok(&["rm", "-f", "guest"]);
    node.gpuctl(&["doctor", "--fix"]);
    assert!(node.leases().is_empty());
    // Of one that nothing keeps, nothing is said.
    node.gpuctl_ok(&[&run[..], &["busybox", "sleep", "100000"]].concat());
    for line in [["stop", "vic"], ["rm", "vic"]] {
        let got = node.gpuctl(&line);
        assert!(got.code == 0 && got.stderr.is_empty(), "{got}");
    }
    node.check();
}
