//! Ends and new starts. The last of these restarts the node.

use std::time::Duration;

use gpuctl_ledger::model::{Binding, ContainerId};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::store::Write;
use gpuctl_tests::node::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Row, Tried};
use crate::cell::Cell;
use crate::trial::{HOLDER, Trial};

pub(super) const ROWS: &[Row] = &[
    Row { id: "restart", what: "`docker restart` of a container with a GPU", run: restart },
    Row { id: "old-version", what: "`docker start` of an older version", run: old_version },
    Row { id: "restart-crash", what: "`--restart always`, after a crash", run: crash },
    Row { id: "restart-reboot", what: "`--restart always`, after a reboot", run: reboot },
];

/// The longest that Docker may take to start a container again.
const AGAIN: Duration = Duration::from_secs(60);

fn restart(trial: &mut Trial) -> Tried {
    let verdict = trial.run("again", &["--gpus", "1"], "busybox")?;
    if verdict.cell != Cell::Leased {
        return Ok(verdict);
    }
    let got = trial.node.docker(&["restart", "-t", "0", "again"]);
    trial.judge_start(&got, "again")
}

/// No command makes an older version that is a container of its own yet; the ledger's record of
/// one is written here, as that command will write it.
fn old_version(trial: &mut Trial) -> Tried {
    let node = &trial.node;
    let line = ["run", "-d", "--name", "old", "--gpus", "1", "busybox", "sleep", "100000"];
    node.gpuctl_ok(&line);
    node.gpuctl_ok(&["stop", "old", "--timeout", "0"]);
    let id = ContainerId::new(node.id("old-0")).map_err(|e| e.to_string())?;
    let name = node.config().node_name().map_err(|e| e.to_string())?;
    let key = format!("/gpuctl/v1/nodes/{name}/bindings/{}", id.as_str());
    let store = node.store();
    let entry = store.get(&key).map_err(|e| e.to_string())?.ok_or("no binding")?;
    let mut binding: Binding = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    binding.retired = true;
    let value = serde_json::to_vec(&binding).map_err(|e| e.to_string())?;
    let _ = store.commit(&[], &[Write::Put(key, value)]).map_err(|e| e.to_string())?;
    notes::write_binding(&node.config().paths, &binding).map_err(|e| e.to_string())?;
    let got = node.docker(&["start", "old-0"]);
    let verdict = trial.judge_start(&got, "old-0");
    node.gpuctl(&["rm", "-f", "old"]);
    verdict
}

fn started_at(trial: &Trial, name: &str) -> String {
    trial.node.docker(&["inspect", "--format", "{{.State.StartedAt}}", name]).stdout
}

fn crash(trial: &mut Trial) -> Tried {
    let verdict = trial.run("crash", &["--gpus", "1", "--restart", "always"], "busybox")?;
    if verdict.cell != Cell::Leased {
        return Ok(verdict);
    }
    let before = started_at(trial, "crash");
    let pid = trial.node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", "crash"]);
    let pid = pid.parse().map_err(|_| format!("{pid:?} is no pid"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|e| e.to_string())?;
    wait_for("a new start", AGAIN, || {
        started_at(trial, "crash") != before && trial.running("crash")
    });
    trial.judge("crash")
}

fn reboot(trial: &mut Trial) -> Tried {
    let verdict = trial.run("reboot", &["--gpus", "1", "--restart", "always"], "busybox")?;
    if verdict.cell != Cell::Leased {
        return Ok(verdict);
    }
    let before = trial.leased(&trial.node.id("reboot"));
    trial.node.reboot();
    let holder = format!("{HOLDER}-0");
    wait_for("both after the reboot", AGAIN, || trial.running("reboot") && trial.running(&holder));
    let verdict = trial.judge("reboot")?;
    let same =
        if trial.leased(&trial.node.id("reboot")) == before { "the same" } else { "another" };
    Ok(verdict.noting(&format!("{same} GPU as before")))
}
