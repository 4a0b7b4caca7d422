//! What the service looks at every few seconds: processes on GPUs that belong to no lease, GPUs that
//! do not answer as they should. The hook reads it where it is fresh.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_ledger::model::{ContainerId, Health, Timestamp, Unit};
use gpuctl_ledger::node::busy::{self, Watch};
use gpuctl_ledger::node::{files, process};

use super::api::Failure;
use super::context::Context;
use super::node::{self, NVML_LIMIT};
use crate::gpu;

/// Looks once, and writes down what was seen.
///
/// # Errors
/// When the driver does not answer, or the file cannot be written.
pub fn tick(ctx: &Context) -> Result<(), Failure> {
    let refused = |e: gpu::GpuError| Failure::new(e.to_string()).hint(e.hint());
    let inventory = node::refresh(ctx).map_err(refused)?;
    let config = ctx.config.clone();
    let known = inventory.clone();
    let usage = gpu::within(NVML_LIMIT, move || gpu::Driver::open(&config)?.usage(Some(&known)))
        .map_err(refused)?;
    let leases = ctx.ledger.leases()?;
    let mut watch = Watch {
        at: Timestamp::now(),
        strangers: BTreeMap::new(),
        unhealthy: BTreeMap::new(),
        asked: BTreeSet::new(),
    };
    for gpu in &inventory.gpus {
        if let Health::Bad(why) = &gpu.health {
            watch.unhealthy.insert(gpu.unit.clone(), why.clone());
        }
    }
    for one in usage {
        let Some(unit) = one.unit else { continue };
        // Who has the GPU or a part of it may use it: the driver tells no slots apart.
        let piece = inventory.piece(&unit);
        let may_use = |other: &Unit| {
            piece.zip(inventory.piece(other)).is_some_and(|(piece, other)| piece.overlaps(&other))
        };
        let holders: Vec<&ContainerId> = leases
            .iter()
            .filter(|(other, _)| may_use(other))
            .map(|(_, at)| &at.record.holder.container)
            .collect();
        let Some(processes) = one.processes else { continue };
        watch.asked.insert(unit.clone());
        for used in processes {
            let Ok(pid) = i32::try_from(used.pid) else { continue };
            let name = busy::program(pid);
            if busy::is_watcher(pid, &name, &ctx.config.gpu.watchers) {
                continue;
            }
            // Docker's cgroups carry the container's id in their names.
            let inside = holders.iter().any(|id| process::is_of(pid, id));
            if !inside {
                watch.strangers.entry(unit.clone()).or_default().push((used.pid, name));
            }
        }
    }
    files::make_open_dir(&ctx.config.paths.run)
        .and_then(|()| files::replace_json(&ctx.config.paths.watch(), &watch, false))
        .map_err(|e| {
            let why = gpuctl_ledger::config::plain_io_error(&e);
            Failure::new(format!("the watch cannot be written: {why}"))
        })
}
