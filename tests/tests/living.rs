//! Living with it: refused starts that come up later, boots in any order, GPUs that are not clean.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Ledger, Node, Options, engine_runs_here, probe, programs, state};
use serde_json::{Value, json};

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];
/// Longer than the service takes to see what is so: it looks every two seconds.
const SEEN: Duration = Duration::from_secs(15);
/// Longer than a refused start waits for its third try.
const TRIED: Duration = Duration::from_secs(30);

fn served(ledger: Ledger) -> Node {
    Node::start(Options { service: true, ledger, ..Options::default() })
}

fn managed(node: &Node, flags: &[&str]) {
    node.gpuctl_ok(&[&["run", "-d"], flags, &LONG[..]].concat());
}

/// The row of `ps` of a container, by its name there; without -a.
fn row(node: &Node, name: &str) -> Option<Value> {
    let text = node.gpuctl_ok(&["ps", "--format", "json"]);
    let mut rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    rows.find(|r| r["name"] == name)
}

fn is_up(node: &Node, container: &str) -> bool {
    node.docker(&["exec", container, "true"]).code == 0
}

/// The row of `gpus` of a GPU.
fn gpu(node: &Node, index: u32) -> Value {
    let text = node.gpuctl_ok(&["gpus", "--format", "json"]);
    let mut rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    rows.find(|r| r["index"] == index).expect("a GPU with this index")
}

fn health(node: &Node, index: u32) -> String {
    gpu(node, index)["health"].as_str().expect("a text").to_owned()
}

/// Starts a container with one GPU by name.
fn one(node: &Node, index: u32) -> gpuctl_tests::Output {
    let device = format!("device={index}");
    node.docker(&["run", "--rm", "--gpus", &device, "busybox", "true"])
}

#[track_caller]
fn refused(got: &gpuctl_tests::Output, words: &[&str]) {
    assert_eq!(got.code, 125, "{got}");
    for word in words {
        assert!(got.stderr.contains(word), "no {word:?} in\n{got}");
    }
}

/// The decisions of the audit log with this word.
fn decided(node: &Node, word: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(node.place().state().join("audit.log")).unwrap_or_default();
    let all = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    all.filter(|line| line["decision"] == word).collect()
}

/// Gives the node the GPUs of a100x8, changed.
fn show(node: &Node, change: impl FnOnce(&mut Value)) {
    let text = std::fs::read(programs::profile("a100x8")).expect("a profile");
    let mut profile: Value = serde_json::from_slice(&text).expect("JSON");
    change(&mut profile["gpus"]);
    let path: PathBuf = node.place().at("changed-profile.json");
    std::fs::write(&path, profile.to_string()).expect("written");
    node.set_profile_file(&path);
}

fn with_process(node: &Node, index: u32, pid: u32) {
    let on = json!([{"pid": pid, "memory": 20u64 << 30}]);
    show(node, |gpus| gpus[index as usize]["processes"] = on);
}

#[test]
fn a_restart_refused_without_the_ledger_comes_up_when_it_answers() {
    if !engine_runs_here() {
        return;
    }
    let mut node = served(Ledger::Etcd(1));
    assert_eq!(run(&node, "back", &["--gpus", "2", "--restart", "always"]).code, 0);
    assert_eq!(run(&node, "plain", &["--gpus", "1"]).code, 0);
    managed(&node, &["--name", "train", "--gpus", "3", "--restart", "unless-stopped"]);
    let before = probe::opens(&node, "train-0");
    node.etcd().kill(0).unwrap();
    for name in ["back", "train-0", "plain"] {
        let got = node.docker(&["restart", "-t", "0", name]);
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("ledger"), "{got}");
        let waits = got.stderr.contains("the gpuctl service");
        assert_eq!(waits, name != "plain", "only who has a restart policy is told that\n{got}");
    }
    // Without the ledger ps knows no more than what waits for it, and says that.
    let got = node.gpuctl(&["ps"]);
    assert_eq!(got.code, 1, "{got}");
    assert!(got.stderr.contains("back: refused once") && got.stderr.contains("train-0: "), "{got}");
    assert!(!got.stderr.contains("plain"), "{got}");
    // A service that was not there when they were refused knows of them too.
    node.kill_service();
    node.start_service();
    node.etcd().restart(0).unwrap();
    node.etcd().wait().unwrap();
    wait_for("both again", TRIED, || is_up(&node, "back") && is_up(&node, "train-0"));
    assert_eq!(probe::opens(&node, "train-0"), before, "those it had");
    assert_eq!(probe::opens(&node, "back").len(), 2);
    assert!(!is_up(&node, "plain"), "Docker would not have started it again");
    assert_eq!(row(&node, "train").expect("it runs")["refused"], Value::Null);
    node.check();
}

