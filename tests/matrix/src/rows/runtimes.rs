//! Containers that name another runtime than the default one, and those made before there was ours.

use super::{Row, Tried};
use crate::cell::Verdict;
use crate::trial::{BEFORE, Trial};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "runtime-runc",
        what: "`--runtime runc --device /dev/nvidiaN`",
        run: |trial| by_name(trial, "runc"),
    },
    Row {
        id: "runtime-runc-gpus",
        what: "`--runtime runc --gpus device=N`, with NVIDIA's toolkit installed",
        run: runc_gpus,
    },
    Row {
        id: "runtime-runc-privileged",
        what: "`--runtime runc --privileged`",
        run: runc_privileged,
    },
    Row {
        id: "runtime-runc-v2",
        what: "`--runtime io.containerd.runc.v2 --device /dev/nvidiaN`",
        run: |trial| by_name(trial, "io.containerd.runc.v2"),
    },
    Row {
        id: "runtime-linux-v1",
        what: "`--runtime io.containerd.runtime.v1.linux --device /dev/nvidiaN`",
        run: |trial| where_known(trial, "io.containerd.runtime.v1.linux"),
    },
    Row {
        id: "runtime-shim-path",
        what: "`--runtime /usr/bin/containerd-shim-runc-v2 --device /dev/nvidiaN`",
        run: |trial| where_known(trial, "/usr/bin/containerd-shim-runc-v2"),
    },
    Row {
        id: "runtime-absolute",
        what: "a runtime that daemon.json names by runc's absolute path",
        run: absolute,
    },
    Row {
        id: "before-device",
        what: "`docker start` of a container made before installation, with `--device`",
        run: |trial| before(trial, BEFORE[0].0),
    },
    Row {
        id: "before-gpus",
        what: "the same, with `--gpus 1`",
        run: |trial| before(trial, BEFORE[1].0),
    },
    Row {
        id: "before-privileged",
        what: "the same, with `--privileged`",
        run: |trial| before(trial, BEFORE[2].0),
    },
    Row {
        id: "verb-restore",
        what: "the runtime's verb `restore`, which `docker start --checkpoint` calls",
        run: restore,
    },
];

/// How an Engine says that it does not know a runtime.
const UNKNOWN: [&str; 3] =
    ["unknown or invalid runtime name", "Unknown runtime specified", "binary not installed"];

/// How Engines say that they take a runtime with cgroup v1 only: 20.10, and 26.1, whose containerd tries.
const CGROUP_V1_ONLY: [&str; 2] =
    ["not supported while cgroups v2", "cgroups: cgroup mountpoint does not exist"];

fn by_name(trial: &mut Trial, runtime: &str) -> Tried {
    trial.run_named(|_, minor| {
        let node = format!("/dev/nvidia{minor}");
        ["--runtime", runtime, "--device", node.as_str()].map(str::to_owned).to_vec()
    })
}

fn runc_gpus(trial: &mut Trial) -> Tried {
    trial.run_named(|index, _| {
        let gpu = format!("device={index}");
        ["--runtime", "runc", "--gpus", gpu.as_str()].map(str::to_owned).to_vec()
    })
}

fn runc_privileged(trial: &mut Trial) -> Tried {
    trial.run("runc-privileged", &["--runtime", "runc", "--privileged"], "busybox")
}

/// A runtime that not every Engine takes.
fn where_known(trial: &mut Trial, runtime: &str) -> Tried {
    match by_name(trial, runtime) {
        Err(why) if CGROUP_V1_ONLY.iter().any(|words| why.contains(words)) => {
            let verdict =
                Verdict::not_applicable("this Engine takes this runtime with cgroup v1 only");
            Ok(match trial.kill_unstarted()? {
                0 => verdict,
                _ => verdict.noting("runc's init is left by the Engine, and keeps its lease"),
            })
        }
        Err(why) if UNKNOWN.iter().any(|words| why.contains(words)) => {
            Ok(Verdict::not_applicable("this Engine knows no such runtime"))
        }
        other => other,
    }
}

fn absolute(trial: &mut Trial) -> Tried {
    let verdict = by_name(trial, "by-path")?;
    Ok(match trial.column.strict {
        true => verdict.noting("strict setup points the entry at the wrapper"),
        false => verdict,
    })
}

fn before(trial: &mut Trial, name: &str) -> Tried {
    let got = trial.node.docker(&["start", name]);
    trial.judge_start(&got, name)
}

fn restore(trial: &mut Trial) -> Tried {
    let verdict = super::others::restore(trial)?;
    Ok(verdict.noting("judged by the spec that the wrapper hands on: CRIU cannot run everywhere"))
}
