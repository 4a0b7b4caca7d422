//! The OCI poststop hook: gives back what the container held under this claim, or keeps it reserved
//! where Docker will start the container again. It is a hint: whatever it misses is found later by
//! the evidence in the lease, so it never fails the runtime.

use gpuctl_ledger::config::Config;
use gpuctl_ledger::grant::{self, Ended};
use gpuctl_ledger::ledger::Ledger;
use gpuctl_ledger::model::{ContainerId, Token};
use gpuctl_ledger::view::NodeView;

use crate::fault;

/// Ends the claim of a container under `token`, or under any.
///
/// # Errors
/// One line for people.
pub fn release(config: &Config, id: &str, token: Option<&Token>) -> Result<Ended, String> {
    let id = ContainerId::new(id).map_err(|e| e.to_string())?;
    let view = NodeView::new(config).map_err(|e| e.to_string())?;
    let ledger = Ledger::open(config).map_err(|e| e.to_string())?.within(config.ledger.timeout());
    fault::here(config, "release");
    grant::end(&ledger, &view, &id, token).map_err(|e| e.to_string())
}