#[test]
fn a_start_refused_for_gpus_that_are_held_comes_up_when_they_are_free() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    assert_eq!(run(&node, "waits", &["--gpus", "2", "--restart", "always"]).code, 0);
    managed(&node, &["--name", "train", "--gpus", "1", "--restart", "always"]);
    node.docker_ok(&["stop", "-t", "0", "waits", "train-0"]);
    wait_for("their GPUs", SEEN, || {
        run(&node, "all", &["--gpus", "8"]).code == 0 || {
            node.docker(&["rm", "-f", "all"]);
            false
        }
    });
    for name in ["waits", "train-0"] {
        let got = node.docker(&["start", name]);
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("0 free") && got.stderr.contains("always"), "{got}");
    }
    // Named GPUs that are not there, and more than there are, come by no waiting.
    for (name, gpus) in [("never", "device=17"), ("more", "9")] {
        let got = run(&node, name, &["--gpus", gpus, "--restart", "always"]);
        assert_eq!(got.code, 125, "{got}");
        assert!(!got.stderr.contains("service"), "{got}");
    }
    let bare = row(&node, "waits").expect("ps shows who waits");
    assert_eq!((&bare["version"], &bare["gpus"]), (&Value::Null, &json!("2")), "{bare}");
    assert_eq!(bare["refused"]["waits_for"], "gpus", "{bare}");
    assert_eq!(bare["refused"]["tries"], 1, "{bare}");
    let status = bare["status"].as_str().expect("a text");
    assert!(status.contains("refused once: 2 GPUs asked for, 0 free on node1"), "{bare}");
    assert_eq!(row(&node, "train").expect("ps shows it")["refused"]["tries"], 1);
    assert_eq!((row(&node, "never"), row(&node, "more")), (None, None));
    assert_eq!(node.gpuctl_ok(&["ps", "-q"]).lines().count(), 1, "ids of managed ones only");

    // Stopped by hand it is given up; while GPUs are held nothing is tried in vain.
    node.gpuctl_ok(&["stop", "train"]);
    assert_eq!(row(&node, "train"), None);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(row(&node, "waits").expect("it waits")["refused"]["tries"], 1);
    assert!(!is_up(&node, "waits"));
    node.docker_ok(&["rm", "-f", "all"]);
    wait_for("waits", TRIED, || is_up(&node, "waits"));
    assert_eq!(probe::opens(&node, "waits").len(), 2);
    assert_eq!(row(&node, "waits"), None, "what runs docker ps shows");
    std::thread::sleep(Duration::from_secs(3));
    assert!(!is_up(&node, "train-0") && !is_up(&node, "never"));
    node.check();
}

