//! What is done with a container that runs.

use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command;

use super::{Row, Tried};
use crate::cell::{Cell, Verdict};
use crate::column::Cgroup;
use crate::probe;
use crate::trial::{FREE, HELD, HOLDER, Trial, systemd};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "pid-host",
        what: "`--pid host`, opening /proc/PID/root/dev/nvidiaN of the one that holds it",
        run: pid_host,
    },
    Row { id: "exec", what: "`docker exec` into a container without GPUs", run: exec },
    Row {
        id: "exec-privileged",
        what: "`docker exec --privileged` into a container without GPUs",
        run: exec_privileged,
    },
    Row { id: "cp-node", what: "`docker cp` of a device node into a container", run: cp },
    Row { id: "update", what: "`docker update` of a container with a GPU", run: update },
    Row {
        id: "update-none",
        what: "`docker update` of a container without GPUs",
        run: update_none,
    },
    Row {
        id: "daemon-reload",
        what: "`systemctl daemon-reload` while a container has a GPU",
        run: daemon_reload,
    },
    Row {
        id: "network-container",
        what: "`--network container:X`, a forged hostconfig.json, and a device node",
        run: network_container,
    },
];

fn pid_host(trial: &mut Trial) -> Tried {
    let verdict =
        trial.run("pid-host", &["--pid", "host", "--cap-add", "SYS_PTRACE"], "busybox")?;
    if verdict.cell != Cell::NoAccess {
        return Ok(verdict);
    }
    let holder = format!("{HOLDER}-0");
    let pid = trial.node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", &holder]);
    let minor = trial.node.minor(HELD[0]);
    let script = probe::of_path(&format!("/proc/{pid}/root/dev/nvidia{minor}"), (195, minor));
    let got = trial.node.docker(&["exec", "pid-host", "sh", "-c", &script]);
    if probe::read(&got.stdout, &[(195, minor)].into())?.is_empty() {
        return Ok(verdict);
    }
    let detail = format!("opens the holder's /dev/nvidia{minor}");
    Ok(Verdict { cell: Cell::NotCaught, detail })
}

fn exec(trial: &mut Trial) -> Tried {
    trial.run("exec", &[], "busybox")
}

fn exec_privileged(trial: &mut Trial) -> Tried {
    let started = trial.run("exec", &[], "busybox")?;
    if started.cell != Cell::NoAccess {
        return Ok(started);
    }
    trial.judge_with("exec", &["--privileged"])
}

fn cp(trial: &mut Trial) -> Tried {
    let verdict = trial.run("cp", &[], "busybox")?;
    let minor = trial.node.minor(FREE);
    let from = trial.node.place().dev().join(format!("nvidia{minor}"));
    let got = trial.node.docker(&["cp", &from.display().to_string(), "cp:/root/gpu"]);
    let there = trial.node.docker(&["exec", "cp", "test", "-c", "/root/gpu"]).code == 0;
    if !there {
        let said = got.stderr.lines().next().unwrap_or("nothing").trim().to_owned();
        return Ok(verdict.noting(&format!("no node arrived; docker cp said: {said}")));
    }
    let script = probe::of_path("/root/gpu", (195, minor));
    let got = trial.node.docker(&["exec", "cp", "sh", "-c", &script]);
    if probe::read(&got.stdout, &[(195, minor)].into())?.is_empty() {
        return Ok(verdict.noting("the node arrives, and cannot be opened"));
    }
    Ok(Verdict { cell: Cell::NotCaught, detail: "opens the node".into() })
}

const UPDATE: [&str; 6] = ["update", "--cpu-shares", "512", "--memory", "256m", "--memory-swap=-1"];

fn update(trial: &mut Trial) -> Tried {
    let verdict = trial.run("update", &["--gpus", "1"], "busybox")?;
    if verdict.cell != Cell::Leased {
        return Ok(verdict);
    }
    trial.node.docker_ok(&[&UPDATE[..], &["update"]].concat());
    trial.judge("update")
}

fn update_none(trial: &mut Trial) -> Tried {
    let verdict = trial.run("update", &[], "busybox")?;
    if verdict.cell != Cell::NoAccess {
        return Ok(verdict);
    }
    trial.node.docker_ok(&[&UPDATE[..], &["update"]].concat());
    trial.judge("update")
}

fn daemon_reload(trial: &mut Trial) -> Tried {
    if !systemd() {
        return Ok(Verdict::not_applicable("no systemd"));
    }
    let verdict = trial.run("reload", &["--gpus", "1"], "busybox")?;
    if verdict.cell != Cell::Leased {
        return Ok(verdict);
    }
    let mut reload = Command::new("systemctl");
    command::run(reload.arg("daemon-reload"), Duration::from_secs(120))?.ok()?;
    let verdict = trial.judge("reload")?;
    let remark = match trial.column.cgroup {
        Cgroup::V2Systemd => "systemd makes the cgroups",
        _ => "the Engine makes the cgroups",
    };
    Ok(verdict.noting(remark))
}

/// X's folder shows in the mounts of the second container, and so does a hostconfig.json that says
/// that nothing was asked for and that the runtime is another.
fn network_container(trial: &mut Trial) -> Tried {
    trial.node.docker_ok(&["run", "-d", "--name", "other", "busybox", "sleep", "100000"]);
    let x = trial.node.id("other");
    let forged = trial.folder().join("hostconfig.json");
    let text = r#"{"Runtime":"runc","Privileged":false,"Devices":[],"DeviceRequests":null}"#;
    gpuctl_sim::files::write(&forged, text)?;
    let inside = trial.node.place().data().join("containers").join(x).join("hostconfig.json");
    let mount = format!("{}:{}:ro", forged.display(), inside.display());
    trial.run_named(|_, minor| {
        let node = format!("/dev/nvidia{minor}");
        ["--network", "container:other", "-v", mount.as_str(), "--device", node.as_str()]
            .map(str::to_owned)
            .to_vec()
    })
}
