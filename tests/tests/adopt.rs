//! adopt: a container that docker made is managed from now on, in place.

use std::collections::BTreeSet;

use gpuctl_tests::probe;
use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Node, Options, engine_runs_here, mends_here};
use serde_json::Value;

/// A container of docker's own, which ends at once when it is stopped.
fn docker_run(node: &Node, name: &str, more: &[&str]) -> String {
    let first = ["run", "-d", "--name", name, "--stop-signal", "KILL"];
    node.docker_ok(&[&first, more, &["busybox", "sleep", "100000"]].concat())
}

/// Which GPUs it has, by the kernel and by the ledger.
#[track_caller]
fn has(node: &Node, docker_name: &str, count: usize) -> BTreeSet<u32> {
    let opens = probe::opens(node, docker_name);
    assert_eq!(opens, node.leased_minors(&node.id(docker_name)), "{docker_name}");
    assert_eq!(opens.len(), count, "{docker_name}");
    opens
}

#[test]
fn a_running_one_keeps_everything_and_can_all_that_ours_can() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let id = docker_run(&node, "web", &["--gpus", "2", "--restart", "unless-stopped"]);
    node.docker_ok(&["exec", "web", "sh", "-c", "echo tool >/tool"]);
    let before = has(&node, "web", 2);
    let started = |name: &str| node.docker_ok(&["inspect", "-f", "{{.State.StartedAt}}", name]);
    let at = started("web");
    let got = node.gpuctl(&["adopt", "web"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "web-0\n"), "{got}");
    assert!(got.stderr.contains("web is managed from now on, with 2 GPUs"), "{got}");
    assert_eq!((node.id("web-0"), started("web-0")), (id.clone(), at), "it was not touched");
    assert_eq!(has(&node, "web-0", 2), before);
    let row = state::row(&node, "web").expect("ps shows it");
    assert_eq!((&row["version"], &row["gpus"]), (&Value::from(0), &Value::from("2")), "{row}");
    let inspected: Value =
        serde_json::from_str(&node.gpuctl_ok(&["inspect", "web", "--format", "json"])).unwrap();
    assert_eq!(inspected["Leases"].as_array().map(Vec::len), Some(2), "{inspected}");
    assert_eq!(inspected["Leases"][0]["holder"]["name"], "web");
    let events = node.gpuctl_ok(&["events", "--until", "0s"]);
    assert!(events.contains("adopted as web, with 2 GPUs"), "{events}");
    let history = node.gpuctl_ok(&["history", "web"]);
    assert!(history.contains("adopt web"), "{history}");
    // Its next start is one of ours, which prefers what it had.
    node.docker_ok(&["restart", "web-0"]);
    assert_eq!(has(&node, "web-0", 2), before);
    for lease in node.leases().values() {
        assert_eq!(lease.holder.name.as_ref().map(|name| name.as_str()), Some("web"));
    }
    // Its spec says --gpus 2, and its binding what it gets.
    for (to, name) in [(4, "web-1"), (1, "web-2"), (0, "web-3"), (3, "web-4")] {
        node.gpuctl_ok(&["scale", "web", "--gpus", &to.to_string()]);
        has(&node, name, to);
        node.gpuctl_ok(&["restart", "web"]);
        has(&node, name, to);
    }
    assert_eq!(node.docker_ok(&["exec", "web-4", "cat", "/tool"]), "tool");
    node.gpuctl_ok(&["stop", "web"]);
    assert!(node.leases().is_empty());
    // By docker's own start too.
    node.docker_ok(&["start", "web-4"]);
    has(&node, "web-4", 3);
    // Its init dies: Docker starts it again, with the same.
    let held = has(&node, "web-4", 3);
    let pid = node.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "web-4"]);
    let at = started("web-4");
    std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    gpuctl_tests::node::wait_for("its restart", std::time::Duration::from_secs(20), || {
        started("web-4") != at
            && node.docker_ok(&["inspect", "-f", "{{.State.Running}}", "web-4"]) == "true"
    });
    assert_eq!(has(&node, "web-4", 3), held);
    node.gpuctl_ok(&["rename", "web", "site"]);
    node.gpuctl_ok(&["rm", "-f", "--history", "site"]);
    assert_eq!(state::difference(&Records::new(), &state::ledger(&node)), [""; 0]);
    assert_eq!(node.docker(&["inspect", &id]).code, 1);
    node.check();
}

