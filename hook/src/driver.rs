//! What the node shows of the driver, read when it is first asked for: most containers have nothing to
//! do with GPUs.

use std::cell::OnceCell;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::Inventory;
pub(crate) use gpuctl_ledger::node::mig::caps_major;
use gpuctl_ledger::view::NodeView;

/// See the module.
pub(crate) struct Driver<'a> {
    config: &'a Config,
    inventory: OnceCell<Option<Inventory>>,
    caps_major: OnceCell<Option<u32>>,
}

impl<'a> Driver<'a> {
    /// Reads nothing yet.
    pub(crate) fn new(config: &'a Config) -> Self {
        Self { config, inventory: OnceCell::new(), caps_major: OnceCell::new() }
    }

    /// The node's GPUs; `None` where there is no inventory of them that can be read.
    pub(crate) fn inventory(&self) -> Option<&Inventory> {
        let read = || NodeView::new(self.config).ok().and_then(|view| view.inventory().ok());
        self.inventory.get_or_init(read).as_ref()
    }

    /// Major number of nvidia-caps.
    pub(crate) fn caps_major(&self) -> Option<u32> {
        *self.caps_major.get_or_init(|| caps_major(self.config))
    }
}
