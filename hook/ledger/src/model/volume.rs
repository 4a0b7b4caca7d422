//! Records of volumes with a size. docs/ledger.md lists the keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BootId, ByteSize, Process, Timestamp, Token, Version, VolumeName};

/// What keeps a volume to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Docker's local driver with its size option: project quotas of XFS.
    Size,
    /// A file with a filesystem in it.
    Image,
    /// Nothing: a volume that was taken in.
    Plain,
}

impl Backend {
    /// The word for it: `size`, `image`, `plain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Image => "image",
            Self::Plain => "plain",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// `/volumes/<name>`: the current version of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Layout, [`super::SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub name: VolumeName,
    /// The current version.
    pub version: Version,
    /// The volume in Docker; absent once it was removed (history stays).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_name: Option<String>,
    /// Who owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When the current version came to be.
    pub at: Timestamp,
}

/// `/volume-versions/<name>/<n>`: one version of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeVersionRecord {
    /// Layout, [`super::SCHEMA`].
    pub schema: u32,
    /// The volume's name.
    pub name: VolumeName,
    /// The version.
    pub version: Version,
    /// The volume in Docker: `data-3`; of one taken in, the name that it had.
    pub docker_name: String,
    /// How much fits in; absent where nothing keeps it to a size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// What keeps it to that.
    pub backend: Backend,
    /// What the backend needs to find it again: the image's file, its filesystem.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
    /// When it came to be.
    pub at: Timestamp,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why: `create`, `resize 20GB -> 50GB`.
    pub why: String,
    /// Docker's inspect of the volume as it was made.
    pub spec: Value,
}

/// Which change to a volume is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeOperationKind {
    /// volume create.
    Create,
    /// volume resize and rollback: a new version with the same content.
    Resize,
    /// volume resize --in-place.
    InPlace,
    /// volume rm, and prune.
    Remove,
    /// volume adopt.
    Adopt,
}

/// `/volume-operations/<name>`: the journal of a change to a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOperation {
    /// Layout, [`super::SCHEMA`].
    pub schema: u32,
    /// The volume's name.
    pub name: VolumeName,
    /// Which change.
    pub kind: VolumeOperationKind,
    /// What its side effects carry.
    pub token: Token,
    /// Who runs it.
    pub actor: Process,
    /// The boot in which it runs.
    pub boot_id: BootId,
    /// When it began.
    pub since: Timestamp,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The last step begun.
    pub step: String,
    /// What finishing or undoing needs, by kind.
    pub data: Value,
}
