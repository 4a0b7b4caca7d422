//! Which GPUs a container gets, with a real Engine: by links, by name and order, by what they are, MIG
//! devices, slots of shared GPUs; and what is said where it cannot be.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use gpuctl_sim::files::CAPS;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Node, Options, Output, engine_runs_here, probe};
use serde_json::{Value, json};

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

fn node(profile: &'static str, config: &str) -> Node {
    Node::start(Options { profile, config: config.into(), ..Options::default() })
}

/// A node whose inventory the product has asked of the driver by itself.
fn asked_node(profile: &'static str, config: &str) -> Node {
    let node = Node::start(Options {
        profile,
        config: config.into(),
        inventory: false,
        ..Options::default()
    });
    node.gpuctl_ok(&["gpus"]);
    node
}

/// The indexes of the GPUs that a container can open.
#[track_caller]
fn opens(node: &Node, name: &str) -> Vec<usize> {
    let minors = probe::opens(node, name);
    (0..node.gpus().len()).filter(|index| minors.contains(&node.minor(*index))).collect()
}

/// `docker run --name NAME FLAGS`, and the indexes of the GPUs that it can open.
#[track_caller]
fn bare(node: &Node, name: &str, flags: &[&str]) -> Vec<usize> {
    let got = run(node, name, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    opens(node, name)
}

/// `docker gpuctl run`, and the indexes of the GPUs that it can open.
#[track_caller]
fn managed(node: &Node, name: &str, gpus: &str) -> Vec<usize> {
    let got = try_managed(node, name, gpus);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    opens(node, &format!("{name}-0"))
}

fn try_managed(node: &Node, name: &str, gpus: &str) -> Output {
    let line = ["run", "-d", "--name", name, "--gpus", gpus, "--stop-timeout", "0"];
    node.gpuctl(&[&line[..], &LONG[..]].concat())
}

/// What is said on a terminal: the error, its rows and its hint, all of these among it.
#[track_caller]
fn refused(got: &Output, words: &[&str]) {
    assert!(got.code == 125 || got.code == 1, "{got}");
    for word in words {
        assert!(got.stderr.contains(word), "no {word:?} in\n{got}");
    }
    assert!(got.stderr.contains("hint: "), "{got}");
}

/// A variable of the container's first process: what the runtime gave it.
#[track_caller]
fn variable(node: &Node, name: &str, variable: &str) -> Option<String> {
    let text = node.docker_ok(&["exec", name, "cat", "/proc/1/environ"]);
    let all = text.split('\0').filter_map(|line| line.split_once('='));
    all.filter(|(key, _)| *key == variable).map(|(_, value)| value.to_owned()).next_back()
}

/// The minors of nvidia-caps that a container can open, of all that the node has and one more.
#[track_caller]
fn opens_caps(node: &Node, name: &str) -> BTreeSet<u32> {
    let mut minors: Vec<u32> =
        node.gpus().iter().flat_map(|g| g.mig().iter().flat_map(|m| m.caps)).collect();
    minors.push(200);
    let list = minors.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let script = format!(
        "for n in {list}; do rm -f /tmp/cap; mknod /tmp/cap c {CAPS} $n || exit 9; \
         echo \"$n $( {{ : </tmp/cap; }} 2>&1 )\"; done; rm -f /tmp/cap"
    );
    let got = node.docker(&["exec", name, "sh", "-c", &script]);
    assert_eq!((got.code, got.stdout.lines().count()), (0, minors.len()), "{got}");
    let open = got.stdout.lines().filter(|line| {
        let closed = line.ends_with("Operation not permitted");
        assert!(closed || line.ends_with("device or address"), "the probe met {line:?}");
        !closed
    });
    open.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

fn caps(node: &Node, mig: usize) -> BTreeSet<u32> {
    node.gpus()[0].mig()[mig].caps.into()
}

/// Gives the node a profile changed from one that there is.
fn change(node: &Node, profile: &str, edit: impl FnOnce(&mut Value)) {
    let from = gpuctl_tests::programs::profile(profile);
    let mut value: Value = serde_json::from_slice(&fs::read(from).unwrap()).unwrap();
    edit(&mut value);
    let path: PathBuf = node.place().root().join("changed.json");
    gpuctl_sim::files::write(&path, &value.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    node.set_profile_file(&path);
}

#[test]
fn linked_pairs_are_given_whole_and_left_whole() {
    if !engine_runs_here() {
        return;
    }
    let node = asked_node("a100x8-pairs", "");
    let matrix = node.gpuctl_ok(&["gpus", "--links"]);
    let second: Vec<&str> = matrix.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(second, ["GPU1", "NV1", "X", "NODE", "NODE", "SYS", "SYS", "SYS", "SYS"]);

    assert_eq!(bare(&node, "three", &["--gpus", "3"]), [0, 1, 2], "a pair, and of its socket");
    assert_eq!(bare(&node, "one", &["--gpus", "1"]), [3], "the one whose pair is broken");
    assert_eq!(managed(&node, "two", "2"), [4, 5]);
    assert_eq!(bare(&node, "also", &["--gpus", "1"]), [6]);
    node.docker_ok(&["rm", "-f", "three", "one"]);
    // What it held last it gets again, though better and lower ones are free now.
    node.gpuctl_ok(&["stop", "two"]);
    node.gpuctl_ok(&["start", "two"]);
    assert_eq!(opens(&node, "two-0"), [4, 5]);
    // More: the two that it has, and a whole pair.
    node.gpuctl_ok(&["scale", "two", "--gpus", "4"]);
    assert_eq!(opens(&node, "two-1"), [0, 1, 4, 5]);
    // Fewer: a pair of those.
    node.gpuctl_ok(&["scale", "two", "--gpus", "2"]);
    assert_eq!(opens(&node, "two-2").len(), 2);
    assert!([vec![0, 1], vec![4, 5]].contains(&opens(&node, "two-2")));
    node.check();
}

#[test]
fn an_order_that_was_named_is_kept_for_cuda() {
    if !engine_runs_here() {
        return;
    }
    let node = node("a100x8", "");
    let uuid = |index: usize| node.gpus()[index].uuid.clone();
    let cuda = "CUDA_VISIBLE_DEVICES";
    let wanted = Some(format!("{},{}", uuid(3), uuid(1)));
    assert_eq!(bare(&node, "ca", &["--gpus", "\"device=3,1\""]), [1, 3]);
    assert_eq!(variable(&node, "ca", cuda), wanted);
    let mixed = format!("device={},0", uuid(5));
    assert_eq!(managed(&node, "train", &mixed), [0, 5]);
    assert_eq!(variable(&node, "train-0", cuda), Some(format!("{},{}", uuid(5), uuid(0))));
    // The user's own word is his, and of a number nobody named an order.
    let own = format!("{cuda}=0");
    bare(&node, "own", &["--gpus", "\"device=7,6\"", "-e", &own]);
    assert_eq!(variable(&node, "own", cuda).as_deref(), Some("0"));
    bare(&node, "any", &["--gpus", "2"]);
    assert_eq!(variable(&node, "any", cuda), None);
    node.check();
}

#[test]
fn who_asks_cuda_for_what_it_did_not_get_is_told_in_the_log() {
    if !engine_runs_here() {
        return;
    }
    let node = node("a100x8", "");
    bare(&node, "first", &["--gpus", "1"]);
    assert_eq!(bare(&node, "wrong", &["--gpus", "2", "-e", "CUDA_VISIBLE_DEVICES=4,5"]), [1, 2]);
    bare(&node, "right", &["--gpus", "1", "-e", "CUDA_VISIBLE_DEVICES=0"]);
    bare(&node, "strip", &["--privileged", "-e", "CUDA_VISIBLE_DEVICES=6"]);
    bare(&node, "plain", &["-e", "CUDA_VISIBLE_DEVICES=6"]);
    let log = |name: &str| {
        let got = node.docker(&["logs", name]);
        assert_eq!(got.code, 0, "{got}");
        (got.stdout, got.stderr)
    };
    let (out, told) = log("wrong");
    assert_eq!(out, "", "its own output is left alone");
    for part in
        ["gpuctl: hint: ", "CUDA_VISIBLE_DEVICES=4,5", "2 GPUs", "on the host 1, 2", "device=4,5"]
    {
        assert!(told.contains(part), "{part}: {told:?}");
    }
    assert_eq!(told.lines().count(), 1, "{told:?}");
    assert!(log("strip").1.contains("has no GPU"));
    for quiet in ["right", "plain", "first"] {
        assert_eq!(log(quiet), (String::new(), String::new()), "{quiet}");
    }
    let audit = fs::read_to_string(node.place().state().join("audit.log")).unwrap();
    let lines = audit.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let hints: Vec<Value> = lines.filter(|line| line["decision"] == "hint").collect();
    let names: Vec<&str> = hints.iter().filter_map(|hint| hint["name"].as_str()).collect();
    assert_eq!(names, ["wrong", "strip"]);
    assert!(hints[0]["reason"].as_str().unwrap().contains("names 4"));
    node.check();
}

#[test]
fn gpus_are_asked_for_by_what_they_are() {
    if !engine_runs_here() {
        return;
    }
    let node = node("a100x8-pairs", "");
    change(&node, "a100x8-pairs", |profile| {
        for index in [1, 3, 5, 7] {
            profile["gpus"][index]["name"] = json!("NVIDIA H100 PCIe");
            profile["gpus"][index]["memory_total"] = json!(40u64 << 30);
        }
    });
    node.write_inventory();
    assert_eq!(managed(&node, "h100", "count=2,name=h100"), [1, 3]);
    assert_eq!(managed(&node, "large", "memory>=80GB"), [0]);
    assert_eq!(managed(&node, "both", "count=2,memory=40GB,name=H100"), [5, 7]);
    // None of that kind, too few of it, and none that is free are three things.
    let no = |gpus: &str, words: &[&str]| refused(&try_managed(&node, "no", gpus), words);
    no(
        "name=B200",
        &["1 GPU with name=B200 asked for", "no whole GPU of node1 is so", "4 x NVIDIA H100 PCIe"],
    );
    no("count=5,name=H100", &["5 GPUs with name=H100 asked for", "node1 has 4 of them"]);
    no(
        "name=H100",
        &["1 GPU with name=H100 asked for, 0 free on node1", "GPU 1  h100-0", "GPU 5  both-0"],
    );
    // Words that mean nothing change nothing, and say what there is.
    no("count=2,colour=red", &["error: ", "colour", "count, memory, name, mig, shared"]);
    no("memory>=much", &["memory>=40GB"]);
    assert!(node.docker_ok(&["ps", "-aq", "--filter", "name=no"]).is_empty());
    assert_eq!(node.leases().len(), 5);
    // A container keeps what it asked for.
    let got = node.gpuctl(&["scale", "large", "--gpus", "count=2,memory>40GB"]);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(opens(&node, "large-1"), [0, 2]);
    let ps = node.gpuctl_ok(&["ps"]);
    assert!(ps.contains("2 (0,2)"), "{ps}");
    node.gpuctl_ok(&["stop", "large"]);
    let ps = node.gpuctl_ok(&["ps", "-a"]);
    assert!(ps.contains("count=2,memory>40GB"), "{ps}");
    node.check();
}

#[test]
fn two_containers_have_two_mig_devices_of_one_gpu_and_each_opens_its_own() {
    if !engine_runs_here() {
        return;
    }
    let node = asked_node("mig1", "");
    let gpus = node.gpuctl_ok(&["gpus"]);
    for part in ["0:0", "0:1", "0:2", "MIG 1g.10gb", "cut into 3 MIG devices"] {
        assert!(gpus.contains(part), "{part}\n{gpus}");
    }
    // By place, by kind, by profile; by docker run and by docker gpuctl run.
    assert_eq!(bare(&node, "ca", &["--gpus", "device=0:1"]), [0]);
    assert_eq!(opens_caps(&node, "ca"), caps(&node, 1));
    assert_eq!(managed(&node, "cb", "mig=1g.10gb"), [0]);
    assert_eq!(opens_caps(&node, "cb-0"), caps(&node, 2));
    let shown = node.docker_ok(&["exec", "ca", "ls", "/dev/nvidia-caps"]);
    let names: Vec<String> = caps(&node, 1).iter().map(|n| format!("nvidia-cap{n}")).collect();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), names);

    // One and the same, twice; the GPU under them; a kind of which none is free.
    let no = |name: &str, flags: &[&str], words: &[&str]| refused(&run(&node, name, flags), words);
    no("n1", &["--gpus", "device=0:1"], &["GPU 0:1 of device=0:1 is not free", "ca", "since"]);
    no("n2", &["--gpus", "device=0"], &["GPU 0", "cut into MIG devices"]);
    no("n3", &["--gpus", "2"], &["2 GPUs asked for, 1 free"]);
    no("n4", &["--gpus", "device=0:7"], &["no GPU 0:7"]);
    refused(
        &try_managed(&node, "n5", "mig=1g.10gb"),
        &["1 MIG device with mig=1g.10gb", "GPU 0:1  ca"],
    );
    refused(&try_managed(&node, "n6", "mig=3g.40gb"), &["no MIG device of node1 is so", "2g.20gb"]);
    // What is left is another kind, and a plain number or all is a whole GPU.
    assert_eq!(bare(&node, "all", &["--gpus", "all"]), [1]);
    assert!(opens_caps(&node, "all").is_empty());
    let uuid = node.gpus()[0].mig()[0].uuid.clone();
    assert_eq!(bare(&node, "cd", &["--gpus", &format!("device={uuid}")]), [0]);
    assert_eq!(opens_caps(&node, "cd"), caps(&node, 0));
    let ps = node.gpuctl_ok(&["ps"]);
    assert!(ps.contains("1 (0:2)"), "{ps}");
    node.check();
}

#[test]
fn no_way_around_leads_to_another_mig_device() {
    if !engine_runs_here() {
        return;
    }
    let node = node("mig1", "");
    let held = caps(&node, 1);
    let other = *caps(&node, 0).iter().next().unwrap();
    let path = node.place().dev().join(format!("nvidia-caps/nvidia-cap{other}"));
    let device = format!("{}:/dev/mine", path.display());
    let (any, exact) = (format!("c {CAPS}:* rwm"), format!("c {CAPS}:{other} rwm"));
    for (name, flags) in [
        ("rule", &["--gpus", "device=0:1", "--device-cgroup-rule", &any][..]),
        ("exact", &["--gpus", "device=0:1", "--device-cgroup-rule", &exact]),
        ("node", &["--gpus", "device=0:1", "--device", &device]),
        ("every", &["--gpus", "device=0:1", "--device-cgroup-rule", "a *:* rwm"]),
        ("priv", &["--gpus", "device=0:1", "--privileged"]),
    ] {
        assert_eq!(bare(&node, name, flags), [0], "{name}");
        assert_eq!(opens_caps(&node, name), held, "{name}");
        node.docker_ok(&["rm", "-f", name]);
    }
    // Nor without a GPU at all.
    for (name, flags) in [
        ("r2", &["--device-cgroup-rule", &any][..]),
        ("r3", &["--device-cgroup-rule", &exact]),
        ("r4", &["--device", &device]),
        ("r5", &["--privileged"]),
    ] {
        assert_eq!(bare(&node, name, flags), [0; 0], "{name}");
        assert!(opens_caps(&node, name).is_empty(), "{name}");
    }
    node.check();
}

#[test]
fn a_gpu_that_is_held_keeps_its_mig_devices_and_a_stale_layout_is_refused() {
    if !engine_runs_here() {
        return;
    }
    let node = node("mig1", "");
    // Whole when a container got it, and cut since: it waits to be started again.
    change(&node, "mig1", |profile| profile["gpus"][0]["mig"] = Value::Null);
    node.write_inventory();
    let flags = ["--gpus", "device=0", "--restart", "always"];
    assert_eq!(bare(&node, "whole", &flags), [0]);
    node.set_profile("mig1");
    refused(&run(&node, "n1", &["--gpus", "device=0:0"]), &["no GPU 0:0"]);
    node.gpuctl_ok(&["gpus"]);
    refused(&run(&node, "n2", &["--gpus", "device=0:0"]), &["GPU 0:0", "whole", "holds GPU 0"]);
    refused(&try_managed(&node, "n3", "mig=1"), &["1 MIG device asked for, 0 free", "whole"]);
    node.docker_ok(&["rm", "-f", "whole"]);
    assert_eq!(bare(&node, "part", &["--gpus", "device=0:0"]), [0]);
    node.docker_ok(&["rm", "-f", "part"]);
    // Made anew while the inventory is old: another device may have its numbers.
    change(&node, "mig1", |profile| {
        profile["gpus"][0]["mig"][1]["gi"] = json!(8);
        profile["gpus"][0]["mig"][1]["caps"] = json!([75, 76]);
    });
    refused(
        &run(&node, "n4", &["--gpus", "device=0:1"]),
        &["MIG devices are others by now", "doctor --fix"],
    );
    refused(&run(&node, "n5", &["--gpus", "device=0:0"]), &["MIG devices are others by now"]);
    node.gpuctl_ok(&["gpus"]);
    assert_eq!(bare(&node, "anew", &["--gpus", "device=0:1"]), [0]);
    assert_eq!(opens_caps(&node, "anew"), [75, 76].into());
    node.check();
}

#[test]
fn one_container_a_slot_and_the_whole_gpu_or_its_slots() {
    if !engine_runs_here() {
        return;
    }
    let node = node("a100x8", "[[gpu.shared]]\ngpus = [6, 7]\nslots = 2\n");
    let gpus = node.gpuctl_ok(&["gpus"]);
    assert!(gpus.contains("6/0") && gpus.contains("7/1"), "{gpus}");
    // Spread over the shared GPUs first; a plain number takes the others.
    assert_eq!(managed(&node, "s0", "shared"), [6]);
    assert_eq!(managed(&node, "s1", "shared"), [7]);
    assert_eq!(bare(&node, "s2", &["--gpus", "device=shared"]), [6]);
    assert_eq!(managed(&node, "big", "6"), [0, 1, 2, 3, 4, 5]);
    refused(
        &try_managed(&node, "n1", "device=6"),
        &["GPU 6 of device=6 is not free", "holds GPU 6/"],
    );
    refused(&run(&node, "n2", &["--gpus", "1"]), &["1 GPU asked for, 0 free", "big-0"]);
    assert_eq!(managed(&node, "s3", "shared"), [7]);
    refused(
        &try_managed(&node, "n3", "shared"),
        &["1 slot of a shared GPU asked for, 0 free", "s0-0"],
    );
    let ps = node.gpuctl_ok(&["ps"]);
    assert!(ps.contains("1 (6/0)") && ps.contains("1 (7/1)"), "{ps}");
    // A whole GPU keeps its slots from others as well.
    node.gpuctl_ok(&["rm", "-f", "s1", "s3"]);
    assert_eq!(bare(&node, "whole", &["--gpus", "device=7"]), [7]);
    refused(&try_managed(&node, "n4", "shared"), &["0 free", "GPU 7/0  whole", "holds GPU 7"]);
    node.check_exclusive();
    // From a slot to a whole GPU and back, and to none.
    node.docker_ok(&["rm", "-f", "whole"]);
    node.gpuctl_ok(&["scale", "s0", "--gpus", "1"]);
    assert_eq!(opens(&node, "s0-1"), [7]);
    node.gpuctl_ok(&["scale", "s0", "--gpus", "shared"]);
    assert_eq!(opens(&node, "s0-2").len(), 1);
    let leases = node.leases();
    let mine: Vec<&String> =
        leases.iter().filter(|(_, l)| l.holder.shown() == "s0-2").map(|(unit, _)| unit).collect();
    assert!(mine.len() == 1 && mine[0].contains('/'), "{mine:?}");
    let got = node.gpuctl(&["scale", "s0", "--gpus", "shared", "--dry-run"]);
    assert_eq!(got.code, 0, "{got}");
    node.gpuctl_ok(&["scale", "s0", "--gpus", "0"]);
    assert_eq!(opens(&node, "s0-3"), [0; 0]);
    // Fewer slots by the config than are held: nobody new until there is room.
    node.edit_config(|text| text.replace("gpus = [6, 7]\nslots = 2", "gpus = [6]\nslots = 2"));
    assert_eq!(managed(&node, "s5", "shared"), [6]);
    refused(&try_managed(&node, "n6", "shared"), &["1 slot of a shared GPU asked for, 0 free"]);
    node.check();
}

#[test]
fn mig_devices_are_scaled_to_and_from() {
    if !engine_runs_here() {
        return;
    }
    let node = node("mig1", "");
    assert_eq!(managed(&node, "train", "1"), [1]);
    node.gpuctl_ok(&["scale", "train", "--gpus", "mig=1"]);
    assert_eq!(opens(&node, "train-1"), [0]);
    assert_eq!(opens_caps(&node, "train-1"), caps(&node, 1), "the smallest that will do");
    assert_eq!(bare(&node, "other", &["--gpus", "1"]), [1], "what it had is free");
    let got = node.gpuctl(&["scale", "train", "--gpus", "count=3,mig"]);
    assert_eq!(got.code, 0, "{got}");
    assert_eq!(opens_caps(&node, "train-2").len(), 6);
    node.gpuctl_ok(&["scale", "train", "--gpus", "device=0:2"]);
    assert_eq!(opens_caps(&node, "train-3"), caps(&node, 2));
    refused(
        &node.gpuctl(&["scale", "train", "--gpus", "1"]),
        &["1 GPU asked for, 0 free", "train-3 keeps"],
    );
    node.gpuctl_ok(&["scale", "train", "--gpus", "0"]);
    assert_eq!((opens(&node, "train-4"), opens_caps(&node, "train-4")), (vec![], [].into()));
    node.check();
}

#[test]
fn the_driver_tells_who_is_on_which_part() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { profile: "mig1", service: true, ..Options::default() });
    node.edit_config(|text| text + "[[gpu.shared]]\ngpus = [1]\nslots = 2\n");
    bare(&node, "part", &["--gpus", "device=0:1"]);
    bare(&node, "slot", &["--gpus", "device=shared"]);
    let pid = |name: &str| -> u32 {
        node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", name]).parse().unwrap()
    };
    let (part, slot, stranger) = (pid("part"), pid("slot"), std::process::id());
    change(&node, "mig1", |profile| {
        let on = |pid: u32| json!([{"pid": pid, "memory": 1 << 20}]);
        profile["gpus"][0]["mig"][1]["processes"] = on(part);
        profile["gpus"][0]["mig"][2]["processes"] = on(stranger);
        profile["gpus"][1]["processes"] = on(slot);
    });
    let once = |gpus: &str| node.docker(&["run", "--rm", "--gpus", gpus, "busybox", "true"]);
    wait_for("the service's look", Duration::from_secs(30), || once("device=0:2").code == 125);
    let words = format!("process {stranger}");
    refused(&once("device=0:2"), &["GPU 0:2", "in use without a lease", &words]);
    // Who has a part is on that part, and nobody's else is taken for it.
    for free in ["device=0:0", "device=shared"] {
        let got = once(free);
        assert_eq!(got.code, 0, "{free}\n{got}");
    }
    let rows = node.gpuctl_ok(&["gpus", "--format", "json"]);
    let row = |place: (u64, Value)| {
        let rows = rows.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        let mut rows = rows;
        rows.find(|r| r["index"] == place.0 && r["mig"] == place.1).unwrap()
    };
    assert_eq!(row((0, json!(1)))["processes"], json!([part]));
    assert_eq!(row((0, json!(1)))["health"], "ok");
    assert!(row((0, json!(2)))["health"].as_str().unwrap().contains(&words));
    node.check();
}

