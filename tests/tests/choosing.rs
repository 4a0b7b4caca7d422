//! Which GPUs a container gets, with a real Engine: by links, by name and order, by what they are, slots
//! of shared GPUs; and what is said where it cannot be. MIG devices are in choosing_mig.rs.

use std::fs;

use gpuctl_tests::choose::{asked_node, bare, change, managed, node, opens, refused, try_managed};
use gpuctl_tests::node::run;
use gpuctl_tests::{Node, engine_runs_here};
use serde_json::{Value, json};

/// A variable of the container's first process: what the runtime gave it.
#[track_caller]
fn variable(node: &Node, name: &str, variable: &str) -> Option<String> {
    let text = node.docker_ok(&["exec", name, "cat", "/proc/1/environ"]);
    let all = text.split('\0').filter_map(|line| line.split_once('='));
    all.filter(|(key, _)| *key == variable).map(|(_, value)| value.to_owned()).next_back()
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
