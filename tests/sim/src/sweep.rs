//! Removes places whose maker is gone: what a test that was killed has left behind.

use std::fs;
use std::path::Path;

use crate::{Doing as _, Place, Result, files, processes};

/// Notes the calling process as the maker of a place.
///
/// # Errors
/// When the note cannot be written.
pub fn claim(place: &Place) -> Result<()> {
    let me = i32::try_from(std::process::id()).doing("know my pid")?;
    let start = processes::start_time(me).ok_or("cannot read my own start time")?;
    files::write(&place.owner(), &format!("{me} {start}\n"))
}

/// Whether the maker lives. A place without a note may be one that is just being made: it counts as
/// alive for a minute.
fn alive(place: &Place) -> bool {
    let Ok(note) = fs::read_to_string(place.owner()) else {
        let age = fs::metadata(place.root()).and_then(|m| m.modified()).ok();
        return age.and_then(|t| t.elapsed().ok()).is_none_or(|a| a.as_secs() < 60);
    };
    let mut words = note.split_whitespace();
    let pid = words.next().and_then(|w| w.parse().ok());
    let start: Option<u64> = words.next().and_then(|w| w.parse().ok());
    pid.and_then(processes::start_time).is_some_and(|s| Some(s) == start)
}

/// Removes every place below `base` whose maker is gone; returns how many.
///
/// # Errors
/// When one cannot be removed.
pub fn sweep(base: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let Ok(place) = Place::new(&entry.path()) else { continue };
        if !alive(&place) {
            processes::remove(&place)?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_whose_maker_is_gone_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let place = Place::new(&base.path().join(name)).unwrap();
            fs::create_dir(place.root()).unwrap();
            place
        };
        let (mine, dead, new) = (make("mine"), make("dead"), make("new"));
        claim(&mine).unwrap();
        files::write(&dead.owner(), "1 999999999999\n").unwrap();
        assert_eq!(sweep(base.path()), Ok(1));
        assert!(mine.root().exists() && new.root().exists() && !dead.root().exists());
    }
}
