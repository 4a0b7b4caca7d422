//! `[change]`, `[ports]` and `[volumes]`: what the plugin does with containers and volumes.

use std::path::PathBuf;

use serde::Deserialize;

use crate::model::Backend;

/// How a change of GPUs is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleBy {
    /// The container is restarted with other GPUs.
    #[default]
    InPlace,
    /// A new container takes its place each time, so that the files of the version before are kept.
    Replace,
}

/// `[change]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeConfig {
    /// How a change of GPUs is made.
    pub scale: ScaleBy,
    /// Where snapshots keep writable layers. Default: `gpuctl/layers` in Docker's data root, on whose
    /// filesystem copies can be cheap.
    pub layers: Option<PathBuf>,
}

/// `[ports]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortsConfig {
    /// The ports that `-p auto:22` chooses from, both ends included.
    pub range: PortRange,
}

impl Default for PortsConfig {
    fn default() -> Self {
        // Below the kernel's own range for outgoing connections, 32768 to 60999.
        Self { range: PortRange { first: 20000, last: 29999 } }
    }
}

/// Ports of the host, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl TryFrom<String> for PortRange {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let port = |part: &str| part.trim().parse::<u16>().ok().filter(|port| *port > 0);
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: port(first)?, last: port(last)? }))
            .filter(|range| range.first <= range.last)
            .ok_or_else(|| format!("{text:?} is no range of ports, as 20000-29999 is"))
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The filesystem in a volume's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFilesystem {
    /// Grows while it is mounted, shrinks while it is not.
    #[default]
    Ext4,
    /// Only grows.
    Xfs,
}

/// `[volumes]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumesConfig {
    /// What keeps new volumes to their size; absent: what this host can do.
    pub backend: Option<Backend>,
    /// Where the files of the `image` backend are.
    pub images: PathBuf,
    /// The filesystem in them.
    pub filesystem: ImageFilesystem,
}

impl Default for VolumesConfig {
    fn default() -> Self {
        Self {
            backend: None,
            images: "/var/lib/gpuctl/volumes".into(),
            filesystem: ImageFilesystem::Ext4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_has_both_ends_and_the_right_way_round() {
        let range = |text: &str| PortRange::try_from(text.to_owned());
        assert_eq!(range("20000-29999"), Ok(PortRange { first: 20000, last: 29999 }));
        assert_eq!(range("80-80"), Ok(PortRange { first: 80, last: 80 }));
        for bad in ["", "1", "0-5", "9-8", "1-65536", "a-b", "1-2-3", "-"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
