//! The MIG devices of a card, and the two nvidia-caps nodes that open each.
//!
//! The kernel knows a MIG device by the ids of its GPU instance and compute instance, the ledger by
//! its UUID. The way between them is a look-up by the older form of a MIG UUID,
//! `MIG-<card's UUID>/<gi>/<ci>`, which drivers still take and answer with the device of today's UUID.

use std::path::Path;

use gpuctl_ledger::model::{Health, MigDevice, Unit};
use nvml_wrapper::{Device, Nvml};

use super::nvml::answer;
use super::proc;

/// Whether the card is in MIG mode: then it is no unit to be granted as a whole.
pub(super) fn enabled(card: &Device, why: &mut Option<String>) -> bool {
    answer(card.mig_mode(), why).is_some_and(|mode| mode.current != 0)
}

/// The MIG devices that NVML lists of the card: their places and handles.
pub(super) fn handles<'n>(card: &Device<'n>, why: &mut Option<String>) -> Vec<(u32, Device<'n>)> {
    let most = answer(card.mig_device_count(), why).unwrap_or(0);
    (0..most.min(64)).filter_map(|i| Some((i, card.mig_device_by_index(i).ok()?))).collect()
}

/// Minors of the two nvidia-caps nodes of each MIG device of the card, by its UUID.
fn caps(nvml: &Nvml, card: &Unit, minor: u32, folder: &Path) -> Vec<(String, [u32; 2])> {
    let card_folder = folder.join(format!("capabilities/gpu{minor}/mig"));
    let mut found = Vec::new();
    for gi in proc::numbered(&card_folder, "gi") {
        let gi_folder = card_folder.join(format!("gi{gi}"));
        for ci in proc::numbered(&gi_folder, "ci") {
            let ci_folder = gi_folder.join(format!("ci{ci}"));
            let minors = (proc::cap_minor(&gi_folder), proc::cap_minor(&ci_folder));
            let device = nvml.device_by_uuid(format!("MIG-{card}/{gi}/{ci}"));
            let uuid = device.and_then(|d| d.uuid());
            if let ((Some(gi_minor), Some(ci_minor)), Ok(uuid)) = (minors, uuid) {
                found.push((uuid, [gi_minor, ci_minor]));
            }
        }
    }
    found
}

/// The profile in a MIG device's name: `NVIDIA A100-SXM4-80GB MIG 1g.10gb`. Empty where there is none.
fn profile(name: &str) -> String {
    name.rsplit_once("MIG ").map(|(_, profile)| profile.trim().to_owned()).unwrap_or_default()
}

/// The MIG devices of a card that can be granted: those whose nodes are known.
pub(super) fn devices(
    nvml: &Nvml,
    card: &Device,
    unit: &Unit,
    minor: u32,
    folder: &Path,
    why: &mut Option<String>,
) -> Vec<MigDevice> {
    if !enabled(card, why) {
        return Vec::new();
    }
    let caps = caps(nvml, unit, minor, folder);
    let listed = handles(card, why);
    let all = listed.len();
    let devices: Vec<MigDevice> = listed
        .into_iter()
        .filter_map(|(index, device)| {
            let uuid = answer(device.uuid(), why)?;
            let (_, caps) = caps.iter().find(|(of, _)| *of == uuid)?;
            let memory = answer(device.memory_info(), why).map_or(0, |m| m.total);
            let profile = answer(device.name(), why).map(|name| profile(&name)).unwrap_or_default();
            Some(MigDevice {
                index,
                unit: Unit::new(uuid).ok()?,
                memory,
                profile,
                caps: *caps,
                health: Health::Ok,
            })
        })
        .collect();
    if devices.is_empty() && why.is_none() {
        *why = Some(if all == 0 {
            "MIG mode is on, and it has no MIG devices".into()
        } else {
            format!("the capability files of its {all} MIG devices cannot be read")
        });
    }
    devices
}
