//! GPUs that the config shares: which, and among how many containers at a time.
//!
//! Containers on one GPU take turns on it, and nothing divides its memory among them.

use serde::Deserialize;

use crate::model::{Gpu, GpuRef, Inventory, Unit};

/// The most slots of one GPU.
pub const MOST_SLOTS: u32 = 16;
/// The most slots of a node: a claim of whole GPUs makes sure of each of theirs in one commit, which
/// has room for no more.
pub const MOST_OF_NODE: usize = 96;

/// One `[[gpu.shared]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Which GPUs: by UUID, index or PCI address.
    #[serde(deserialize_with = "refs")]
    pub gpus: Vec<GpuRef>,
    /// So many containers may be on each at a time.
    pub slots: u32,
}

/// A list of GPUs in TOML: numbers are indexes.
fn refs<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<GpuRef>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Index(u32),
        Text(String),
    }
    Vec::<Raw>::deserialize(d)?
        .into_iter()
        .map(|raw| match raw {
            Raw::Index(index) => Ok(GpuRef::Index(index)),
            Raw::Text(text) => text.parse().map_err(serde::de::Error::custom),
        })
        .collect()
}

/// What is wrong with a list of them.
///
/// # Errors
/// In one line, for the config's reader.
pub fn check(list: &[Shared]) -> Result<(), String> {
    let mut named: Vec<&GpuRef> = Vec::new();
    let mut all = 0;
    for shared in list {
        if shared.gpus.is_empty() || !(2..=MOST_SLOTS).contains(&shared.slots) {
            return Err(format!(
                "an entry of gpu.shared needs gpus, and slots between 2 and {MOST_SLOTS}"
            ));
        }
        for gpu in &shared.gpus {
            let whole = match gpu {
                GpuRef::Index(_) | GpuRef::Pci(_) => true,
                GpuRef::Uuid(text) => {
                    text.to_ascii_uppercase().starts_with("GPU-") && !text.contains('/')
                }
                GpuRef::MigIndex(..) | GpuRef::Minor(_) => false,
            };
            if !whole {
                return Err(format!("gpu.shared names {gpu}, which is no whole GPU"));
            }
            if named.contains(&gpu) {
                return Err(format!("gpu.shared names {gpu} twice"));
            }
            named.push(gpu);
            all += usize::try_from(shared.slots).unwrap_or(usize::MAX);
        }
    }
    if all > MOST_OF_NODE {
        return Err(format!("gpu.shared makes {all} slots, and a node has {MOST_OF_NODE} at most"));
    }
    Ok(())
}

/// Gives each GPU the slots that the config says; the first entry that names it counts. One that is cut
/// into MIG devices has none.
pub fn share(inventory: &mut Inventory, list: &[Shared]) {
    let slots: Vec<(Unit, u32)> = list
        .iter()
        .rev()
        .flat_map(|shared| shared.gpus.iter().map(move |gpu| (gpu, shared.slots)))
        .filter_map(|(gpu, slots)| Some((inventory.find(gpu)?.unit.clone(), slots)))
        .collect();
    for gpu in &mut inventory.gpus {
        let of = |gpu: &Gpu| slots.iter().rev().find(|(unit, _)| *unit == gpu.unit);
        gpu.slots = if gpu.mig.is_empty() { of(gpu).map_or(0, |(_, slots)| *slots) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    fn read(text: &str) -> Result<Vec<Shared>, String> {
        Config::parse(text).map(|config| config.gpu.shared)
    }

    #[test]
    fn shared_gpus_are_named_by_uuid_or_index_and_have_slots() {
        let list = read("[[gpu.shared]]\ngpus = [\"GPU-a\", 3, \"3b:00.0\"]\nslots = 4\n").unwrap();
        assert_eq!(list[0].gpus[..2], [GpuRef::Uuid("GPU-a".into()), GpuRef::Index(3)]);
        assert_eq!(list[0].slots, 4);
        for bad in [
            "gpus = [\"GPU-a\"]",
            "gpus = []\nslots = 4",
            "gpus = [\"GPU-a\"]\nslots = 1",
            "gpus = [\"GPU-a\"]\nslots = 17",
            "gpus = [\"MIG-a\"]\nslots = 4",
            "gpus = [\"0:1\"]\nslots = 4",
            "gpus = [\"GPU-a/1\"]\nslots = 4",
            "gpus = [0, 0]\nslots = 4",
            "gpus = [\"x\"]\nslots = 4",
            "gpus = [0]\nslots = 4\nmemory = 3",
            "gpus = [0, 1, 2, 3, 4, 5, 6]\nslots = 16",
        ] {
            assert!(read(&format!("[[gpu.shared]]\n{bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gpu_has_the_slots_of_the_first_entry_that_names_it() {
        let mut inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":1,"model":"m","pci":"00000000:01:00.0","memory":8},
            {"index":1,"unit":"GPU-b","minor":0,"model":"m","pci":"00000000:02:00.0","memory":8},
            {"index":2,"unit":"GPU-c","minor":2,"model":"m","pci":"00000000:03:00.0","memory":8,
             "mig":[{"index":0,"unit":"MIG-a","memory":2,"caps":[3,4]}]}]}"#,
        )
        .unwrap();
        let list = read(
            "[[gpu.shared]]\ngpus = [0, 2, 7]\nslots = 4\n[[gpu.shared]]\ngpus = [\"gpu-A\"]\nslots = 9\n",
        );
        share(&mut inventory, &list.unwrap());
        assert_eq!(inventory.gpus.iter().map(|g| g.slots).collect::<Vec<_>>(), [4, 0, 0]);
        share(&mut inventory, &[]);
        assert_eq!(inventory.gpus[0].slots, 0);
    }
}