#[test]
fn what_it_is_to_get_is_read_from_its_spec_and_its_leases() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let cases: [(&str, &[&str], &str, usize); 5] = [
        ("none", &[], "none", 0),
        ("named", &["--gpus", "\"device=1,3\""], "device", 2),
        ("node", &["--device", "/dev/nvidia5"], "device", 1),
        ("wide", &["--privileged"], "none", 0),
        ("count", &["--gpus", "1"], "1", 1),
    ];
    for (name, more, gpus, count) in cases {
        docker_run(&node, name, more);
        let had = node.leased_minors(&node.id(name));
        assert_eq!(had.len(), count, "{name}");
        node.gpuctl_ok(&["adopt", name]);
        let row = state::row(&node, name).unwrap();
        let shown = row["gpus"].as_str().unwrap();
        assert!(shown.starts_with(gpus) || (gpus == "none" && shown == "0"), "{name}: {row}");
        node.gpuctl_ok(&["restart", name]);
        assert_eq!(has(&node, &format!("{name}-0"), count), had, "{name}");
        // And with others it has only those.
        node.gpuctl_ok(&["scale", name, "--gpus", "device=7"]);
        let seven = node.minor(7);
        assert_eq!(has(&node, &format!("{name}-1"), 1), BTreeSet::from([seven]), "{name}");
        node.gpuctl_ok(&["rm", "-f", "--history", name]);
    }
    // A stopped one gets what it asks for when it starts.
    node.docker_ok(&["create", "--name", "later", "--gpus", "3", "busybox", "sleep", "100000"]);
    let got = node.gpuctl(&["adopt", "later", "--name", "job"]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "job-0\n"), "{got}");
    assert!(node.leases().is_empty());
    node.gpuctl_ok(&["start", "job"]);
    has(&node, "job-0", 3);
    node.check();
}

#[test]
fn its_old_name_stays_an_alias_on_its_networks() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.docker_ok(&["network", "create", "--subnet", "10.214.7.0/24", "lan"]);
    let place = ["--ip", "10.214.7.9", "--mac-address", "02:42:0a:d6:07:63"];
    let more = [&["--network", "lan", "--network-alias", "db"][..], &place].concat();
    docker_run(&node, "web", &more);
    let answers = |name: &str| {
        let ping =
            ["run", "--rm", "--network", "lan", "busybox", "busybox", "ping", "-c1", "-w2", name];
        node.docker(&ping).code == 0
    };
    let got = node.gpuctl(&["adopt", "web", "--name", "site"]);
    assert_eq!(got.code, 0, "{got}");
    assert!(got.stderr.contains("connections of web over lan break off"), "{got}");
    for name in ["web", "site", "site-0", "db", "10.214.7.9"] {
        assert!(answers(name), "{name}");
    }
    let mac = "{{.NetworkSettings.Networks.lan.MacAddress}}";
    assert_eq!(node.docker_ok(&["inspect", "-f", mac, "site-0"]), "02:42:0a:d6:07:63");
    node.gpuctl_ok(&["restart", "site"]);
    assert!(answers("web") && answers("10.214.7.9"), "after a restart too");
    // Where that is not wanted, nothing is interrupted, and it is said.
    docker_run(&node, "mail", &["--network", "lan"]);
    let sandbox = |name: &str| {
        node.docker_ok(&["inspect", "-f", "{{.NetworkSettings.Networks.lan.EndpointID}}", name])
    };
    let endpoint = sandbox("mail");
    let got = node.gpuctl(&["adopt", "mail", "--no-alias"]);
    assert_eq!(got.code, 0, "{got}");
    assert!(got.stderr.contains("mail is not known by that name on lan any more"), "{got}");
    assert_eq!(sandbox("mail-0"), endpoint);
    assert!(!answers("mail") && answers("mail-0"));
    // A stopped one gets the alias as well.
    docker_run(&node, "cache", &["--network", "lan"]);
    node.docker_ok(&["stop", "cache"]);
    node.gpuctl_ok(&["adopt", "cache", "--name", "store"]);
    node.gpuctl_ok(&["start", "store"]);
    assert!(answers("cache") && answers("store"));
}

