//! How the cards lie to each other: NVLinks and NUMA nodes.

use std::path::Path;

use gpuctl_ledger::model::{Gpu, Path as Way, Peer};
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};
use nvml_wrapper::{Device, Nvml};

use super::proc;

/// The most NVLinks of a card; today's have 18.
const MOST_NVLINKS: u32 = 36;

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

/// How the cards lie to each other, in the order given: NVLinks and the way over PCI. Those that are as
/// far as can be are left out. `cards` have their links by now.
pub(super) fn peers(
    nvml: &Nvml,
    cards: &[Gpu],
    devices: &[(u32, Option<Device>)],
) -> Vec<Vec<Peer>> {
    let device = |index: u32| devices.iter().find(|(at, _)| *at == index)?.1.as_ref();
    cards
        .iter()
        .map(|card| {
            let Some(one) = device(card.index) else { return Vec::new() };
            let ends = nvlink_ends(one);
            let peer = |other: &Gpu| {
                let asked =
                    one.topology_common_ancestor(nvml.device_by_index(other.index).ok()?).ok();
                let near = card.numa.is_some() && card.numa == other.numa;
                let path = asked.map(way).unwrap_or(if near { Way::Socket } else { Way::System });
                let direct = ends.iter().filter(|end| **end == other.pci.to_ascii_lowercase());
                // Through an NVSwitch none of its links ends at the other card.
                let linked = u32::from(card.links.contains(&other.index));
                let nvlinks = u32::try_from(direct.count()).unwrap_or(linked).max(linked);
                let worth = nvlinks > 0 || path < Way::System;
                worth.then_some(Peer { gpu: other.index, nvlinks, path })
            };
            cards.iter().filter(|other| other.index != card.index).filter_map(peer).collect()
        })
        .collect()
}

/// The PCI addresses at the other ends of a card's NVLinks that are up.
fn nvlink_ends(card: &Device) -> Vec<String> {
    let mut ends = Vec::new();
    for number in 0..MOST_NVLINKS {
        let link = card.link_wrapper_for(number);
        // A card answers for as many as it has.
        let Ok(up) = link.is_active() else { break };
        if up && let Ok(end) = link.remote_pci_info() {
            ends.push(end.bus_id.to_ascii_lowercase());
        }
    }
    ends
}

fn way(level: TopologyLevel) -> Way {
    match level {
        TopologyLevel::Internal => Way::Board,
        TopologyLevel::Single => Way::Switch,
        TopologyLevel::Multiple => Way::Switches,
        TopologyLevel::HostBridge => Way::Bridge,
        TopologyLevel::Node => Way::Socket,
        TopologyLevel::System => Way::System,
    }
}

/// The card's NUMA node: the kernel's word, else the driver's.
pub(super) fn numa(sys: &Path, pci: &str, card: Option<&Device>) -> Option<u32> {
    proc::numa(sys, pci).or_else(|| {
        let mask = card?.memory_affinity(NODE_WORDS, SCOPE_NODE).ok()?;
        let (word, bits) = mask.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        u32::try_from(word).ok()?.checked_mul(64)?.checked_add(bits.trailing_zeros())
    })
}
