//! Giving back what a container held, once it was seen gone.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::grant;
use gpuctl_ledger::ledger::{Change, LedgerError};
use gpuctl_ledger::model::{Cgroup, ContainerId, Lease, LeaseState, Timestamp, Unit};
use gpuctl_ledger::node::{busy, files, notes};
use gpuctl_ledger::rules::liveness::Life;

use super::api::Failure;
use super::context::Context;

/// Does what poststop could not while a change was open: ends the claim of a container that ended in
/// the meantime. Of one that lives, nothing is touched. What fails here is found later.
pub(super) fn settle(ctx: &Context, id: &ContainerId) {
    let _ = grant::end(&ctx.ledger, &ctx.view(), id, None);
}

/// Frees the leases of a container whose process is gone, whether or not Docker might start it
/// again: it was stopped, removed or scaled by the one who asks. `keep` are left as they are.
/// Leases of a living process are left too. The units freed.
///
/// # Errors
/// The ledger's.
pub(super) fn release_dead(
    ctx: &Context,
    id: &ContainerId,
    keep: &[Unit],
) -> Result<Vec<Unit>, LedgerError> {
    let view = ctx.view();
    let now = Timestamp::now();
    let holder = std::cell::RefCell::new(None);
    let freed = ctx.ledger.change_leases(id, None, |lease| {
        *holder.borrow_mut() = Some(lease.holder.clone());
        // Reserved means: dead, and would be waited for.
        let dead = matches!(view.judge(lease, &[], now), Life::Gone | Life::Reserved)
            // Claimed by this very process for a change that is over: we have the lock.
            || (lease.state == LeaseState::Claimed && lease.evidence.claimer == ctx.me);
        if dead && !keep.contains(&lease.unit) { Change::Delete } else { Change::Keep }
    })?;
    if let Some(holder) = holder.into_inner().filter(|_| !freed.is_empty()) {
        let entry = Entry::of(Decision::Released, &holder).gpus(&freed);
        entry.why("stopped, removed or changed: given back").write(&ctx.config);
    }
    let left = ctx.ledger.leases()?.values().any(|l| l.record.holder.container == *id);
    if !left && !view.living_grants().is_ok_and(|g| g.iter().any(|g| g.holder.container == *id)) {
        let _ = notes::remove_grant(&ctx.config.paths, id);
    }
    Ok(freed)
}

/// How long the last processes of a container that was stopped may take to be gone.
const SETTLED: Duration = Duration::from_secs(1);
/// At most so many processes are named, and so many folders of cgroups looked at.
const NAMED: usize = 3;
const FOLDERS: usize = 256;

/// As [`release_dead`], of a container that was stopped or removed and so is to have no GPU any more.
/// Where it has, what keeps it: another container may have been put into its cgroup.
///
/// # Errors
/// The ledger's and the Engine's.
pub(super) fn release_all(
    ctx: &Context,
    id: &ContainerId,
    shown: &str,
) -> Result<Option<String>, Failure> {
    let until = Instant::now() + SETTLED;
    loop {
        release_dead(ctx, id, &[])?;
        let leases = ctx.ledger.leases()?.into_values().map(|at| at.record);
        let left: Vec<Lease> = leases.filter(|lease| lease.holder.container == *id).collect();
        if left.is_empty() {
            return Ok(None);
        }
        if Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        // Started anew by somebody else, it has them by right.
        let runs = ctx.docker()?.inspect(id.as_str())?.is_some_and(|now| now.running());
        return Ok((!runs).then(|| kept(ctx, shown, &left)));
    }
}

/// `train-0 has ended, and GPU 2 stays held: sleep (pid 4711) runs in its cgroup`.
fn kept(ctx: &Context, shown: &str, left: &[Lease]) -> String {
    let inventory = ctx.view().inventory().ok();
    let gpu = |unit: &Unit| {
        let known = inventory.as_ref().and_then(|inventory| inventory.piece(unit));
        known.map_or_else(|| unit.to_string(), |piece| format!("GPU {}", piece.place()))
    };
    let gpus: Vec<String> = left.iter().map(|lease| gpu(&lease.unit)).collect();
    let cgroup = left.iter().find_map(|lease| lease.evidence.cgroup.as_ref());
    let inside = cgroup.map(processes_in).unwrap_or_default();
    let named: Vec<String> =
        inside.iter().map(|pid| format!("{} (pid {pid})", busy::program(*pid))).collect();
    let why = match named.as_slice() {
        [] => "its end cannot be seen".to_owned(),
        [one] => format!("{one} runs in its cgroup"),
        several => format!("{} run in its cgroup", several.join(", ")),
    };
    format!("{shown} has ended, and {} stays held: {why}", gpus.join(", "))
}

/// The first few processes in a cgroup and below it.
fn processes_in(cgroup: &Cgroup) -> Vec<i32> {
    let folder = Path::new(&cgroup.folder);
    if !std::fs::metadata(folder).is_ok_and(|meta| meta.ino() == cgroup.inode) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    for _ in 0..FOLDERS {
        let Some(folder) = folders.pop() else { break };
        let text = files::read_bounded(&folder.join("cgroup.procs"), 1 << 20).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        if found.len() >= NAMED {
            break;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()));
    }
    found.truncate(NAMED);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_below_a_cgroup_are_found_and_not_those_of_another_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        std::fs::write(below.join("cgroup.procs"), "7\n8\n9\n10\n").unwrap();
        let inode = std::fs::metadata(folder.path()).unwrap().ino();
        let of = |inode| Cgroup { folder: folder.path().to_string_lossy().into_owned(), inode };
        assert_eq!(processes_in(&of(inode)), [7, 8, 9]);
        assert_eq!(processes_in(&of(inode + 1)), [0; 0]);
    }
}