#[test]
fn what_cannot_be_taken_in_is_said_and_left_as_it_is() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    docker_run(&node, "past", &["--runtime", "runc"]);
    docker_run(&node, "brief", &["--rm"]);
    docker_run(&node, "plain", &[]);
    docker_run(&node, "theirs-0", &[]);
    node.gpuctl_ok(&["run", "-d", "--name", "ours", "busybox", "sleep", "1000"]);
    let before = (state::containers(&node), state::ledger(&node));
    for (words, why) in [
        (&["adopt", "past"][..], "has the runtime runc, which gpuctl does not see"),
        (&["adopt", "brief"], "was run with --rm"),
        (&["adopt", "nobody"], "Docker has no container nobody"),
        (&["adopt", "ours-0"], "ours-0 is managed already, as ours"),
        (&["adopt", "plain", "--name", "ours"], "the name ours is in use"),
        (&["adopt", "plain", "--name", "ours-3"], "a version of container ours"),
        (&["adopt", "plain", "--name", "theirs"], "Docker has a container theirs-0 already"),
    ] {
        let got = node.gpuctl(words);
        assert_eq!((got.code, got.stdout.as_str()), (1, ""), "{got}");
        assert!(got.stderr.contains(why) && got.stderr.contains("hint: "), "{why}\n{got}");
        let after = (state::containers(&node), state::ledger(&node));
        assert_eq!(before.0, after.0, "{got}");
        assert_eq!(state::difference(&before.1, &after.1), [""; 0], "{got}");
    }
    // One that is called as its first version is takes that name.
    node.gpuctl_ok(&["adopt", "theirs-0", "--name", "theirs"]);
    assert!(state::seen(&node, "theirs").is_some());
}

#[test]
fn in_strict_mode_any_runc_is_taken_in() {
    if !engine_runs_here() {
        return;
    }
    let mut node = Node::start(Options::default());
    // As setup lays it out: beside the hook.
    let strict = node.config().runtime.hook.with_file_name("strict");
    std::fs::create_dir_all(&strict).unwrap();
    std::os::unix::fs::symlink(&node.config().runtime.hook, strict.join("runc")).unwrap();
    node.with_engine(|engine| engine.first_on_path = Some(strict));
    docker_run(&node, "web", &["--runtime", "runc", "--gpus", "2"]);
    let got = node.gpuctl(&["adopt", "web"]);
    assert_eq!(got.code, 0, "{got}");
    node.gpuctl_ok(&["scale", "web", "--gpus", "3"]);
    has(&node, "web-1", 3);
    node.check();
}

#[test]
fn killed_at_every_step_it_is_dockers_or_ours() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.docker_ok(&["network", "create", "--subnet", "10.214.8.0/24", "lan"]);
    node.gpuctl_ok(&["ps"]);
    let menders =
        [&["start", "site"][..], &["doctor", "--fix"], &["adopt", "web", "--name", "site"]];
    for (mends, mender) in menders.into_iter().enumerate() {
        for (number, (point, done)) in [
            ("name:begun", false),
            ("name:done", false),
            ("alias:begun", false),
            ("alias:done", false),
            ("records:begun", true),
            ("records:done", true),
            ("end:done", true),
        ]
        .into_iter()
        .enumerate()
        {
            if !mends_here(mends, number, menders.len()) {
                continue;
            }
            let at = format!("{point}, {mender:?}");
            let id = docker_run(
                &node,
                "web",
                &["--gpus", "2", "--network", "lan", "--ip", "10.214.8.9"],
            );
            let (records, gpus) = (state::ledger(&node), has(&node, "web", 2));
            let networks = |name: &str| {
                let format =
                    "{{range .NetworkSettings.Networks}}{{.IPAMConfig}} {{.Aliases}}{{end}}";
                node.docker_ok(&["inspect", "-f", format, name])
            };
            let before = networks("web");
            node.gpuctl_killed_at(&format!("adopt:{point}"), &["adopt", "web", "--name", "site"]);
            node.check_exclusive();
            let got = node.gpuctl(mender);
            assert_eq!(node.open_changes(), Vec::<String>::new(), "{at}\n{got}");
            if point != "end:done" {
                let word = if done { "it is done" } else { "it is undone" };
                assert!(
                    got.to_string().contains(&format!("adopt of web was broken off: {word}")),
                    "{at}\n{got}"
                );
            }
            let again = mender[0] == "adopt" && !done;
            if done || again {
                assert_eq!((node.id("site-0"), has(&node, "site-0", 2)), (id, gpus), "{at}\n{got}");
                assert!(networks("site-0").contains("web site"), "{at}: {}", networks("site-0"));
                node.gpuctl_ok(&["restart", "site"]);
                has(&node, "site-0", 2);
                node.gpuctl_ok(&["rm", "-f", "--history", "site"]);
            } else {
                assert_eq!(networks("web"), before, "{at}\n{got}");
                assert_eq!(
                    state::difference(&records, &state::ledger(&node)),
                    [""; 0],
                    "{at}\n{got}"
                );
                node.docker_ok(&["rm", "-f", "web"]);
            }
            node.gpuctl_ok(&["doctor", "--fix"]);
        }
    }
    node.check();
}
