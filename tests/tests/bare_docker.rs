//! Plain `docker run` with GPUs, by every route that Engine 20.10 has, and without.
//! (`--device nvidia.com/gpu=0` is none: that CLI says "not an absolute path".)

use std::collections::BTreeSet;
use std::time::Duration;

use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Ledger, Node, Options, Output, engine_runs_here, probe};

/// Runs it and gives the minors that it can open, which must be those that it shows and leases.
#[track_caller]
fn runs(node: &Node, name: &str, flags: &[&str]) -> BTreeSet<u32> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    let opens = probe::opens(node, name);
    assert_eq!(node.leased_minors(&node.id(name)), opens, "{name}'s leases and what it opens");
    assert_eq!(probe::shows(node, name), opens, "{name}'s /dev and what it opens");
    opens
}

/// Docker's refusal: 125, our name, on one line all the words expected.
#[track_caller]
fn refused(got: &Output, words: &[&str]) {
    assert_eq!(got.code, 125, "{got}");
    let line =
        got.stderr.lines().find(|l| l.contains("gpuctl: ")).unwrap_or_else(|| panic!("{got}"));
    for word in words {
        assert!(line.contains(word), "no {word:?} in\n{got}");
    }
}

#[test]
fn a_count_gets_free_gpus_that_nobody_else_has() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let a = runs(&node, "ca", &["--gpus", "2"]);
    let b = runs(&node, "cb", &["--gpus", "2"]);
    assert_eq!((a.len(), b.len()), (2, 2));
    assert!(a.is_disjoint(&b), "{a:?} {b:?}");
    refused(&run(&node, "cc", &["--gpus", "5"]), &["5", "4", "free"]);
    assert_eq!(runs(&node, "cd", &["--gpus", "4"]).len(), 4);
    refused(&run(&node, "ce", &["--gpus", "1"]), &["free"]);
    node.docker_ok(&["rm", "-f", "ca"]);
    wait_for("a's GPUs", Duration::from_secs(10), || {
        node.docker(&["run", "--rm", "--gpus", "2", "busybox", "true"]).code == 0
    });
    assert_eq!(runs(&node, "cf", &["--gpus", "2"]), a);
    node.check();
}

#[test]
fn named_gpus_are_those_or_none() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let wanted: BTreeSet<u32> = [node.minor(1), node.minor(2)].into();
    assert_ne!(wanted, [1, 2].into(), "a profile where index is not minor");
    assert_eq!(runs(&node, "ca", &["--gpus", "\"device=1,2\""]), wanted);
    refused(&run(&node, "cb", &["--gpus", "\"device=2,4\""]), &["GPU 2", "ca"]);
    assert_eq!(node.leases().len(), 2, "nothing of a refused claim stays");
    let uuid = node.gpus()[4].uuid.clone();
    assert_eq!(runs(&node, "cc", &["--gpus", &format!("device={uuid}")]), [node.minor(4)].into());
    refused(&run(&node, "cd", &["--gpus", "device=17"]), &["17"]);
    refused(
        &run(&node, "ce", &["--gpus", "device=GPU-00000000-0000-0000-0000-000000000000"]),
        &["GPU-0"],
    );
    node.check();
}

#[test]
fn all_means_all_and_is_refused_while_one_is_taken() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    assert_eq!(runs(&node, "ca", &["--gpus", "all"]).len(), 8);
    node.docker_ok(&["rm", "-f", "ca"]);
    wait_for("the GPUs", Duration::from_secs(10), || {
        node.docker(&["run", "--rm", "--gpus", "all", "busybox", "true"]).code == 0
    });
    runs(&node, "one", &["--gpus", "1"]);
    refused(&run(&node, "cb", &["--gpus", "all"]), &["7"]);
    assert_eq!(node.leases().len(), 1);
    node.check();
}