/// A process that has a node open, as far as that goes without a driver.
struct Opener(std::process::Child);

impl Opener {
    fn of(path: &std::path::Path) -> Self {
        let script = "sysopen(F, $ARGV[0], 010000000) or die; print 1; close STDOUT; sleep 600";
        let mut perl = std::process::Command::new("perl");
        perl.args(["-e", script]).arg(path).stdout(std::process::Stdio::piped());
        let mut child = perl.spawn().unwrap();
        use std::io::Read as _;
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "1");
        Self(child)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn alone_who_has_a_mig_device_opens_the_gpu_and_keeps_the_others_free() {
    if !engine_runs_here() {
        return;
    }
    let node = node("mig1", "");
    bare(&node, "ca", &["--gpus", "device=0:1"]);
    let opener = Opener::of(&node.place().dev().join(format!("nvidia{}", node.minor(0))));
    let pid = opener.0.id().to_string();
    refused(&run(&node, "n1", &["--gpus", "device=0:2"]), &["in use without a lease", &pid]);
    // The same process in the container that has a part of the GPU is no stranger on it.
    let lease = node.leases().into_values().next().unwrap();
    let cgroup = lease.evidence.cgroup.unwrap().folder;
    fs::write(PathBuf::from(cgroup).join("cgroup.procs"), &pid).unwrap();
    assert_eq!(bare(&node, "cb", &["--gpus", "device=0:2"]), [0]);
    drop(opener);
    node.check();
}
