//! The node's GPUs: asked of the driver, written to the node's file for the hook, and to the node's
//! record for those who read the ledger from elsewhere.

use std::time::Duration;

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{Health, Inventory, NodeRecord};
use gpuctl_ledger::node::quarantine;

use super::context::Context;
use crate::gpu::{self, GpuError};

/// How long NVML may take: cold it takes seconds.
pub(crate) const NVML_LIMIT: Duration = Duration::from_secs(20);

/// Asks the driver, and writes down what it says.
///
/// # Errors
/// When the driver does not answer or the node's file cannot be written.
pub(crate) fn refresh(ctx: &Context) -> Result<Inventory, GpuError> {
    let inventory = gpu::refresh(&ctx.config, NVML_LIMIT)?;
    // Readers elsewhere see what is not granted; what the driver itself says is the look's affair.
    let mut published = inventory.clone();
    if let Ok(quarantine) = quarantine::read(&ctx.config.paths, &ctx.boot_id) {
        for gpu in &mut published.gpus {
            if let Some(held) = quarantine.of(&gpu.unit) {
                gpu.health = Health::Bad(held.cause.words());
            }
        }
    }
    publish(ctx, &published);
    Ok(inventory)
}

/// Writes the node's record where it is no longer so. It is for readers elsewhere: no decision on
/// this node rests on it, so what fails here is done the next time.
fn publish(ctx: &Context, inventory: &Inventory) {
    let key = ctx.ledger.keys().node();
    let Ok(Some(at)) = ctx.ledger.get::<NodeRecord>(&key) else { return };
    let same = |old: &Inventory| (&old.driver, &old.gpus) == (&inventory.driver, &inventory.gpus);
    if at.record.inventory.as_ref().is_some_and(same) && at.record.boot_id == ctx.boot_id {
        return;
    }
    let record = NodeRecord {
        boot_id: ctx.boot_id.clone(),
        inventory: Some(inventory.clone()),
        ..at.record
    };
    let mut batch = Batch::new();
    batch.at(key.clone(), at.revision).put(key, &record);
    let _ = ctx.ledger.commit(&batch);
}
