//! What is asked of volumes and what is answered, as plain data: see [`super`].

use gpuctl_ledger::model::{Backend, ByteSize, Timestamp, Version, VolumeName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a user asks of volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "volume", rename_all = "snake_case")]
pub enum VolumeRequest {
    /// volume create.
    Create {
        /// Its name.
        name: VolumeName,
        /// How much is to fit in.
        size: ByteSize,
        /// What is to keep it to that; what the host can do where none is named.
        backend: Option<Backend>,
        /// `--label`s as key and value.
        labels: Vec<(String, String)>,
        /// The host's disk gives the room at once.
        allocate: bool,
    },
    /// volume ls.
    Ls,
    /// volume inspect.
    Inspect {
        /// Names as the user wrote them: `data` or `data-N`.
        names: Vec<String>,
    },
    /// volume resize.
    Resize {
        /// As for inspect.
        name: String,
        /// How much is to fit in.
        size: ByteSize,
        /// How.
        how: ResizeHow,
    },
    /// volume rollback.
    Rollback {
        /// As for inspect.
        name: String,
        /// The version whose content and size it gets; the one before the current where none is named.
        version: Option<Version>,
        /// How; never in place.
        how: ResizeHow,
    },
    /// volume history.
    History {
        /// The volume's name.
        name: String,
    },
    /// volume rm.
    Remove {
        /// As for inspect.
        names: Vec<String>,
        /// Its older versions and its records too.
        history: bool,
    },
    /// volume prune: old versions that no container mounts.
    Prune {
        /// Only tell which.
        dry_run: bool,
    },
    /// volume backends.
    Backends,
    /// volume adopt: a volume of Docker's becomes one of ours.
    Adopt {
        /// Its name in Docker.
        docker_name: String,
        /// Its name with us; the same where none is given.
        name: Option<VolumeName>,
    },
}

/// How a volume gets another size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeHow {
    /// The same volume gets another limit.
    pub in_place: bool,
    /// Managed containers that mount it are moved to the new version.
    pub roll: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// The content is compared without reading it.
    pub no_verify: bool,
    /// The host's disk gives the room at once.
    pub allocate: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "volume", content = "data", rename_all = "snake_case")]
pub enum VolumeAnswer {
    /// Of create, resize, rollback, adopt.
    Made {
        /// Its name in Docker now, for stdout.
        docker_name: String,
        /// For stderr.
        summary: String,
    },
    /// Of resize --dry-run and rollback --dry-run: one step a line, in order.
    Plan(Vec<String>),
    /// Of ls.
    Rows(Vec<VolumeRow>),
    /// Of inspect: one object a name.
    Inspect(Vec<Value>),
    /// Of history, oldest first.
    History(Vec<VolumeVersionRow>),
    /// Of prune.
    Pruned(Vec<PrunedRow>),
    /// Of backends.
    Backends(Vec<BackendRow>),
}

/// A row of volume ls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRow {
    /// Its name.
    pub name: VolumeName,
    /// Its current version.
    pub version: Version,
    /// Its name in Docker.
    pub docker_name: String,
    /// How much fits in.
    pub size: Option<ByteSize>,
    /// What of that is used; absent where it is not mounted.
    pub used: Option<ByteSize>,
    /// What keeps it to that.
    pub backend: Backend,
    /// Containers that mount it, running or not.
    pub containers: Vec<String>,
    /// Who made it.
    pub owner: Option<String>,
    /// When this version came to be.
    pub since: Timestamp,
    /// What is wrong with it, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A row of volume history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeVersionRow {
    /// The version.
    pub version: Version,
    /// Whether it is the current one.
    pub current: bool,
    /// Its name in Docker.
    pub docker_name: String,
    /// Whether Docker still has it.
    pub present: bool,
    /// How much fits in.
    pub size: Option<ByteSize>,
    /// What it costs on the host's disk; absent where it is gone. An image outlives its volume in Docker.
    pub on_disk: Option<ByteSize>,
    /// What keeps it to its size.
    pub backend: Backend,
    /// When it came to be.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: Option<String>,
    /// Why it came to be.
    pub why: String,
}

/// A version that prune removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedRow {
    /// Its name in Docker.
    pub docker_name: String,
    /// What it cost on the host's disk.
    pub on_disk: Option<ByteSize>,
    /// Why it was not removed, where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A row of volume backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    /// Which.
    pub backend: Backend,
    /// Whether new volumes are made so.
    pub preferred: bool,
    /// Why this host cannot; absent where it can.
    pub why_not: Option<String>,
    /// How it keeps a volume to its size, and where.
    pub how: String,
    /// What its disk still has free.
    pub free: Option<ByteSize>,
}
