//! Containers that name another runtime than the default one, and those made before there was ours.

use super::{Row, Tried};
use crate::cell::{Cell, Verdict};
use crate::column::EngineOf;
use crate::trial::{BEFORE, FREE, Trial};

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
        id: "runtime-shim-path",
        what: "`--runtime /usr/bin/containerd-shim-runc-v2 --device /dev/nvidiaN`",
        run: shim_path,
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
        what: "the runtime's verb `restore`: `docker start --checkpoint`",
        run: restore,
    },
];

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

fn shim_path(trial: &mut Trial) -> Tried {
    if trial.column.engine == EngineOf::V20 {
        return Ok(Verdict::not_applicable("this Engine takes no path there"));
    }
    by_name(trial, "/usr/bin/containerd-shim-runc-v2")
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

/// With a checkpoint where CRIU can make one. A container without GPUs is checkpointed; then its
/// bundle is restored, which is the verb that the wrapper has to heed.
fn restore(trial: &mut Trial) -> Tried {
    super::others::restore(trial, FREE).map(|verdict| match verdict.cell {
        Cell::NotApplicable(_) => verdict,
        _ => verdict.noting("by runc's own command line, on a bundle with the GPU's node"),
    })
}