#[test]
fn a_device_node_is_a_claim_under_any_name() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    assert_eq!(runs(&node, "ca", &["--device", "/dev/nvidia3"]), [3].into());
    refused(&run(&node, "cb", &["--device", "/dev/nvidia3"]), &["ca"]);
    refused(&run(&node, "cc", &["--device", "/dev/nvidia3:/dev/innocent"]), &["ca"]);
    assert_eq!(
        runs(&node, "cd", &["--device", "/dev/nvidia5", "--device", "/dev/nvidia6"]),
        [5, 6].into()
    );
    // A mount opens nothing, and is no request.
    let got = run(&node, "ce", &["-v", "/dev/nvidia7:/dev/nvidia7"]);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(probe::opens(&node, "ce"), [].into());
    node.check();
}

#[test]
fn wildcard_rules_open_no_gpu() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let taken = runs(&node, "one", &["--gpus", "1"]);
    for (name, rule) in [("ca", "c 195:* rwm"), ("cb", "c *:* rwm"), ("cc", "a *:* rwm")] {
        let got = run(&node, name, &["--device-cgroup-rule", rule]);
        assert_eq!(got.code, 0, "{rule}: {got}");
        assert_eq!(probe::opens(&node, name), [].into(), "{rule}");
    }
    let minor = *taken.first().expect("one");
    refused(&run(&node, "cd", &["--device-cgroup-rule", &format!("c 195:{minor} rwm")]), &["one"]);
    node.check();
}

#[test]
fn a_privileged_container_has_the_gpus_that_it_leases() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    assert_eq!(runs(&node, "none", &["--privileged"]), [].into());
    node.docker_ok(&["exec", "none", "sh", "-c", "echo x >/dev/null && ls /dev/zero"]);
    assert_eq!(runs(&node, "one", &["--privileged", "--gpus", "1"]).len(), 1);
    node.check();
}

#[test]
fn an_image_that_names_all_gpus_asks_for_none() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.docker_ok(&["run", "-d", "--name", "ca", "cuda-like", "sleep", "100000"]);
    assert_eq!(probe::opens(&node, "ca"), [].into());
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "cb",
        "-e",
        "NVIDIA_VISIBLE_DEVICES=all",
        "busybox",
        "sleep",
        "100000",
    ]);
    assert_eq!(probe::opens(&node, "cb"), [].into());
    assert!(node.leases().is_empty());
    node.docker_ok(&["run", "-d", "--name", "cc", "--gpus", "2", "cuda-like", "sleep", "100000"]);
    assert_eq!(probe::opens(&node, "cc").len(), 2, "not all, whatever the image says");
    node.check();
}

#[test]
fn whatever_ends_a_container_frees_its_gpus() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    // On the books or not: who asks gets them.
    let free = |what: &str| {
        wait_for(what, Duration::from_secs(15), || {
            node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]).code == 0
        });
    };
    node.docker_ok(&["run", "--rm", "--gpus", "8", "busybox", "true"]);
    free("exit with --rm");
    assert_eq!(node.docker(&["run", "--gpus", "8", "busybox", "sh", "-c", "exit 7"]).code, 7);
    free("exit with an error");
    for (name, command) in [("ca", "kill"), ("cb", "stop")] {
        assert_eq!(runs(&node, name, &["--gpus", "8", "--stop-timeout", "0"]).len(), 8);
        node.docker_ok(&[command, name]);
        free(command);
    }
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--gpus",
        "8",
        "busybox",
        "sh",
        "-c",
        "exec sleep 100000",
    ]);
    let pid: i32 =
        node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", "cc"]).parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    free("kill -9 of init");
    assert_ne!(node.docker(&["run", "--gpus", "8", "busybox", "/no/such/program"]).code, 0);
    free("a program that is not there");
    node.check();
}

