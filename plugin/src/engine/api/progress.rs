//! How far long work is.

use serde::{Deserialize, Serialize};

/// How far a copy of files is, or an image of them: told several times a second while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub doing: Doing,
    /// Whose files: a name in Docker.
    pub of: String,
    /// How much of that is done.
    pub done: Amount,
    /// How much it is in all, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Amount>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Files, folders and so on.
    pub files: u64,
    /// Bytes of files that are no hole.
    pub bytes: u64,
}

/// What is being done to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Their sizes are added up.
    Measuring,
    /// They are copied.
    Copying,
    /// The copy is brought to the disk.
    Syncing,
    /// They are compared with the copy.
    Comparing,
    /// Docker makes an image of them, and does not tell how much of them it has.
    Committing,
}
