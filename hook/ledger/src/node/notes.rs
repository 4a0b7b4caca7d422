//! The node's own notes: grants of this boot under /run/gpuctl, and copies of bindings that outlast
//! it. They stand beside the ledger, so that the node stays exclusive, and containers without GPUs
//! start, whatever became of the ledger.

use std::io::{ErrorKind, Result};

use serde::{Deserialize, Serialize};

use crate::config::Paths;
use crate::model::{Binding, ContainerId, Evidence, Holder, Lease, Timestamp, Token, Unit};
use crate::node::files;

/// Longest note, in bytes.
const LONGEST: u64 = 64 * 1024;

/// What was granted to a container in this boot. Written before the claim is committed, removed
/// when the holder is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who holds it.
    pub holder: Holder,
    /// The GPUs.
    pub units: Vec<Unit>,
    /// Their minors.
    pub minors: Vec<u32>,
    /// The claim.
    pub token: Token,
    /// Since when.
    pub since: Timestamp,
    /// What tells whether the holder lives.
    pub evidence: Evidence,
    /// Whether the gate has let the container through.
    pub active: bool,
}

impl Grant {
    /// The lease that this grant is for, from what the node alone knows.
    pub fn lease(&self, unit: &Unit) -> Lease {
        use crate::model::{LeaseState, SCHEMA};
        Lease {
            schema: SCHEMA,
            unit: unit.clone(),
            holder: self.holder.clone(),
            since: self.since,
            token: self.token.clone(),
            state: if self.active { LeaseState::Active } else { LeaseState::Claimed },
            evidence: self.evidence.clone(),
        }
    }
}

fn grant_path(paths: &Paths, id: &ContainerId) -> std::path::PathBuf {
    paths.grants().join(format!("{id}.json"))
}

/// Notes a grant.
///
/// # Errors
/// The system's.
pub fn write_grant(paths: &Paths, grant: &Grant) -> Result<()> {
    files::make_dir_in_open(&paths.grants())?;
    files::replace_json(&grant_path(paths, &grant.holder.container), grant, false)
}

/// The grant noted for a container; `None` where there is none.
///
/// # Errors
/// The system's.
pub fn read_grant(paths: &Paths, id: &ContainerId) -> Result<Option<Grant>> {
    files::read_json(&grant_path(paths, id), LONGEST)
}

/// Whether a grant is noted for a container: one stat.
pub fn has_grant(paths: &Paths, id: &ContainerId) -> bool {
    grant_path(paths, id).symlink_metadata().is_ok()
}

/// Forgets the grant of a container.
///
/// # Errors
/// The system's.
pub fn remove_grant(paths: &Paths, id: &ContainerId) -> Result<()> {
    files::remove(&grant_path(paths, id))
}

/// All grants noted. A torn note is reported as an error: what it granted is not known.
///
/// # Errors
/// The system's.
pub fn grants(paths: &Paths) -> Result<Vec<Grant>> {
    let entries = match std::fs::read_dir(paths.grants()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut grants = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // A dot begins the temporary files of a replacement under way.
        if name.starts_with('.') || !name.ends_with(".json") {
            continue;
        }
        if let Some(grant) = files::read_json(&path, LONGEST)? {
            grants.push(grant);
        }
    }
    Ok(grants)
}

/// The containers whose notes are there and cannot be read.
pub fn torn(paths: &Paths) -> Vec<ContainerId> {
    let Ok(entries) = std::fs::read_dir(paths.grants()) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let id = ContainerId::new(name.strip_suffix(".json")?).ok()?;
            read_grant(paths, &id).is_err().then_some(id)
        })
        .collect()
}

fn binding_path(paths: &Paths, id: &ContainerId) -> std::path::PathBuf {
    paths.bindings().join(format!("{id}.json"))
}

/// Keeps the node's copy of a binding.
///
/// # Errors
/// The system's.
pub fn write_binding(paths: &Paths, binding: &Binding) -> Result<()> {
    files::make_private_dir(&paths.bindings())?;
    files::replace_json(&binding_path(paths, &binding.container), binding, true)
}

/// The node's copy of a binding; `None` where there is none.
///
/// # Errors
/// The system's.
pub fn read_binding(paths: &Paths, id: &ContainerId) -> Result<Option<Binding>> {
    files::read_json(&binding_path(paths, id), LONGEST)
}

/// Forgets the copy of a binding.
///
/// # Errors
/// The system's.
pub fn remove_binding(paths: &Paths, id: &ContainerId) -> Result<()> {
    files::remove(&binding_path(paths, id))
}
