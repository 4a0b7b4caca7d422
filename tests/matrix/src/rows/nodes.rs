//! Device nodes, rules and mounts, and `--privileged`.

use super::{Row, Tried};
use crate::cell::{Cell, Verdict};
use crate::trial::{FREE, HELD, Trial};

pub(super) const ROWS: &[Row] = &[
    Row { id: "node", what: "`--device /dev/nvidiaN`", run: node },
    Row {
        id: "node-renamed",
        what: "`--device /dev/nvidiaN:/dev/video0`, another path inside",
        run: renamed,
    },
    Row { id: "rule-exact", what: "`--device-cgroup-rule 'c 195:N rwm'`", run: exact },
    Row {
        id: "rule-major",
        what: "`--device-cgroup-rule 'c 195:* rwm'`",
        run: |trial| rule(trial, "c 195:* rwm"),
    },
    Row {
        id: "rule-char",
        what: "`--device-cgroup-rule 'c *:* rwm'`",
        run: |trial| rule(trial, "c *:* rwm"),
    },
    Row {
        id: "rule-any",
        what: "`--device-cgroup-rule 'a *:* rwm'`",
        run: |trial| rule(trial, "a *:* rwm"),
    },
    Row { id: "bind-node", what: "`-v /dev/nvidiaN:/dev/nvidiaN`", run: bind },
    Row { id: "bind-dev", what: "`-v /dev:/dev`", run: bind_dev },
    Row { id: "privileged", what: "`--privileged`", run: privileged },
    Row { id: "privileged-gpus", what: "`--privileged --gpus 1`", run: privileged_gpus },
    Row {
        id: "privileged-rule",
        what: "`--privileged --device-cgroup-rule 'c 195:* rwm'`",
        run: privileged_rule,
    },
];

fn node(trial: &mut Trial) -> Tried {
    trial.run_named(|_, minor| vec!["--device".into(), format!("/dev/nvidia{minor}")])
}

fn renamed(trial: &mut Trial) -> Tried {
    trial.run_named(|_, minor| vec!["--device".into(), format!("/dev/nvidia{minor}:/dev/video0")])
}

fn exact(trial: &mut Trial) -> Tried {
    trial.run_named(|_, minor| vec!["--device-cgroup-rule".into(), format!("c 195:{minor} rwm")])
}

fn rule(trial: &mut Trial, rule: &str) -> Tried {
    trial.run("rule", &["--device-cgroup-rule", rule], "busybox")
}

/// Opens a path inside the container, besides what [`Trial::judge`] makes for itself.
fn with_paths(trial: &Trial, name: &str, paths: &[(String, u32)], verdict: Verdict) -> Tried {
    if verdict.cell != Cell::NoAccess {
        return Ok(verdict);
    }
    for (path, minor) in paths {
        let device = (195, *minor);
        let script = crate::probe::of_path(path, device);
        let got = trial.node.docker(&["exec", name, "sh", "-c", &script]);
        if !crate::probe::read(&got.stdout, &[device].into())?.is_empty() {
            return Ok(Verdict { cell: Cell::NotCaught, detail: format!("opens {path}") });
        }
    }
    Ok(verdict)
}

fn bind(trial: &mut Trial) -> Tried {
    let minors = [HELD[0], FREE].map(|index| trial.node.minor(index));
    let mut flags = Vec::new();
    for minor in minors {
        flags.extend(["-v".to_owned(), format!("/dev/nvidia{minor}:/dev/nvidia{minor}")]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let verdict = trial.run("bind", &flags, "busybox")?;
    with_paths(trial, "bind", &minors.map(|m| (format!("/dev/nvidia{m}"), m)), verdict)
}

fn bind_dev(trial: &mut Trial) -> Tried {
    let minors = [HELD[0], FREE].map(|index| trial.node.minor(index));
    let verdict = trial.run("bind-dev", &["-v", "/dev:/dev"], "busybox")?;
    with_paths(trial, "bind-dev", &minors.map(|m| (format!("/dev/nvidia{m}"), m)), verdict)
}

fn privileged(trial: &mut Trial) -> Tried {
    trial.run("privileged", &["--privileged"], "busybox")
}

fn privileged_gpus(trial: &mut Trial) -> Tried {
    trial.run("privileged-gpus", &["--privileged", "--gpus", "1"], "busybox")
}

fn privileged_rule(trial: &mut Trial) -> Tried {
    let flags = ["--privileged", "--device-cgroup-rule", "c 195:* rwm"];
    trial.run("privileged-rule", &flags, "busybox")
}
