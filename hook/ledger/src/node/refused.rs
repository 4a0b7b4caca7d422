//! Starts that were refused and that the service tries again: one note a container, in the state
//! folder, so that a reboot and a service that is down lose none.

use std::io::{ErrorKind, Result};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Paths;
use crate::model::{ContainerId, GpuRequest, SCHEMA, Timestamp};
use crate::node::files;
use crate::rules::retry::WaitsFor;

/// Longest note, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The most notes. Whoever comes later is refused as ever, and not tried again.
const MOST: usize = 256;
/// Longest reason, in characters.
const LONGEST_REASON: usize = 600;

/// A start that was refused for a reason that passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStart {
    /// Layout of this file, [`SCHEMA`].
    pub schema: u32,
    /// The container.
    pub container: ContainerId,
    /// Its name in Docker then.
    pub docker_name: String,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// Why it was refused the last time, on one line.
    pub reason: String,
    /// What it asks for; absent where that was not known yet: its binding says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<GpuRequest>,
    /// How often it was refused.
    pub tries: u32,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

fn folder(paths: &Paths) -> PathBuf {
    paths.state.join("refused")
}

fn path(paths: &Paths, id: &ContainerId) -> PathBuf {
    folder(paths).join(format!("{id}.json"))
}

/// A refusal of now.
#[derive(Debug, Clone)]
pub struct Refused<'a> {
    /// The container.
    pub container: &'a ContainerId,
    /// Its name in Docker.
    pub docker_name: &'a str,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// Why, on one line.
    pub reason: &'a str,
    /// What it asks for, where that is known.
    pub request: Option<&'a GpuRequest>,
}

/// Notes a refusal: one more where some are noted already. Says whether it is noted: not where there
/// are too many.
///
/// # Errors
/// The system's.
pub fn note(paths: &Paths, refused: &Refused<'_>) -> Result<bool> {
    let now = Timestamp::now();
    let before = read(paths, refused.container).ok().flatten();
    files::make_private_dir(&folder(paths))?;
    if before.is_none() && std::fs::read_dir(folder(paths))?.take(MOST).count() >= MOST {
        return Ok(false);
    }
    let (tries, first) = before.as_ref().map_or((0, now), |b| (b.tries, b.first));
    let request = refused.request.cloned().or_else(|| before.and_then(|b| b.request));
    write(
        paths,
        &RefusedStart {
            schema: SCHEMA,
            container: refused.container.clone(),
            docker_name: refused.docker_name.to_owned(),
            waits_for: refused.waits_for,
            reason: refused.reason.chars().take(LONGEST_REASON).collect(),
            request,
            tries: tries.saturating_add(1),
            first,
            last: now,
        },
    )?;
    Ok(true)
}

/// Puts a note in the place of the one before.
///
/// # Errors
/// The system's.
pub fn write(paths: &Paths, note: &RefusedStart) -> Result<()> {
    files::replace_json(&path(paths, &note.container), note, true)
}

/// The note of a container; `None` where there is none.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidData`] where it cannot be understood.
pub fn read(paths: &Paths, id: &ContainerId) -> Result<Option<RefusedStart>> {
    let note: Option<RefusedStart> = files::read_json(&path(paths, id), LONGEST)?;
    match note {
        Some(note) if note.schema > SCHEMA || note.container != *id => {
            Err(ErrorKind::InvalidData.into())
        }
        note => Ok(note),
    }
}

/// Forgets the note of a container; none there is no fault.
///
/// # Errors
/// The system's.
pub fn forget(paths: &Paths, id: &ContainerId) -> Result<()> {
    files::remove(&path(paths, id))
}

/// All notes that can be read, the one refused first at the front. One that cannot be read has lost
/// what it was for: it is removed.
pub fn all(paths: &Paths) -> Vec<RefusedStart> {
    let Ok(entries) = std::fs::read_dir(folder(paths)) else { return Vec::new() };
    let mut notes = Vec::new();
    for entry in entries.flatten().take(2 * MOST) {
        let name = entry.file_name();
        // A dot begins the temporary files of a replacement under way.
        let id =
            name.to_str().filter(|n| !n.starts_with('.')).and_then(|n| n.strip_suffix(".json"));
        let Some(id) = id.and_then(|id| ContainerId::new(id).ok()) else { continue };
        match read(paths, &id) {
            Ok(Some(note)) => notes.push(note),
            Err(e) if e.kind() == ErrorKind::InvalidData => drop(forget(paths, &id)),
            Ok(None) | Err(_) => {}
        }
    }
    notes.sort_by(|a, b| (a.first, &a.container).cmp(&(b.first, &b.container)));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &tempfile::TempDir) -> Paths {
        Paths { state: dir.path().join("state"), ..Paths::default() }
    }

    fn id(n: usize) -> ContainerId {
        ContainerId::new(format!("{n:064x}")).unwrap()
    }

    fn refuse(paths: &Paths, n: usize, request: Option<&GpuRequest>) -> bool {
        let refused = Refused {
            container: &id(n),
            docker_name: "train",
            waits_for: WaitsFor::Gpus,
            reason: "1 GPU asked for, 0 free",
            request,
        };
        note(paths, &refused).unwrap()
    }

    #[test]
    fn refusals_are_counted_and_what_was_asked_for_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        assert_eq!(all(&paths), []);
        assert!(refuse(&paths, 1, Some(&GpuRequest::Count(2))));
        assert!(refuse(&paths, 1, None));
        let note = read(&paths, &id(1)).unwrap().unwrap();
        assert_eq!((note.tries, note.request.clone()), (2, Some(GpuRequest::Count(2))));
        assert!(note.first <= note.last);
        assert_eq!(all(&paths), [note]);
        forget(&paths, &id(1)).unwrap();
        forget(&paths, &id(1)).unwrap();
        assert_eq!(all(&paths), []);
    }

    #[test]
    fn there_are_so_many_and_no_more_and_a_torn_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        for n in 0..MOST {
            assert!(refuse(&paths, n, None), "{n}");
        }
        assert!(!refuse(&paths, MOST, None));
        assert!(refuse(&paths, 0, None), "one that is noted is counted on");
        std::fs::write(path(&paths, &id(3)), "{\"schema\":").unwrap();
        assert_eq!(all(&paths).len(), MOST - 1);
        assert!(refuse(&paths, MOST, None));
    }
}
