//! The inventory as the product would write it, from a profile.

use gpuctl_ledger::model::{Gpu, Health, Inventory, MigDevice, SCHEMA, Timestamp, Unit};

/// Of these GPUs, in nvidia-smi order.
///
/// # Panics
/// When a UUID is none.
pub fn of(gpus: &[gpuctl_sim::profile::Gpu]) -> Inventory {
    let unit = |uuid: &str| Unit::new(uuid).expect("a UUID");
    let mig = |m: &gpuctl_sim::profile::Mig| MigDevice {
        index: m.index,
        unit: unit(&m.uuid),
        memory: m.memory,
        profile: m.profile.clone(),
        caps: m.caps,
        health: Health::Ok,
    };
    let gpu = |(index, g): (u32, &gpuctl_sim::profile::Gpu)| Gpu {
        index,
        unit: unit(&g.uuid),
        minor: g.minor,
        model: g.name.clone(),
        pci: g.pci.clone(),
        memory: g.memory_total,
        health: Health::Ok,
        numa: g.numa,
        links: g.links.clone(),
        peers: Vec::new(),
        mig: g.mig().iter().map(mig).collect(),
        slots: 0,
    };
    Inventory {
        schema: SCHEMA,
        at: Timestamp::now(),
        driver: "550.90.07".into(),
        gpus: (0..).zip(gpus).map(gpu).collect(),
    }
}
