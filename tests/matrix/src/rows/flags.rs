//! `--gpus` and CDI devices.

use super::{Row, Tried};
use crate::cell::{Cell, Verdict};
use crate::trial::{FREE, Trial};

pub(super) const ROWS: &[Row] = &[
    Row { id: "gpus-count", what: "`--gpus 2`", run: count },
    Row { id: "gpus-all", what: "`--gpus all`, while another container has two", run: all },
    Row { id: "gpus-device", what: "`--gpus device=N`", run: device },
    Row { id: "gpus-0", what: "`--gpus 0`", run: zero },
    Row {
        id: "index-unlike-minor",
        what: "`--gpus device=N` where GPU N is not /dev/nvidiaN",
        run: index,
    },
    Row { id: "cdi-device", what: "`--device nvidia.com/gpu=N`", run: cdi },
    Row { id: "cdi-all", what: "`--device nvidia.com/gpu=all`", run: cdi_all },
];

fn count(trial: &mut Trial) -> Tried {
    trial.run("count", &["--gpus", "2"], "busybox")
}

fn all(trial: &mut Trial) -> Tried {
    trial.run("all", &["--gpus", "all"], "busybox")
}

fn device(trial: &mut Trial) -> Tried {
    trial.run_named(|index, _| vec!["--gpus".into(), format!("device={index}")])
}

fn zero(trial: &mut Trial) -> Tried {
    trial.run("zero", &["--gpus", "0"], "cuda-like")
}

/// The GPU with this index and no other: that its minor is opened, not the minor of the same number.
fn index(trial: &mut Trial) -> Tried {
    let verdict = trial.run("index", &["--gpus", &format!("device={FREE}")], "busybox")?;
    let minor = trial.node.minor(FREE);
    if usize::try_from(minor).is_ok_and(|m| m == FREE) {
        return Err("a profile where index is minor".into());
    }
    if verdict.cell == Cell::Leased {
        let opens = trial.opens("index", &[])?;
        if opens != [(195, minor)].into() {
            return Err(format!("GPU {FREE} is minor {minor}, and it has {opens:?}"));
        }
    }
    Ok(verdict.noting(&format!("GPU {FREE} is /dev/nvidia{minor}")))
}

fn cdi(trial: &mut Trial) -> Tried {
    if !trial.takes_cdi() {
        return Ok(no_cdi());
    }
    trial.run_named(|index, _| vec!["--device".into(), format!("nvidia.com/gpu={index}")])
}

fn cdi_all(trial: &mut Trial) -> Tried {
    if !trial.takes_cdi() {
        return Ok(no_cdi());
    }
    trial.run("cdi-all", &["--device", "nvidia.com/gpu=all"], "busybox")
}

pub(super) fn no_cdi() -> Verdict {
    Verdict::not_applicable("this Engine takes no CDI devices")
}
