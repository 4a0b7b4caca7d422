//! What GPUs the simulated node has. The file is the one that the simulated driver reads; only what
//! device nodes, CDI and /proc show is looked at here.

use std::path::Path;

use serde::Deserialize;

use crate::{Doing as _, Result};

/// The GPUs of a node.
#[derive(Debug, Clone, Deserialize)]
pub struct Profile {
    /// The driver's version.
    pub driver: String,
    /// In nvidia-smi order.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Debug, Clone, Deserialize)]
pub struct Gpu {
    /// Its UUID.
    pub uuid: String,
    /// N of /dev/nvidiaN.
    pub minor: u32,
    /// Its model.
    pub name: String,
    /// Its PCI address as NVML writes it.
    pub pci: String,
    /// Its memory, in bytes.
    pub memory_total: u64,
    /// Its NUMA node.
    #[serde(default)]
    pub numa: Option<u32>,
    /// Indexes of the GPUs that it has an NVLink to.
    #[serde(default)]
    pub links: Vec<u32>,
    /// Its MIG devices; `None` with MIG mode off.
    #[serde(default)]
    mig: Option<Vec<Mig>>,
}

/// One MIG device.
#[derive(Debug, Clone, Deserialize)]
pub struct Mig {
    /// Its UUID.
    pub uuid: String,
    /// Its place among the GPU's MIG devices.
    pub index: u32,
    /// Its memory, in bytes.
    pub memory: u64,
    /// Its profile: `1g.10gb`.
    #[serde(default)]
    pub profile: String,
    /// The id of its GPU instance.
    pub gi: u32,
    /// The id of its compute instance in that.
    pub ci: u32,
    /// Minors of its two nvidia-caps nodes: GPU instance and compute instance.
    pub caps: [u32; 2],
}

impl Gpu {
    /// Its MIG devices.
    pub fn mig(&self) -> &[Mig] {
        self.mig.as_deref().unwrap_or_default()
    }

    /// The PCI address as the driver's /proc folder has it: `0000:3b:00.0`.
    pub fn proc_name(&self) -> String {
        let lower = self.pci.to_ascii_lowercase();
        match lower.split_once(':') {
            Some((domain, rest)) if domain.len() == 8 => {
                format!("{}:{rest}", domain.get(4..).unwrap_or("0000"))
            }
            _ => lower,
        }
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// When the file cannot be read or is no profile.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).doing(format!("read profile {}", path.display()))?;
        serde_json::from_str(&text).doing(format!("understand profile {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proc_folder_has_a_short_domain_in_lower_case() {
        let of = |pci: &str| {
            Gpu {
                uuid: String::new(),
                minor: 0,
                name: String::new(),
                pci: pci.into(),
                memory_total: 0,
                numa: None,
                links: vec![],
                mig: None,
            }
            .proc_name()
        };
        assert_eq!(of("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(of("0000:3B:00.0"), "0000:3b:00.0");
    }
}