#[test]
fn a_refused_start_is_forgotten_with_its_policy_or_its_container() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    assert_eq!(run(&node, "all", &["--gpus", "8"]).code, 0);
    for name in ["updated", "removed", "by-hand"] {
        // Never started, it is what its user asked for: that is said, and it comes up.
        let got = run(&node, name, &["--gpus", "1", "--restart", "always"]);
        refused(&got, &["restart policy always"]);
    }
    let notes = || std::fs::read_dir(node.place().state().join("refused")).unwrap().count();
    assert_eq!(notes(), 3);
    // That its user does not want it any more Docker does not write down of one that does not run: so
    // it comes up all the same, as docs/living.md says.
    let before = state::written_by_docker(&node, "by-hand");
    node.docker_ok(&["stop", "by-hand"]);
    assert_eq!(state::written_by_docker(&node, "by-hand"), before);
    assert!(!before.1);
    node.docker_ok(&["update", "--restart", "no", "updated"]);
    node.docker_ok(&["rm", "removed"]);
    wait_for("the forgetting of two", TRIED, || notes() == 1);
    node.docker_ok(&["rm", "-f", "all"]);
    wait_for("the third", TRIED, || is_up(&node, "by-hand"));
    assert!(!is_up(&node, "updated"));
    wait_for("the forgetting of the third", SEEN, || notes() == 0);
    node.check();
}

/// What comes up at a boot, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Docker,
    Etcd,
    Service,
}

/// Boots with the parts in this order, and sees that all is as it was.
#[track_caller]
fn boots(node: &mut Node, order: &[Part]) {
    let of = |node: &Node| (probe::opens(node, "back"), probe::opens(node, "train-0"));
    let before = of(node);
    let gone = run(node, "gone", &["--gpus", "1"]);
    assert_eq!(gone.code, 0, "{gone}");
    assert_eq!(node.leases().len(), 5);
    node.power_off();
    if order.contains(&Part::Etcd) {
        node.etcd().kill(0).unwrap();
    }
    for part in order {
        match part {
            Part::Docker => node.start_engine(),
            Part::Service => node.start_service(),
            Part::Etcd => {
                node.etcd().restart(0).unwrap();
                node.etcd().wait().unwrap();
            }
        }
    }
    // Reserved for who comes back: whatever has started by now, others do not get them.
    let got = node.docker(&["run", "--rm", "--gpus", "5", "busybox", "true"]);
    assert_eq!(got.code, 125, "{order:?}\n{got}");
    wait_for(&format!("both, in the order {order:?}"), TRIED, || {
        is_up(node, "back") && is_up(node, "train-0")
    });
    assert_eq!(of(node), before, "{order:?}: those that they had");
    wait_for("the lease of who is gone", SEEN, || node.leases().len() == 4);
    node.docker_ok(&["rm", "gone"]);
    node.check();
}

fn to_boot(ledger: Ledger) -> Node {
    let node = served(ledger);
    assert_eq!(run(&node, "back", &["--gpus", "2", "--restart", "always"]).code, 0);
    managed(&node, &["--name", "train", "--gpus", "2", "--restart", "unless-stopped"]);
    node
}

#[test]
fn a_boot_with_etcd_comes_up_in_any_order() {
    if !engine_runs_here() {
        return;
    }
    use Part::{Docker, Etcd, Service};
    let mut node = to_boot(Ledger::Etcd(1));
    for order in [
        [Docker, Etcd, Service],
        [Docker, Service, Etcd],
        [Etcd, Docker, Service],
        [Etcd, Service, Docker],
        [Service, Docker, Etcd],
        [Service, Etcd, Docker],
    ] {
        boots(&mut node, &order);
    }
}

#[test]
fn a_boot_with_sqlite_comes_up_in_any_order() {
    if !engine_runs_here() {
        return;
    }
    let mut node = to_boot(Ledger::Sqlite);
    boots(&mut node, &[Part::Docker, Part::Service]);
    boots(&mut node, &[Part::Service, Part::Docker]);
}

