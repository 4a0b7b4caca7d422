//! What the kernel shows of the cards without NVML: the driver's folder in /proc, and sysfs. Here a
//! card that no longer answers still has its name.

use std::path::Path;

use gpuctl_ledger::model::Unit;

use super::file;

/// The most cards that are looked at.
const MOST: usize = 256;

/// One `gpus/<pci>/information` of the driver's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// The folder's name: `0000:3b:00.0`.
    pub(super) pci: String,
    /// Not known before a card's first use, when the driver writes question marks.
    pub(super) unit: Option<Unit>,
    pub(super) minor: Option<u32>,
    pub(super) model: Option<String>,
}

/// The cards of the driver's folder by PCI address, which is NVML's order; none where it cannot be
/// read.
pub(super) fn cards(proc: &Path) -> Vec<Fact> {
    let Ok(entries) = std::fs::read_dir(proc.join("gpus")) else { return Vec::new() };
    let mut cards: Vec<Fact> = entries
        .take(MOST)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let text = file::read_text(&entry.path().join("information"))?;
            Some(information(entry.file_name().to_str()?, &text))
        })
        .collect();
    cards.sort_by(|a, b| a.pci.cmp(&b.pci));
    cards
}

fn information(pci: &str, text: &str) -> Fact {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    Fact {
        pci: pci.to_owned(),
        unit: field("GPU UUID").and_then(|u| Unit::new(u).ok()),
        minor: field("Device Minor").and_then(|m| m.parse().ok()),
        model: field("Model").map(str::to_owned),
    }
}

/// The minor of the nvidia-caps node that the capability's `access` file names.
pub(super) fn cap_minor(capability: &Path) -> Option<u32> {
    let text = file::read_text(&capability.join("access"))?;
    text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())
}

/// Numbers of the entries `<prefix>N` of a folder, in order.
pub(super) fn numbered(folder: &Path, prefix: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .take(MOST)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The NUMA node of a PCI device; `None` where the machine has but one or does not say.
pub(super) fn numa(sys: &Path, pci: &str) -> Option<u32> {
    let (domain, rest) = pci.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let address = format!("{domain:04x}:{}", rest.to_ascii_lowercase());
    let plain = |b: u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
    if !address.bytes().all(plain) || address.contains("..") {
        return None;
    }
    let text = file::read_text(&sys.join("bus/pci/devices").join(address).join("numa_node"))?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_word_for_a_card_is_read() {
        let text = "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 18\nGPU UUID: \t \
                    GPU-20bed2f5-819b-69ad-8d42-d3e1446080c1\nBus Location: \t 0000:3b:00.0\n\
                    Device Minor: \t 2\nGPU Excluded:\t No\n";
        let fact = information("0000:3b:00.0", text);
        assert_eq!(fact.minor, Some(2));
        assert_eq!(fact.model.as_deref(), Some("NVIDIA A100-SXM4-80GB"));
        assert_eq!(
            fact.unit.as_ref().map(Unit::as_str),
            Some("GPU-20bed2f5-819b-69ad-8d42-d3e1446080c1")
        );
        let unused = information("0000:3b:00.0", "GPU UUID: \t GPU-????????-????-????\n");
        assert_eq!((unused.unit, unused.minor), (None, None));
    }

    #[test]
    fn the_numa_node_is_that_of_the_cards_address() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("bus/pci/devices/0000:3b:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("numa_node"), "1\n").unwrap();
        assert_eq!(numa(sys.path(), "00000000:3B:00.0"), Some(1));
        assert_eq!(numa(sys.path(), "00000000:3C:00.0"), None);
        assert_eq!(numa(sys.path(), "0:../0000:3b:00.0"), None);
        std::fs::write(device.join("numa_node"), "-1\n").unwrap();
        assert_eq!(numa(sys.path(), "00000000:3B:00.0"), None);
    }
}
