//! Fifty at once, each by another way, for eight GPUs, of which a victim has two.

use std::collections::BTreeSet;

use gpuctl_tests::engine_runs_here;
use gpuctl_tests::siege::{Siege, Strict};

#[test]
fn fifty_by_odd_ways_get_no_gpu_twice() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::Both);
    let ways: [&[&str]; 10] = [
        &["--gpus", "1"],
        &["--gpus", "all"],
        &["--gpus", "2", "--runtime", "runc"],
        &["--device", "/dev/nvidia3:/dev/x"],
        &["--device-cgroup-rule", "c 195:4 rwm", "--runtime", "io.containerd.runc.v2"],
        &["--privileged", "--runtime", "runc"],
        &["--privileged", "--gpus", "1"],
        &["--device-cgroup-rule", "c *:* rwm"],
        &["--gpus", "\"device=0,1\"", "-e", "NVIDIA_VISIBLE_DEVICES=all"],
        &["--volumes-from", "victim", "--device", "/dev:/d"],
    ];
    let names: Vec<String> = (0..50).map(|n| format!("crowd{n}")).collect();
    std::thread::scope(|scope| {
        for (name, way) in names.iter().zip(ways.iter().cycle()) {
            let node = &siege.node;
            scope.spawn(move || {
                let line = [&["run", "-d", "--name", name], *way, &["busybox", "sleep", "100000"]]
                    .concat();
                let got = node.docker(&line);
                gpuctl_tests::siege::clean(&got.stderr);
            });
        }
    });
    let running = siege.node.docker_ok(&["ps", "--filter", "name=crowd", "--format", "{{.Names}}"]);
    assert!(running.lines().count() >= 10, "those that ask for none run:\n{running}");
    let mut open = BTreeSet::new();
    let mut holders = 0;
    // What the kernel allows each, and with the probe for those that hold a lease.
    let granted = siege.node.granted();
    for name in running.lines() {
        let id = siege.node.id(name);
        let minors = granted.get(&id).cloned().unwrap_or_default();
        assert_eq!(siege.node.leased_minors(&id), minors, "{name}");
        if !minors.is_empty() {
            holders += 1;
            assert_eq!(siege.is_its_own(name), minors, "{name}");
        }
        for minor in minors {
            assert!(open.insert(minor), "/dev/nvidia{minor} twice");
        }
    }
    assert!(open.len() <= 6 && holders >= 2, "{open:?} {holders}");
    siege.stands("the crowd");
    siege.node.docker(
        &[&["rm", "-f"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat(),
    );
    siege.end();
}