#[test]
fn a_gpu_with_a_leftover_process_is_held_until_it_is_clean() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    managed(&node, &["--name", "train", "--gpus", "device=2"]);
    let pid = node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", "train-0"]);
    let pid: u32 = pid.parse().expect("a pid");
    with_process(&node, 2, pid);
    wait_for("a look at its process", SEEN, || {
        let text = std::fs::read_to_string(node.place().run().join("watch.json"));
        text.is_ok_and(|text| text.contains("\"inside\"") && text.contains(&pid.to_string()))
    });
    assert_eq!(health(&node, 2), "ok", "its own process is as it should be");
    // It ends, and the driver still shows its process.
    node.gpuctl_ok(&["rm", "-f", "train"]);
    wait_for("the quarantine", SEEN, || health(&node, 2).contains("quarantined"));
    let said = health(&node, 2);
    assert!(
        said.contains(&format!("process {pid}")) && said.contains("train-0 has ended"),
        "{said}"
    );
    refused(&one(&node, 2), &["quarantined", &pid.to_string()]);
    refused(&node.docker(&["run", "--rm", "--gpus", "8", "busybox", "true"]), &["7 free"]);
    node.docker_ok(&["run", "--rm", "--gpus", "7", "busybox", "true"]);
    let lines = decided(&node, "quarantined");
    assert_eq!((lines.len(), &lines[0]["name"]), (1, &json!("train-0")), "{lines:?}");

    // Without the service, and after a new start of it.
    node.kill_service();
    std::thread::sleep(Duration::from_secs(6));
    refused(&one(&node, 2), &["quarantined"]);
    node.start_service();
    std::thread::sleep(Duration::from_secs(5));
    refused(&one(&node, 2), &["quarantined"]);
    assert_eq!(decided(&node, "quarantined").len(), 1, "told once");

    node.set_profile("a100x8");
    wait_for("a clean GPU", SEEN, || health(&node, 2) == "ok");
    assert_eq!(one(&node, 2).code, 0);
    assert_eq!(decided(&node, "cleared").len(), 1);
    node.check();
}

/// A pid that no process has: above what the kernel gives out.
fn nobody() -> u32 {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
    most.trim().parse::<u32>().expect("a number") + 7
}

#[test]
fn doctor_names_what_is_in_quarantine_and_clears_it_by_hand() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    let pid = nobody();
    with_process(&node, 4, pid);
    wait_for("the quarantine", SEEN, || health(&node, 4).contains("quarantined"));
    let got = node.gpuctl(&["doctor"]);
    assert_eq!(got.code, 1, "{got}");
    let line = got.stdout.lines().find(|l| l.starts_with("quarantine")).expect("a line").to_owned();
    assert!(line.contains("GPU 4") && line.contains(&pid.to_string()), "{got}");
    assert!(got.stdout.contains("doctor --fix clears it by hand"), "{got}");
    refused(&one(&node, 4), &["quarantined"]);
    let got = node.gpuctl(&["doctor", "--fix"]);
    assert!(got.stdout.contains("cleared by hand"), "{got}");
    // The driver still shows it, and somebody has said that it may.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(health(&node, 4), "ok");
    assert_eq!(one(&node, 4).code, 0);
    let lines = decided(&node, "cleared");
    assert_eq!((lines.len(), &lines[0]["user"]), (1, &json!("root")), "{lines:?}");
    // Gone, and there again, it is another one.
    node.set_profile("a100x8");
    std::thread::sleep(Duration::from_secs(5));
    with_process(&node, 4, pid);
    wait_for("the quarantine", SEEN, || health(&node, 4).contains("quarantined"));
    node.set_profile("a100x8");
    wait_for("a clean GPU", SEEN, || health(&node, 4) == "ok");
    node.check();
}

