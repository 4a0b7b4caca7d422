//! kill -9 at every step of every change to a volume, two changes at once, and a disk that is full. After
//! each, the volume is exactly what it was or exactly what was asked for, and nothing is left over.

use std::collections::BTreeSet;
use std::path::Path;

use gpuctl_tests::state::{self, Records};
use gpuctl_tests::{Node, Options, Output, engine_runs_here};

fn node() -> Node {
    Node::start(Options { volumes: Some(""), ..Options::default() })
}

/// Everything that volumes have on the node: files, mounts, Docker's volumes, loop devices.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    files: BTreeSet<String>,
    mounts: usize,
    docker: BTreeSet<String>,
    devices: usize,
}

/// A node without volumes, with its ledger and its traces as they are then.
fn empty() -> (Node, Records, Traces) {
    let node = node();
    node.gpuctl_ok(&["volume", "ls"]);
    let (nothing, clean) = (state::ledger(&node), traces(&node));
    (node, nothing, clean)
}

fn traces(node: &Node) -> Traces {
    let images = node.place().at("volumes");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let below = format!(" {}/", images.display());
    let devices = std::fs::read_dir("/sys/block").expect("devices").flatten().filter(|d| {
        let file = std::fs::read_to_string(d.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim_end()).starts_with(&images)
    });
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut files = names(&images);
    files.remove("mounts");
    files.extend(names(&images.join("mounts")).into_iter().map(|n| format!("mounts/{n}")));
    Traces {
        files,
        mounts: mounts.lines().filter(|l| l.contains(&below)).count(),
        docker: node.docker_ok(&["volume", "ls", "-q"]).lines().map(str::to_owned).collect(),
        devices: devices.count(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Undone,
    Done,
    /// Done, and its journal was gone already: there is nothing to say.
    Silent,
}
use End::{Done, Silent, Undone};

/// Kills a command at a point; has the next one, or doctor, end it; what that said.
fn broken(node: &Node, point: &str, words: &[&str], by_doctor: bool, end: End) -> Output {
    node.gpuctl_killed_at(point, words);
    let got = match by_doctor {
        true => node.gpuctl(&["doctor", "--fix"]),
        // It asks nothing of the volume but what ends a change first.
        false => node.gpuctl(&["volume", "resize", "data", "1GB", "--dry-run"]),
    };
    let said = format!("{}{}", got.stdout, got.stderr);
    let text = match end {
        Undone => "was broken off: it is undone",
        Done => "was broken off: it is done",
        Silent => "",
    };
    assert!(said.contains(text), "{point}: {got}");
    assert!(end != Silent || !said.contains("was broken off:"), "{point}: {got}");
    got
}

#[test]
fn create_is_whole_or_nothing() {
    if !engine_runs_here() {
        return;
    }
    let (node, nothing, clean) = empty();
    for by_doctor in [false, true] {
        for (point, end) in [
            ("volume-create:make:begun", Undone),
            ("image:file", Undone),
            ("image:formatted", Undone),
            ("image:mounted", Undone),
            ("image:unit", Undone),
            ("volume-create:make:done", Undone),
            ("volume-create:end:done", Silent),
        ] {
            broken(&node, point, &["volume", "create", "data", "--size", "16MB"], by_doctor, end);
            if end == Undone {
                assert_eq!(
                    state::difference(&nothing, &state::ledger(&node)),
                    Vec::<String>::new()
                );
                assert_eq!(traces(&node), clean, "{point}");
                continue;
            }
            assert!(node.gpuctl_ok(&["volume", "ls"]).contains("16MB"), "{point}");
            node.gpuctl_ok(&["volume", "rm", "--history", "data"]);
            assert_eq!(state::difference(&nothing, &state::ledger(&node)), Vec::<String>::new());
            assert_eq!(traces(&node), clean, "{point}");
        }
    }
}

const RUN: [&str; 6] = ["run", "--rm", "--network", "none", "-v", "data-0:/v"];

fn write(node: &Node, script: &str) -> String {
    node.docker_ok(&[&RUN[..], &["busybox", "sh", "-c", script]].concat())
}

#[test]
fn resize_is_the_old_volume_or_the_new_one() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    let sum = write(&node, "dd if=/dev/urandom of=/v/f bs=1M count=20 2>/dev/null; md5sum /v/f");
    let (before, clean) = (state::ledger(&node), traces(&node));
    let resize = ["volume", "resize", "data", "64MB"];
    for by_doctor in [false, true] {
        for (point, end) in [
            ("volume-resize:make:begun", Undone),
            ("volume-resize:make:done", Undone),
            ("volume-resize:copy:begun", Undone),
            ("volume-resize:copy:done", Undone),
        ] {
            broken(&node, point, &resize, by_doctor, end);
            assert_eq!(state::difference(&before, &state::ledger(&node)), Vec::<String>::new());
            assert_eq!(traces(&node), clean, "{point}");
        }
    }
    broken(&node, "volume-resize:end:done", &resize, true, Silent);
    assert!(node.gpuctl_ok(&["volume", "inspect", "data", "--format", "json"]).contains("data-1"));
    let run = ["run", "--rm", "--network", "none", "-v", "data-1:/v", "busybox", "sh", "-c"];
    assert_eq!(node.docker_ok(&[&run[..], &["md5sum /v/f"]].concat()), sum);
}

#[test]
fn in_place_is_the_old_limit_or_the_new_one() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    let sum = write(&node, "dd if=/dev/urandom of=/v/f bs=1M count=10 2>/dev/null; md5sum /v/f");
    let clean = traces(&node);
    let mut size = 32;
    for by_doctor in [false, true] {
        for (point, to, end) in [
            ("volume-in-place:offline:begun", 20, Undone),
            ("image:copied", 20, Undone),
            ("image:measured", 20, Undone),
            ("volume-in-place:offline:done", 20, Undone),
            ("volume-in-place:swap:begun", 20, Done),
            ("image:swapped", 28, Done),
            ("image:attached", 18, Done),
            ("volume-in-place:swap:done", 32, Done),
            ("volume-in-place:end:done", 24, Silent),
        ] {
            let wanted = format!("{to}MB");
            let words = ["volume", "resize", "data", &wanted, "--in-place"];
            broken(&node, point, &words, by_doctor, end);
            if end != Undone {
                size = to;
            }
            let shown = node.gpuctl_ok(&["volume", "ls"]);
            assert!(shown.contains(&format!("{size}MB")), "{point}: {shown}");
            assert_eq!(traces(&node), clean, "{point}");
            assert_eq!(write(&node, "md5sum /v/f"), sum, "{point}");
            let df = write(
                &node,
                "rm -f /v/x; dd if=/dev/zero of=/v/x bs=4096 2>/dev/null; stat -c %s /v/x; rm /v/x",
            );
            let got: u64 = df.trim().parse().expect("a number");
            let room = (size - 10) << 20;
            assert!(got <= room && room - got < 128 << 10, "{point}: {got} of {room}");
        }
    }
}

