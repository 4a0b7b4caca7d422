//! MIG devices and their parent.

use super::{Row, Tried};
use crate::trial::Trial;

pub(super) const ROWS: &[Row] = &[
    Row { id: "mig-device", what: "`--gpus device=5:0`, a MIG device", run: device },
    Row {
        id: "mig-parent",
        what: "`--device` of the parent's node while a MIG device of it may be held",
        run: parent,
    },
    Row { id: "mig-caps", what: "`--device` of a MIG device's three nodes", run: caps },
];

/// The index of the GPU that has MIG devices, in the profile of these rows.
const CARD: usize = 5;

/// A node one of whose GPUs has MIG devices, for as long as `try_it` lasts. The holder's GPUs are not
/// among them; no row of these is about it.
fn with_mig(trial: &mut Trial, try_it: impl FnOnce(&mut Trial) -> Tried) -> Tried {
    let before = trial.node.place().profile();
    let kept = trial.folder().join("profile.json");
    std::fs::copy(&before, &kept).map_err(|e| format!("cannot keep the profile: {e}"))?;
    // A look that the service has begun would be written down after this one.
    trial.node.kill_service();
    trial.node.set_profile("a100x8-mig");
    trial.node.write_inventory();
    let verdict = try_it(trial);
    let names =
        trial.node.docker_ok(&["ps", "-a", "--filter", "name=^mig", "--format", "{{.Names}}"]);
    for name in names.lines() {
        trial.node.docker(&["rm", "-f", name]);
    }
    trial.node.set_profile_file(&kept);
    trial.node.write_inventory();
    trial.node.start_service();
    verdict
}

fn device(trial: &mut Trial) -> Tried {
    with_mig(trial, |trial| trial.run("mig", &["--gpus", "device=5:0"], "busybox"))
}

fn parent(trial: &mut Trial) -> Tried {
    with_mig(trial, |trial| {
        let first = trial.run("mig-first", &["--gpus", "device=5:0"], "busybox")?;
        let minor = trial.node.minor(CARD);
        let flags = ["--device".to_owned(), format!("/dev/nvidia{minor}")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let verdict = trial.run("mig-parent", &flags, "busybox")?;
        Ok(verdict.noting(&format!("the MIG device: {}", first.cell)))
    })
}

fn caps(trial: &mut Trial) -> Tried {
    with_mig(trial, |trial| {
        let gpus = trial.node.gpus();
        let gpu = gpus.get(CARD).ok_or("no such GPU")?;
        let mig = gpu.mig().first().ok_or("no MIG device")?;
        let mut flags = vec!["--device".to_owned(), format!("/dev/nvidia{}", gpu.minor)];
        for cap in mig.caps {
            flags.extend(["--device".to_owned(), format!("/dev/nvidia-caps/nvidia-cap{cap}")]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        trial.run("mig-caps", &flags, "busybox")
    })
}
