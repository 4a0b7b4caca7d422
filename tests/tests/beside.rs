//! pause, unpause and commit: what docker does, with GPUs, ports and names in mind.

use std::time::Duration;

use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::{DAEMON, Served, ended};
use gpuctl_tests::state;
use gpuctl_tests::{Node, Options, engine_runs_here};

fn node() -> Node {
    Node::start(Options::default())
}

fn run<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let first = ["run", "-d", "--name", name, "--gpus", "2", "--stop-signal", "KILL"];
    let script = "n=0; while :; do n=$((n+1)); echo $n >/n; sleep 0.05; done";
    [&first, more, &["busybox", "sh", "-c", script]].concat()
}

#[test]
fn what_is_paused_stands_still_and_keeps_its_gpus() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&run("aa", &[]));
    node.gpuctl_ok(&run("bb", &[]));
    let before = (node.leases(), state::seen(&node, "aa").unwrap().started_at);
    assert_eq!(node.gpuctl_ok(&["pause", "aa", "bb-0"]), "aa\nbb-0");
    let status = || node.docker_ok(&["inspect", "-f", "{{.State.Status}}", "aa-0", "bb-0"]);
    assert_eq!(status(), "paused\npaused");
    let count = || node.docker_ok(&["cp", "aa-0:/n", "-"]);
    let stands = count();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(count(), stands);
    // Its GPUs are not free: nobody gets them, and no look at the node takes them away.
    node.gpuctl_ok(&["doctor", "--fix"]);
    assert_eq!(node.gpuctl(&["run", "-d", "--gpus", "5", "busybox", "true"]).code, 125);
    let row = state::row(&node, "aa").expect("it is shown");
    assert!(row["status"].as_str().unwrap().contains("Paused") && row["running"] == true, "{row}");
    // Twice, and what does not run: said, the others done.
    let got = node.gpuctl(&["pause", "aa", "nobody"]);
    assert_eq!((got.code, got.stdout.as_str()), (1, ""), "{got}");
    assert!(
        got.stderr.contains("aa-0 is paused already") && got.stderr.contains("unpause"),
        "{got}"
    );
    assert!(got.stderr.contains("no container nobody"), "{got}");
    assert_eq!(node.gpuctl_ok(&["unpause", "aa", "bb"]), "aa\nbb");
    assert_eq!(status(), "running\nrunning");
    assert_eq!((node.leases(), state::seen(&node, "aa").unwrap().started_at), before);
    let got = node.gpuctl(&["unpause", "aa"]);
    assert!(got.code == 1 && got.stderr.contains("aa-0 is not paused: it is running"), "{got}");
    node.gpuctl_ok(&["stop", "bb"]);
    let got = node.gpuctl(&["pause", "bb"]);
    assert!(got.code == 1 && got.stderr.contains("bb-0 does not run: it is exited"), "{got}");
    // A paused one can be stopped and removed, and gives its GPUs back.
    node.gpuctl_ok(&["pause", "aa"]);
    node.gpuctl_ok(&["rm", "-f", "aa"]);
    assert!(node.leases().is_empty());
    node.check();
}

