//! What the environment and images say.

use super::{Row, Tried};
use crate::cell::Cell;
use crate::trial::{FREE, HELD, Trial};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "nvidia-env",
        what: "`--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=N`, NVIDIA's runtime adding devices (CDI mode)",
        run: |trial| env(trial, "nvidia"),
    },
    Row {
        id: "nvidia-env-legacy",
        what: "the same, NVIDIA's runtime adding its prestart hook (legacy mode)",
        run: |trial| env(trial, "nvidia-legacy"),
    },
    Row {
        id: "nvidia-image-env",
        what: "`--runtime nvidia`, `all` by the image's ENV (CDI mode)",
        run: |trial| image(trial, "nvidia"),
    },
    Row {
        id: "nvidia-image-env-legacy",
        what: "the same in legacy mode",
        run: |trial| image(trial, "nvidia-legacy"),
    },
    Row { id: "nvidia-gpus", what: "`--runtime nvidia --gpus device=N` (CDI mode)", run: gpus },
    Row {
        id: "nvidia-env-privileged",
        what: "`--runtime nvidia --privileged -e NVIDIA_VISIBLE_DEVICES=N` (CDI mode)",
        run: env_privileged,
    },
    Row { id: "image-env", what: "a CUDA image, nothing asked for", run: cuda },
    Row {
        id: "env-duplicate",
        what: "`--runtime nvidia`, NVIDIA_VISIBLE_DEVICES twice: first `void`, then a GPU",
        run: duplicate,
    },
    Row {
        id: "commit-managed",
        what: "an image made by `docker commit` of a managed container",
        run: commit,
    },
];

fn env(trial: &mut Trial, runtime: &str) -> Tried {
    trial.run_named(|index, _| {
        let line = format!("NVIDIA_VISIBLE_DEVICES={index}");
        vec!["--runtime".into(), runtime.into(), "-e".into(), line]
    })
}

fn gpus(trial: &mut Trial) -> Tried {
    trial.run_named(|index, _| {
        let gpu = format!("device={index}");
        ["--runtime", "nvidia", "--gpus", gpu.as_str()].map(str::to_owned).to_vec()
    })
}

fn env_privileged(trial: &mut Trial) -> Tried {
    trial.run_named(|index, _| {
        let line = format!("NVIDIA_VISIBLE_DEVICES={index}");
        ["--runtime", "nvidia", "--privileged", "-e", line.as_str()].map(str::to_owned).to_vec()
    })
}

fn image(trial: &mut Trial, runtime: &str) -> Tried {
    trial.run("image", &["--runtime", runtime], "cuda-like")
}

fn cuda(trial: &mut Trial) -> Tried {
    trial.run("cuda", &[], "cuda-like")
}

/// Docker hands both on; NVIDIA's runtime takes the last.
fn duplicate(trial: &mut Trial) -> Tried {
    for runtime in ["nvidia", "nvidia-legacy"] {
        let [held, _] = HELD;
        let name = format!("held-{runtime}");
        let held = format!("NVIDIA_VISIBLE_DEVICES={held}");
        let flags =
            ["--runtime", runtime, "-e", "NVIDIA_VISIBLE_DEVICES=void", "-e", held.as_str()];
        let verdict = trial.run(&name, &flags, "busybox")?;
        if !matches!(verdict.cell, Cell::Refused) {
            return Ok(verdict.noting("of a GPU that another holds"));
        }
    }
    let line = format!("NVIDIA_VISIBLE_DEVICES={FREE}");
    let flags = ["--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=void", "-e", line.as_str()];
    trial.run("duplicate", &flags, "busybox")
}

fn commit(trial: &mut Trial) -> Tried {
    let node = &trial.node;
    let line = ["run", "-d", "--name", "made", "--gpus", "1", "busybox", "sleep", "100000"];
    node.gpuctl_ok(&line);
    node.docker_ok(&["commit", "made-0", "made-image"]);
    let verdict = trial.run("of-commit", &[], "made-image");
    node.gpuctl_ok(&["rm", "-f", "made"]);
    // Its container still names the image's layers.
    node.docker(&["rm", "-f", "of-commit"]);
    node.docker(&["rmi", "-f", "made-image"]);
    verdict
}
