//! GPUs for tests that need no driver.

use gpuctl_ledger::model::{Gpu, Health, Unit};

/// A healthy one, without links and parts.
pub(crate) fn gpu(index: u32, unit: &str, minor: u32) -> Gpu {
    Gpu {
        index,
        unit: Unit::new(unit).unwrap(),
        minor,
        model: "A100".into(),
        pci: format!("00000000:{index:02X}:00.0"),
        memory: 80,
        health: Health::Ok,
        numa: None,
        links: Vec::new(),
        peers: Vec::new(),
        mig: Vec::new(),
        slots: 0,
    }
}
