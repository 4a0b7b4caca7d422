//! What setup writes down of itself, in the state folder, so that --remove knows what was there.

use serde::{Deserialize, Serialize};

/// The layout of the file.
pub(super) const SCHEMA: u32 = 1;
/// Its name in the state folder.
pub(super) const FILE: &str = "setup.json";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Layout.
    pub(super) schema: u32,
    /// `observe`, `cooperative` or `strict`.
    pub(super) level: String,
    /// The default runtime before us; absent where none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default_runtime: Option<String>,
    /// Runtimes of daemon.json that strict mode leads through us: name, and the program that it named
    /// before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) led: Vec<(String, String)>,
}