#[test]
fn a_fatal_xid_holds_a_gpu_until_it_was_reset_and_a_programs_own_does_not() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    for own in [13, 31, 43, 45, 68, 109] {
        show(&node, |gpus| gpus[6]["fault"] = json!({ "xid": own }));
        std::thread::sleep(Duration::from_millis(1200));
    }
    node.set_profile("xid");
    wait_for("the quarantine", SEEN, || health(&node, 3).contains("XID 79"));
    assert_eq!(health(&node, 6), "ok", "a program's own fault");
    refused(&one(&node, 3), &["quarantined", "XID 79"]);
    // That it answers proves nothing; nor does a new start of the service, nor that there is none.
    node.set_profile("a100x8");
    node.kill_service();
    refused(&one(&node, 3), &["quarantined", "XID 79"]);
    node.start_service();
    std::thread::sleep(Duration::from_secs(5));
    refused(&one(&node, 3), &["quarantined", "XID 79"]);
    // A card that ceases to answer, and answers again, was reset.
    show(&node, |gpus| gpus[3]["fault"] = json!("reset"));
    wait_for("its silence", SEEN, || {
        let text = std::fs::read_to_string(node.place().run().join("quarantine.json"));
        text.is_ok_and(|text| text.contains("needs a reset"))
    });
    node.set_profile("a100x8");
    wait_for("a clean GPU", SEEN, || health(&node, 3) == "ok");
    assert_eq!(one(&node, 3).code, 0);
    // By hand, and by a reboot.
    for by_hand in [true, false] {
        node.set_profile("xid");
        wait_for("the quarantine", SEEN, || health(&node, 3).contains("XID 79"));
        node.set_profile("a100x8");
        if by_hand {
            node.gpuctl(&["doctor", "--fix"]);
        } else {
            node.reboot();
        }
        wait_for("a clean GPU", SEEN, || health(&node, 3) == "ok");
        assert_eq!(one(&node, 3).code, 0);
    }
    node.check();
}

#[test]
fn a_card_off_the_bus_is_held_and_comes_back_by_itself() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    node.set_profile("lost-card");
    wait_for("the quarantine", SEEN, || decided(&node, "quarantined").len() == 1);
    let said = health(&node, 5);
    assert!(said.contains("quarantined") && said.contains("it fell off the bus"), "{said}");
    refused(&one(&node, 5), &["fell off the bus"]);
    node.kill_service();
    std::thread::sleep(Duration::from_secs(6));
    refused(&one(&node, 5), &["fell off the bus"]);
    // Nobody can say by hand that it is well.
    let got = node.gpuctl(&["doctor", "--fix"]);
    assert_eq!(got.code, 1, "{got}");
    refused(&one(&node, 5), &["fell off the bus"]);
    node.start_service();
    node.set_profile("a100x8");
    wait_for("the card", SEEN, || one(&node, 5).code == 0);
    assert_eq!(decided(&node, "quarantined").len(), 1);
    assert_eq!(decided(&node, "cleared").len(), 1);
    node.check();
}

/// A process of the machine, which ends with this value.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_without_a_lease_is_shown_and_left_alone_and_its_gpu_not_granted() {
    if !engine_runs_here() {
        return;
    }
    let node = served(Ledger::Sqlite);
    let mut stranger = Stranger(Command::new("sleep").arg("1000").spawn().expect("sleep starts"));
    let pid = stranger.0.id();
    with_process(&node, 1, pid);
    let busy = format!("busy: process {pid} (sleep)");
    wait_for("the look", SEEN, || health(&node, 1) == busy);
    wait_for("the service's look", SEEN, || one(&node, 1).code == 125);
    refused(&one(&node, 1), &[&format!("process {pid}"), "without a lease"]);
    let got = node.gpuctl(&["doctor"]);
    let words = format!("process {pid} (sleep) without a lease");
    assert!(got.stdout.lines().any(|l| l.starts_with("processes") && l.contains(&words)), "{got}");
    assert!(decided(&node, "quarantined").is_empty(), "it is no leftover");
    node.gpuctl(&["doctor", "--fix"]);
    assert_eq!(stranger.0.try_wait().expect("it can be asked"), None, "nothing kills it");
    refused(&one(&node, 1), &[&format!("process {pid}")]);
    // Also on a GPU that somebody has.
    let taken: BTreeSet<u32> = [node.minor(3)].into();
    managed(&node, &["--name", "train", "--gpus", "device=3"]);
    assert_eq!(probe::opens(&node, "train-0"), taken);
    with_process(&node, 3, pid);
    let with = format!("ok; without a lease: process {pid} (sleep)");
    wait_for("the look", SEEN, || health(&node, 3) == with);
    node.set_profile("a100x8");
    drop(stranger);
    wait_for("a free GPU", SEEN, || one(&node, 1).code == 0);
    node.check();
}
