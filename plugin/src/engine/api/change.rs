//! Changes to a container as data: what is asked, and what comes of it.

use gpuctl_ledger::model::{ByteSize, ContainerName, DockerName, Version};
use serde::{Deserialize, Serialize};

use crate::change::{Change, Difference};

/// update and scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeRequest {
    /// As for start.
    pub name: String,
    /// What is to be changed.
    pub change: Change,
    /// How.
    pub how: How,
}

/// rollback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// As for start.
    pub name: String,
    /// To which; the one before the current when not said.
    pub version: Option<Version>,
    /// Whether that version's files come back too.
    pub files: bool,
    /// How.
    pub how: How,
}

/// How a change is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// Grace in seconds of a stop; the container's own when absent.
    pub timeout: Option<i32>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// By a new container, whatever the change.
    pub replace: bool,
    /// The files of now are kept as this version's first.
    pub snapshot: bool,
}

/// diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRequest {
    /// As for start.
    pub name: String,
    /// From which version; the one before the other when not said.
    pub from: Option<Version>,
    /// To which; the current one when not said.
    pub to: Option<Version>,
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its name.
    pub name: ContainerName,
    /// Its name in Docker now.
    pub docker_name: DockerName,
    /// For stderr.
    pub summary: String,
}

/// What came of diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The container.
    pub name: ContainerName,
    /// The first version.
    pub from: Version,
    /// The second.
    pub to: Version,
    /// In what they differ.
    pub differences: Vec<Difference>,
}

/// Where a version's files can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "snake_case")]
pub enum Files {
    /// They are the container's own: it is the current version.
    Current,
    /// Its container is there, stopped.
    Container,
    /// A snapshot was taken.
    Snapshot {
        /// What it takes on the disk, at most.
        bytes: ByteSize,
    },
    /// Nowhere.
    None,
}