#[test]
fn rm_is_finished() {
    if !engine_runs_here() {
        return;
    }
    let (node, nothing, clean) = empty();
    for by_doctor in [false, true] {
        for (point, end) in [
            ("volume-rm:remove:begun", Done),
            ("image:forgotten", Done),
            ("image:unmounted", Done),
            ("image:removed", Done),
            ("volume-rm:remove:done", Done),
            ("volume-rm:end:done", Silent),
        ] {
            node.gpuctl_ok(&["volume", "create", "data", "--size", "16MB"]);
            broken(&node, point, &["volume", "rm", "--history", "data"], by_doctor, end);
            assert_eq!(state::difference(&nothing, &state::ledger(&node)), Vec::<String>::new());
            assert_eq!(traces(&node), clean, "{point}");
        }
    }
}

#[test]
fn of_two_resizes_at_once_each_makes_a_version_of_its_own() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    write(&node, "dd if=/dev/urandom of=/v/f bs=1M count=20 2>/dev/null");
    let made: BTreeSet<String> = std::thread::scope(|scope| {
        let each = |size| {
            scope.spawn({
                let node = &node;
                move || node.gpuctl_ok(&["volume", "resize", "data", size])
            })
        };
        let all = [each("64MB"), each("96MB"), each("128MB")];
        all.into_iter().map(|t| t.join().expect("resized")).collect()
    });
    assert_eq!(made, ["data-1", "data-2", "data-3"].map(str::to_owned).into());
    assert_eq!(node.gpuctl_ok(&["volume", "history", "data", "-q"]), "0\n1\n2\n3");
}

/// The user gives up, or the program is killed, in the middle of a copy: it is undone.
#[test]
fn a_copy_that_is_broken_off_in_the_middle_leaves_nothing() {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "400MB"]);
    write(
        &node,
        "cd /v; for d in $(seq 100); do mkdir $d; cd $d; seq 500 | xargs touch; cd ..; done",
    );
    let (before, clean) = (state::ledger(&node), traces(&node));
    let copied = node.place().at("volumes/mounts/data-1/data");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = node.spawn(&["gpuctl", "volume", "resize", "data", "500MB"]);
        gpuctl_tests::node::wait_for("the copy", std::time::Duration::from_secs(60), || {
            std::fs::read_dir(&copied).is_ok_and(|mut entries| entries.next().is_some())
        });
        let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        killpg(group, signal).expect("it runs");
        let ended = child.wait().expect("it ends");
        assert!(!ended.success(), "{signal}: {ended}");
        if signal == Signal::SIGKILL {
            let got = node.gpuctl(&["volume", "resize", "data", "1GB", "--dry-run"]);
            assert!(
                got.stderr
                    .contains("an earlier resize of volume data was broken off: it is undone"),
                "{got}"
            );
        } else {
            // The Docker CLI may end before the plugin, which is undoing it.
            gpuctl_tests::node::wait_for("the end", std::time::Duration::from_secs(60), || {
                traces(&node) == clean
            });
        }
        assert_eq!(traces(&node), clean, "{signal}");
        assert_eq!(
            state::difference(&before, &state::ledger(&node)),
            Vec::<String>::new(),
            "{signal}"
        );
    }
}
