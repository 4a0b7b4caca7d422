//! Where a container's writable layer is.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::LayerError;

/// Storage drivers whose upper directory this is: Docker's own, and containerd's snapshotter as
/// Docker and as containerd name it.
const OVERLAYS: [&str; 3] = ["overlay2", "overlayfs", "io.containerd.snapshotter.v1.overlayfs"];

/// What is known of a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Its name in Docker, for messages.
    pub name: &'a str,
    /// The storage driver that inspect names: `GraphDriver.Name`, or with containerd's image store
    /// the snapshotter. Some Engines name none.
    pub driver: Option<&'a str>,
    /// Inspect's `GraphDriver.Data.UpperDir`.
    pub shown: Option<&'a Path>,
    /// What our runtime noted when it was last made: the binding's `upper_dir`.
    pub noted: Option<&'a Path>,
    /// Whether it was never started.
    pub never_started: bool,
}

/// Its upper directory, which is there and whose way nobody but root can change. `None` of one that
/// never ran and of which nobody knows yet where it will be.
///
/// # Errors
/// [`LayerError::Refused`].
pub fn find(facts: &Facts<'_>) -> Result<Option<PathBuf>, LayerError> {
    let Some(upper) = named(facts)? else { return Ok(None) };
    check(upper).map_err(|why| {
        LayerError::refused(
            format!("the files of {} should be in {}, and {why}", facts.name, upper.display()),
            format!("docker inspect {} and mount show where Docker has them", facts.name),
        )
    })?;
    Ok(Some(upper.to_owned()))
}

/// What the facts say. Pure.
fn named<'a>(facts: &Facts<'a>) -> Result<Option<&'a Path>, LayerError> {
    let name = facts.name;
    if let Some(driver) = facts.driver.filter(|driver| !OVERLAYS.contains(driver)) {
        return Err(LayerError::refused(
            format!(
                "{name} is kept by the storage driver {driver}, and only overlay2 and overlayfs keep a \
                 container's files as a folder by themselves"
            ),
            format!("docker commit {name} IMAGE, then docker gpuctl run IMAGE"),
        ));
    }
    // What the Engine shows is of this container now; a note is of its last start.
    if let Some(path) = facts.shown.or(facts.noted) {
        if path.is_absolute() && path.components().count() > 3 {
            return Ok(Some(path));
        }
        return Err(LayerError::refused(
            format!("the files of {name} are said to be in {}, which cannot be", path.display()),
            format!("docker inspect {name} shows where Docker has them"),
        ));
    }
    if facts.never_started {
        return Ok(None);
    }
    Err(LayerError::refused(
        format!("where {name} has its files is not known: it last started before gpuctl was there"),
        format!("docker gpuctl restart {name} lets gpuctl see it"),
    ))
}

/// An upper directory has a work directory beside it, as overlay wants it; and what leads there is
/// root's alone. Its own owner is that of the container's root folder, whoever that is.
fn check(upper: &Path) -> Result<(), String> {
    let folder = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).map_err(|_| "it is not there".to_owned())?;
        if meta.is_dir() { Ok(meta) } else { Err(format!("{} is no folder", path.display())) }
    };
    let own = folder(upper)?;
    let Some(above) = upper.parent() else { return Err("that is the root".to_owned()) };
    let work = folder(&above.join("work")).map_err(|_| "no work folder is beside it".to_owned())?;
    if own.dev() != work.dev() {
        return Err("something is mounted on it".to_owned());
    }
    for path in above.ancestors() {
        // The way may lead through links of root's: Docker's root often is one.
        let meta = std::fs::metadata(path).map_err(|_| "it is not there".to_owned())?;
        let others = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if meta.uid() != 0 || others {
            return Err(format!("{} can be changed by others than root", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts<'static> =
        Facts { name: "train-1", driver: None, shown: None, noted: None, never_started: false };

    fn path(path: &str) -> Option<&Path> {
        Some(Path::new(path))
    }

    #[test]
    fn what_the_engine_shows_goes_before_what_was_noted() {
        let of = |driver, shown, noted| named(&Facts { driver, shown, noted, ..FACTS });
        let (shown, noted) = (path("/var/lib/docker/overlay2/x/diff"), path("/run/c/1/fs"));
        assert_eq!(of(Some("overlay2"), shown, None), Ok(shown));
        assert_eq!(of(Some("overlay2"), shown, noted), Ok(shown));
        assert_eq!(of(Some("overlayfs"), None, noted), Ok(noted));
        assert_eq!(of(None, None, noted), Ok(noted));
        assert!(of(None, path("relative/a/b/c"), None).is_err());
        assert!(of(None, path("/"), None).is_err() && of(None, path("/var/lib"), None).is_err());
    }

    #[test]
    fn other_storage_drivers_are_refused_by_name() {
        for driver in ["fuse-overlayfs", "btrfs", "zfs", "vfs", "devicemapper", "overlay", "nydus"]
        {
            let shown = path("/var/lib/docker/x/y/diff");
            let why = named(&Facts { driver: Some(driver), shown, ..FACTS }).unwrap_err();
            assert!(why.to_string().contains(driver) && why.hint().is_some(), "{why}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let why = named(&FACTS).unwrap_err();
        assert!(why.hint().unwrap().contains("restart train-1"), "{why}");
        let never = Facts { never_started: true, ..FACTS };
        assert_eq!(named(&never), Ok(None));
        assert!(named(&Facts { driver: Some("vfs"), ..never }).is_err());
    }

    #[test]
    fn a_folder_that_is_no_upper_directory_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: whose a folder is needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("id/diff");
        assert!(check(&upper).unwrap_err().contains("not there"));
        std::fs::create_dir_all(&upper).unwrap();
        assert!(check(&upper).unwrap_err().contains("no work folder"));
        std::fs::create_dir(dir.path().join("id/work")).unwrap();
        assert_eq!(check(&upper), Ok(()));
        std::os::unix::fs::chown(dir.path(), Some(1000), None).unwrap();
        assert!(check(&upper).unwrap_err().contains("others than root"));
        std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
        std::os::unix::fs::chown(&upper, Some(1000), None).unwrap();
        assert_eq!(check(&upper), Ok(()), "the container's root folder may be anybody's");
        std::fs::remove_dir(&upper).unwrap();
        std::os::unix::fs::symlink("/etc", &upper).unwrap();
        assert!(check(&upper).unwrap_err().contains("no folder"));
    }
}