#[test]
fn an_image_of_a_container_has_its_files_and_says_what_it_has_not() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    let folder = node.place().at("sets");
    std::fs::create_dir_all(&folder).unwrap();
    let bind = format!("{}:/sets", folder.display());
    node.gpuctl_ok(&run("train", &["-v", "data:/data", "-v", "/scratch", "-v", &bind]));
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo tool >/tool; echo x >/data/x"]);
    let started = state::seen(&node, "train").unwrap().started_at;
    let words = [
        "commit",
        "-a",
        "Ada <ada@example.org>",
        "-m",
        "with tool & more",
        "-c",
        "ENV A=\"b c\"",
        "--change",
        "CMD [\"cat\",\"/tool\"]",
        "train",
        "tools/train:v1",
    ];
    let got = node.gpuctl(&words);
    assert_eq!(got.code, 0, "{got}");
    let id = got.stdout.trim();
    assert!(id.starts_with("sha256:") && got.stdout.lines().count() == 1, "{got}");
    let line = got.stderr.lines().find(|l| l.contains("volumes are not in the image")).unwrap();
    for part in [
        "/data (volume data)",
        "/scratch (volume ",
        &format!("/sets ({} of the host)", folder.display()),
    ] {
        assert!(line.contains(part), "{part}\n{got}");
    }
    let of = |format: &str| node.docker_ok(&["image", "inspect", "-f", format, "tools/train:v1"]);
    assert_eq!(of("{{.Id}}"), id);
    assert_eq!(of("{{.Author}}|{{.Comment}}"), "Ada <ada@example.org>|with tool & more");
    assert!(of("{{.Config.Env}}").contains("A=b c"));
    // The label of the operation would tell a lie: it is there and empty, as the Engine takes none out.
    assert_eq!(of("{{index .Config.Labels \"gpuctl.operation\"}}"), "");
    assert!(!of("{{json .Config.Labels}}").contains(&token(&node)));
    assert_eq!(node.docker_ok(&["run", "--rm", "tools/train:v1"]), "tool");
    assert_eq!(node.docker_ok(&["run", "--rm", "tools/train:v1", "ls", "/data"]), "");
    // What is made from it is as managed as any other.
    node.gpuctl_ok(&[
        "run",
        "-d",
        "--name",
        "next",
        "--gpus",
        "1",
        "tools/train:v1",
        "sleep",
        "1000",
    ]);
    node.gpuctl_ok(&["scale", "next", "--gpus", "2"]);
    node.gpuctl_ok(&["rm", "-f", "next"]);
    // Nothing became of the container itself.
    let seen = state::seen(&node, "train").unwrap();
    assert_eq!((seen.running, seen.started_at, seen.version), (true, started, 0));
    assert_eq!(node.docker_ok(&["inspect", "-f", "{{.State.Paused}}", "train-0"]), "false");

    // Without a name only the id names it; a stopped one, and without a pause.
    node.gpuctl_ok(&["stop", "train"]);
    for words in [
        &["commit", "train"][..],
        &["commit", "-p=false", "train-0"],
        &["commit", "--no-pause", "train"],
    ] {
        let id = node.gpuctl_ok(words);
        assert_eq!(
            node.docker_ok(&["image", "inspect", "-f", "{{.RepoTags}}", &id]),
            "[]",
            "{words:?}"
        );
    }
    let images = || node.docker_ok(&["image", "ls", "-aq"]).lines().count();
    let before = images();
    for (words, why) in [
        (&["commit", "nobody"][..], "no container nobody"),
        (&["commit", "train", "UPPER"], "an image cannot be called \"UPPER\""),
        (&["commit", "train", "x:y:z"], "an image cannot be called"),
        (&["commit", "-c", "RUN x", "train"], "not a valid change command"),
    ] {
        let got = node.gpuctl(words);
        assert_eq!((got.code, got.stdout.as_str()), (1, ""), "{got}");
        assert!(got.stderr.contains(why) && got.stderr.contains("hint: "), "{got}");
    }
    assert_eq!(images(), before, "none was made");
    node.check();
}

/// The token of the operation that made `train-0`.
fn token(node: &Node) -> String {
    let format = "{{index .Config.Labels \"gpuctl.operation\"}}";
    let token = node.docker_ok(&["inspect", "-f", format, "train-0"]);
    assert_eq!(token.len(), 32);
    token
}

#[test]
fn a_user_in_the_group_can_do_it_all() {
    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    served.ok(DAEMON, &run("train", &["-p", "auto:22"]));
    served.ok(DAEMON, &["pause", "train"]);
    let got = served.ok(DAEMON, &["commit", "train", "of-daemon"]);
    assert!(got.stdout.starts_with("sha256:"), "{got}");
    served.ok(DAEMON, &["unpause", "train"]);
    assert_eq!(served.ok(DAEMON, &["ports", "-q"]).stdout.lines().count(), 1);
    let got = served.ok(DAEMON, &["rename", "train", "learn"]);
    assert_eq!(got.stdout, "learn-0\n", "{got}");
    let ports = served.ok(DAEMON, &["ports"]);
    assert!(ports.stdout.contains(" learn "), "{ports}");
    served.ok(DAEMON, &["rm", "-f", "--history", "learn"]);
    let left = state::difference(&state::Records::new(), &state::ledger(&served.node));
    assert_eq!(left, [""; 0]);
    served.node.check();
}

#[test]
fn who_gives_up_a_commit_is_told_that_docker_does_not() {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    if !engine_runs_here() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    node.gpuctl_ok(&run("train", &[]));
    let fill = "dd if=/dev/urandom of=/large bs=1M count=300 2>/dev/null";
    node.docker_ok(&["exec", "train-0", "sh", "-c", fill]);
    let status = || node.docker_ok(&["inspect", "-f", "{{.State.Status}}", "train-0"]);
    let images = || node.docker_ok(&["image", "ls", "-q", "kept"]);
    for user in [DAEMON, 0] {
        let child = served.begin(user, &["commit", "train", "kept:1"]);
        wait_for("the pause", Duration::from_secs(30), || status() == "paused");
        killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let (code, text) = ended(child);
        let told =
            "interrupted, but Docker makes the image to its end; train stands still until then";
        assert!(code == 130 && text.contains(told), "{code}: {text}");
        // It is so.
        let done = || status() == "running" && !images().is_empty();
        wait_for("the image", Duration::from_secs(60), done);
        node.docker_ok(&["image", "rm", "kept:1"]);
    }
    node.gpuctl_ok(&["scale", "train", "--gpus", "1"]);
    node.check();
}
