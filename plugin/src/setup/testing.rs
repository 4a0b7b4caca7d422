//! What the tests of this folder share.

use gpuctl_ledger::model::{ContainerId, Health, Inventory, MigDevice, SCHEMA, Timestamp, Unit};

use super::access::Access;
use super::observed::Seen;
use crate::gpu::testing::gpu;

/// So many GPUs; the minors count down while the indexes count up.
pub(super) fn inventory(count: u32) -> Inventory {
    let gpu = |index: u32| gpu(index, &format!("GPU-{index}"), count - 1 - index);
    let gpus = (0..count).map(gpu).collect();
    Inventory { schema: SCHEMA, at: Timestamp::now(), driver: "550".into(), gpus }
}

/// The same with GPU 0 cut into two MIG devices, with the nvidia-caps 3 and 4, 5 and 6.
pub(super) fn cut(count: u32) -> Inventory {
    let mut inventory = inventory(count);
    let mig = |index: u32| MigDevice {
        index,
        unit: Unit::new(format!("MIG-0-{index}")).unwrap(),
        memory: 1,
        profile: String::new(),
        caps: [3 + 2 * index, 4 + 2 * index],
        health: Health::Ok,
    };
    inventory.gpus[0].mig = vec![mig(0), mig(1)];
    inventory
}

/// A running container that may open the GPUs with these indexes, of four.
pub(super) fn seen(name: &str, indexes: &[u32]) -> Seen {
    let minors = indexes.iter().map(|index| 3 - index).collect();
    Seen {
        id: ContainerId::new(format!("{name:a<64}")).unwrap(),
        name: name.into(),
        runtime: "runc".into(),
        running: true,
        pid: Some(1),
        started: "2026-01-01T10:00:00Z".into(),
        exempt: false,
        access: Access { minors, ..Access::default() },
        open: Vec::new(),
        scope: Some(format!("docker-{name:a<64}.scope")),
    }
}
