//! MIG devices, with a real Engine: who gets which, who can open which, and who is on which.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gpuctl_sim::files::CAPS;
use gpuctl_tests::choose::{
    asked_node, bare, change, managed, node, opens, opens_caps, refused, try_managed,
};
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::{Value, json};

fn caps(node: &Node, mig: usize) -> BTreeSet<u32> {
    node.gpus()[0].mig()[mig].caps.into()
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
