//! The GPUs in quarantine, in a file of this boot: the service writes it, and whoever grants reads it,
//! so that a GPU stays held while the service is down.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, Paths};
use crate::model::{BootId, SCHEMA};
use crate::node::{files, lock};
use crate::rules::quarantine::Quarantine;

/// Longest file, in bytes.
const LONGEST: u64 = 1 << 20;
/// The lock under which it is changed: a file beside the grants.
const LOCK: &str = ".quarantine";
/// How long a change waits for another.
const LIMIT: Duration = Duration::from_secs(2);

fn path(paths: &Paths) -> PathBuf {
    paths.run.join("quarantine.json")
}

/// What was noted, of whichever boot; `None` where nothing was.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidData`] where it cannot be understood.
fn noted(paths: &Paths) -> Result<Option<Quarantine>> {
    match files::read_json::<Quarantine>(&path(paths), LONGEST)? {
        Some(noted) if noted.schema > SCHEMA => Err(ErrorKind::InvalidData.into()),
        noted => Ok(noted),
    }
}

/// The quarantine of this boot, empty where nothing was noted in it.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidData`] where it cannot be understood: then it is not known which
/// GPUs are sound.
pub fn read(paths: &Paths, boot_id: &BootId) -> Result<Quarantine> {
    let noted = noted(paths)?.filter(|noted| noted.boot_id == *boot_id);
    Ok(noted.unwrap_or_else(|| Quarantine::empty(boot_id.clone())))
}

/// Changes it: `change` is given what was noted, of whichever boot. A file that cannot be understood
/// is made anew: who changes it has just looked.
///
/// # Errors
/// The system's; [`ErrorKind::TimedOut`] where others are at it for too long.
pub fn update<T>(
    paths: &Paths,
    boot_id: &BootId,
    change: impl FnOnce(Quarantine) -> (Quarantine, T),
) -> Result<T> {
    let _lock = lock::take(&paths.grants(), LOCK, LIMIT)?
        .ok_or_else(|| Error::from(ErrorKind::TimedOut))?;
    let before = match noted(paths) {
        Ok(noted) => noted,
        Err(e) if e.kind() == ErrorKind::InvalidData => None,
        Err(e) => return Err(e),
    };
    let is_new = before.is_none();
    let before = before.unwrap_or_else(|| Quarantine::empty(boot_id.clone()));
    let (after, told) = change(before.clone());
    if is_new || after != before {
        files::make_open_dir(&paths.run)?;
        files::replace_json(&path(paths), &after, false)?;
    }
    Ok(told)
}

/// Names this loading of the driver: the kernel gives its module's folder another inode each time.
/// Empty where it cannot be told.
pub fn driver_loading(config: &Config) -> String {
    std::fs::metadata(&config.gpu.module).map_or_else(|_| String::new(), |m| m.ino().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Unit};

    #[test]
    fn it_holds_for_its_boot_and_a_torn_one_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { run: dir.path().join("run"), ..Paths::default() };
        let (this, other) = (BootId::new("b").unwrap(), BootId::new("c").unwrap());
        let unit = Unit::new("GPU-1").unwrap();
        assert_eq!(read(&paths, &this).unwrap(), Quarantine::empty(this.clone()));
        update(&paths, &this, |mut q| {
            q.fault(&unit, 79, Timestamp::EPOCH);
            (q, ())
        })
        .unwrap();
        assert!(read(&paths, &this).unwrap().of(&unit).is_some());
        assert!(read(&paths, &other).unwrap().of(&unit).is_none());
        std::fs::write(path(&paths), "{").unwrap();
        assert!(read(&paths, &this).is_err());
        update(&paths, &this, |q| (q, ())).unwrap();
        assert!(read(&paths, &this).unwrap().held.is_empty());
    }
}