#[test]
fn a_container_that_docker_restarts_keeps_its_gpu_and_a_refused_start_says_why() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    node.docker_ok(&[
        "run",
        "-d",
        "--name",
        "crash",
        "--restart",
        "always",
        "--gpus",
        "8",
        "busybox",
        "sleep",
        "1",
    ]);
    let until = std::time::Instant::now() + Duration::from_secs(6);
    while std::time::Instant::now() < until {
        refused(&node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]), &["crash"]);
        assert_eq!(node.leases().len(), 8);
    }
    node.docker_ok(&["create", "--name", "late", "--gpus", "1", "busybox", "sleep", "100000"]);
    let got = node.docker(&["start", "late"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("gpuctl: ") && got.stderr.contains("crash"), "{got}");
    let kept = node.docker_ok(&["inspect", "--format", "{{.State.Error}}", "late"]);
    assert!(kept.contains("gpuctl: "), "{kept}");
    node.docker_ok(&["rm", "-f", "crash"]);
    wait_for("crash's GPUs", Duration::from_secs(15), || node.docker(&["start", "late"]).code == 0);
    assert_eq!(probe::opens(&node, "late").len(), 1);
    node.check();
}

#[test]
fn docker_restart_keeps_the_gpus_while_others_wait_for_them() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let before = runs(&node, "ca", &["--gpus", "8", "--stop-timeout", "0"]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (node, done) = (&node, &done);
        let other = scope.spawn(move || {
            let mut refusals = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let got = node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]);
                refused(&got, &["free"]);
                refusals += 1;
            }
            refusals
        });
        for _ in 0..3 {
            let got = node.docker(&["restart", "-t", "0", "ca"]);
            assert_eq!(got.code, 0, "{got}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(other.join().expect("the competitor was refused each time") > 0);
    });
    assert_eq!(probe::opens(&node, "ca"), before);
    node.check();
}

#[test]
fn many_at_once_share_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let node = &node;
        let start =
            |n: usize| scope.spawn(move || run(node, &format!("c{n}"), &["--gpus", "1"]).code);
        let threads: Vec<_> = (0..12).map(start).collect();
        threads.into_iter().map(|t| t.join().expect("a code")).collect()
    });
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 8, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 125).count(), 4, "{codes:?}");
    assert_eq!(node.leases().len(), 8);
    node.check();
}

fn without_a_ledger(node: &Node) {
    node.docker_ok(&["run", "--rm", "busybox", "true"]);
    let began = std::time::Instant::now();
    refused(&node.docker(&["run", "--rm", "--gpus", "1", "busybox", "true"]), &["ledger"]);
    assert!(began.elapsed() < Duration::from_secs(20), "a hook is bounded: {:?}", began.elapsed());
    node.docker_ok(&["run", "--rm", "busybox", "true"]);
}

#[test]
fn without_its_sqlite_ledger_only_gpu_containers_are_refused() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    runs(&node, "before", &["--gpus", "1"]);
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let path = node.place().state().join(name);
        if path.exists() {
            std::fs::write(&path, "this is no ledger, ".repeat(1000)).unwrap();
        }
    }
    without_a_ledger(&node);
    assert_eq!(probe::opens(&node, "before").len(), 1, "what runs is left alone");
}

#[test]
fn without_its_etcd_only_gpu_containers_are_refused() {
    if !engine_runs_here() {
        return;
    }
    let mut node = Node::start(Options { ledger: Ledger::Etcd(1), ..Options::default() });
    runs(&node, "before", &["--gpus", "1"]);
    node.etcd().pause(true).unwrap();
    without_a_ledger(&node);
    node.etcd().pause(false).unwrap();
    node.etcd().wait().unwrap();
    runs(&node, "between", &["--gpus", "1"]);
    node.etcd().kill(0).unwrap();
    without_a_ledger(&node);
    assert_eq!(probe::opens(&node, "before").len(), 1, "what runs is left alone");
    node.etcd().restart(0).unwrap();
    node.etcd().wait().unwrap();
    assert_eq!(runs(&node, "after", &["--gpus", "6"]).len(), 6);
    node.check();
}
