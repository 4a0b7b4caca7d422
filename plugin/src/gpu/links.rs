//! How the cards lie to each other: NVLinks and NUMA nodes.

use std::path::Path;

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus};

use super::proc;

/// Words of the mask of memory nodes: 1024 nodes, the kernel's most.
const NODE_WORDS: usize = 16;
/// NVML_AFFINITY_SCOPE_NODE.
const SCOPE_NODE: u32 = 0;

/// The indexes that each card has an NVLink to, in the order given; through an NVSwitch counts too.
/// A driver that does not say leaves the lists empty.
pub(super) fn links(cards: &[(u32, Option<Device>)]) -> Vec<Vec<u32>> {
    cards
        .iter()
        .map(|(index, card)| {
            let Some(card) = card else { return Vec::new() };
            let linked = |(other, device): &(u32, Option<Device>)| {
                let device = device.as_ref().filter(|_| other != index)?;
                let status = card.p2p_status(device, P2pCapabilitiesIndex::NvLink).ok()?;
                matches!(status, P2pStatus::Ok).then_some(*other)
            };
            cards.iter().filter_map(linked).collect()
        })
        .collect()
}

/// The card's NUMA node: the kernel's word, else the driver's.
pub(super) fn numa(sys: &Path, pci: &str, card: Option<&Device>) -> Option<u32> {
    proc::numa(sys, pci).or_else(|| {
        let mask = card?.memory_affinity(NODE_WORDS, SCOPE_NODE).ok()?;
        let (word, bits) = mask.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        u32::try_from(word).ok()?.checked_mul(64)?.checked_add(bits.trailing_zeros())
    })
}
