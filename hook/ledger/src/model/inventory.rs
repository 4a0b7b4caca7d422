//! The GPUs of a node, as NVML last told them.

use serde::{Deserialize, Serialize};

use super::{GpuRef, Timestamp, Unit};

/// Whether a GPU may be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum Health {
    /// Nothing is known against it.
    #[default]
    Ok,
    /// It must not be granted: the reason, for people.
    Bad(String),
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its place in nvidia-smi's order.
    pub index: u32,
    /// Its UUID, the name the ledger knows it by.
    pub unit: Unit,
    /// N of /dev/nvidiaN.
    pub minor: u32,
    /// Its model: `NVIDIA A100-SXM4-80GB`.
    pub model: String,
    /// PCI address as NVML writes it: `00000000:3B:00.0`.
    pub pci: String,
    /// Memory, in bytes.
    pub memory: u64,
    /// Whether it may be granted.
    #[serde(default)]
    pub health: Health,
    /// NUMA node, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<u32>,
    /// Indexes of the GPUs it has an NVLink to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<u32>,
    /// How it lies to the others: those that are nearer than the other end of the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// Its MIG devices; with any, the GPU itself is no unit to be granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mig: Vec<MigDevice>,
    /// So many containers may share it: the config's word, not the driver's. 0 where it is not shared.
    #[serde(skip)]
    pub slots: u32,
}

/// How two GPUs reach each other over PCI. The nearer, the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// They are on one board.
    Board,
    /// Over one switch.
    Switch,
    /// Over several switches, and no host bridge.
    Switches,
    /// Over one host bridge.
    Bridge,
    /// Within one socket's memory.
    Socket,
    /// From socket to socket.
    System,
}

/// How a GPU lies to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The other's index.
    pub gpu: u32,
    /// So many NVLinks lead to it: 0 for none, 1 where the driver says only that there are some.
    #[serde(default)]
    pub nvlinks: u32,
    /// The way over PCI.
    pub path: Path,
}

impl Gpu {
    /// How it lies to another GPU. Of an inventory that tells no peers, links and NUMA nodes do.
    pub fn to(&self, other: &Self) -> Peer {
        if let Some(peer) = self.peers.iter().find(|peer| peer.gpu == other.index) {
            return *peer;
        }
        let near = self.peers.is_empty() && self.numa.is_some() && self.numa == other.numa;
        Peer {
            gpu: other.index,
            nvlinks: u32::from(self.links.contains(&other.index)),
            path: if near { Path::Socket } else { Path::System },
        }
    }
}

/// One MIG device of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigDevice {
    /// Its place among the GPU's MIG devices.
    pub index: u32,
    /// Its UUID.
    pub unit: Unit,
    /// Memory, in bytes.
    pub memory: u64,
    /// Its profile: `1g.10gb`. Empty where the driver does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    /// Minors of its two nvidia-caps nodes: GPU instance and compute instance.
    pub caps: [u32; 2],
    /// Whether it may be granted, where its GPU may.
    #[serde(default)]
    pub health: Health,
}

/// What a node has. Written by setup, at boot and by the service; the hook only reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Layout of this file, [`super::SCHEMA`].
    pub schema: u32,
    /// When NVML was asked.
    pub at: Timestamp,
    /// The driver's version, for people.
    pub driver: String,
    /// In nvidia-smi order.
    pub gpus: Vec<Gpu>,
}

impl Inventory {
    /// The whole GPU that a user's word means; `None` where the node has none such, or where it means
    /// a part of one ([`Inventory::locate`]).
    pub fn find(&self, wanted: &GpuRef) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| match wanted {
            GpuRef::Index(i) => gpu.index == *i,
            GpuRef::Minor(m) => gpu.minor == *m,
            GpuRef::Uuid(u) => {
                let (have, want) = (gpu.unit.as_str(), u.as_str());
                have.eq_ignore_ascii_case(want)
            }
            GpuRef::Pci(p) => same_pci(&gpu.pci, p),
            GpuRef::MigIndex(..) => false,
        })
    }

    /// The GPU with this UUID.
    pub fn by_unit(&self, unit: &Unit) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.unit.as_str().eq_ignore_ascii_case(unit.as_str()))
    }

    /// The GPU behind /dev/nvidiaN.
    pub fn by_minor(&self, minor: u32) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.minor == minor)
    }
}

/// Whether two spellings name one PCI device: the domain may have 8, 4 or no digits, hex any case.
fn same_pci(a: &str, b: &str) -> bool {
    fn parts(text: &str) -> Option<(u32, u32, u32, u32)> {
        let (rest, function) = text.rsplit_once('.')?;
        let mut fields = rest.rsplit(':');
        let hex = |t: &str| u32::from_str_radix(t, 16).ok();
        let device = hex(fields.next()?)?;
        let bus = hex(fields.next()?)?;
        let domain = fields.next().map_or(Some(0), hex)?;
        Some((domain, bus, device, hex(function)?))
    }
    matches!((parts(a), parts(b)), (Some(x), Some(y)) if x == y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_compared_by_value() {
        assert!(same_pci("00000000:3B:00.0", "0000:3b:00.0"));
        assert!(same_pci("3b:00.0", "00000000:3B:00.0"));
        assert!(!same_pci("3c:00.0", "00000000:3B:00.0"));
        assert!(!same_pci("", ""));
    }
}
