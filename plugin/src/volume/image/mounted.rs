//! Where an image is mounted: here, by a loop device, and by systemd at the next boot.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::node::files;
use nix::mount::{MntFlags, umount2};

use super::{Detail, unwritten};
use crate::engine::api::Failure;
use crate::volume::{mounts, programs, unit};

/// Where systemd looks for units of the host's own.
const UNITS: &str = "/etc/systemd/system";
/// There where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";
/// How long an unmount waits for whoever looks into the volume for a moment.
const BUSY: Duration = Duration::from_secs(3);

/// Whether it is mounted: then its mount point is on another filesystem than the folder that this is in.
pub(super) fn is_mounted(detail: &Detail) -> Result<bool, Failure> {
    is_mount_point(&detail.mount_point()).map_err(|e| {
        let shown = detail.mount_point().display().to_string();
        Failure::new(format!("{shown} cannot be looked at: {}", plain_io_error(&e)))
    })
}

fn is_mount_point(point: &Path) -> std::io::Result<bool> {
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev());
    match device(point) {
        Ok(its) => Ok(its != device(point.parent().unwrap_or(Path::new("/")))?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether an image in this folder may have to be mounted; said without asking ledger or Engine.
pub(crate) fn may_have_detached(images: &Path) -> bool {
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    let files = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "img"));
    files.into_iter().any(|file| {
        let point = images.join("mounts").join(file.file_stem().unwrap_or_default());
        !is_mount_point(&point).unwrap_or(false)
    })
}

/// Mounts it, with these options besides its own.
pub(super) fn mount(detail: &Detail, more: &[&str]) -> Result<(), Failure> {
    let point = detail.mount_point();
    files::make_private_dir(&point).map_err(unwritten(&point))?;
    let options = [&[detail.options()], more].concat().join(",");
    let words: [&std::ffi::OsStr; 6] = [
        "-t".as_ref(),
        detail.filesystem.as_ref(),
        "-o".as_ref(),
        options.as_ref(),
        detail.file.as_ref(),
        point.as_ref(),
    ];
    programs::done("mount", &words, programs::SHORT, &|| false).map(drop).map_err(|why| {
        why.hint(
            "is the loop driver there (modprobe loop)? a damaged image is checked with e2fsck -f",
        )
    })
}

/// The unit's file, and the link by which docker.service asks for it.
pub(super) fn unit_files(detail: &Detail) -> [PathBuf; 2] {
    let name = unit::name(&detail.mount_point());
    [Path::new(UNITS).join(&name), Path::new(UNITS).join("docker.service.wants").join(&name)]
}

/// Writes the unit that mounts it at the next boot, where systemd runs.
pub(super) fn write_unit(detail: &Detail) -> Result<(), Failure> {
    if !Path::new(SYSTEMD).is_dir() {
        return Ok(());
    }
    let [file, link] = unit_files(detail);
    let text =
        unit::text(&detail.file, &detail.mount_point(), &detail.filesystem, detail.options());
    if fs::read_to_string(&file).ok().as_deref() != Some(&text) {
        files::replace(&file, text.as_bytes(), 0o644).map_err(unwritten(&file))?;
    }
    if fs::read_link(&link).ok().as_ref() != Some(&file) {
        let folder = link.parent().unwrap_or(Path::new("/"));
        files::make_open_dir(folder).map_err(unwritten(folder))?;
        files::remove(&link).map_err(unwritten(&link))?;
        std::os::unix::fs::symlink(&file, &link).map_err(unwritten(&link))?;
    }
    Ok(())
}

/// Unmounts what only we know of, and makes sure that its loop device has let go of the file.
pub(super) fn unmount_released(detail: &Detail) -> Result<(), Failure> {
    let mounted = fs::symlink_metadata(detail.mount_point());
    unmount(detail)?;
    let Ok(mounted) = mounted else { return released(detail) };
    let (major, minor) =
        (nix::sys::stat::major(mounted.dev()), nix::sys::stat::minor(mounted.dev()));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let until = Instant::now() + BUSY;
    while backs(&device, detail) {
        if Instant::now() > until {
            return released(detail);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether the image is what a loop device, by its folder in /sys, shows.
fn backs(device: &Path, detail: &Detail) -> bool {
    fs::read_to_string(device.join("loop/backing_file"))
        .is_ok_and(|text| Path::new(text.trim_end()) == detail.file)
}

/// Unmounts it wherever it is mounted here; its loop device goes with the last of them.
pub(super) fn unmount(detail: &Detail) -> Result<(), Failure> {
    let point = detail.mount_point();
    let until = Instant::now() + BUSY;
    while is_mounted(detail)? {
        match umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EBUSY) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => {
                let shown = point.display();
                return Err(Failure::new(format!("{shown} cannot be unmounted: {}", e.desc()))
                    .hint(format!("fuser -vm {shown} shows who uses it")));
            }
        }
    }
    Ok(())
}

/// Makes sure that nothing has the image any more, in whatever mount namespace: its loop device is gone.
pub(super) fn released(detail: &Detail) -> Result<(), Failure> {
    let until = Instant::now() + BUSY;
    loop {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let device = devices.map(|d| d.path()).find(|device| backs(device, detail));
        match device {
            None => return Ok(()),
            Some(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Some(device) => {
                let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let holders = mounts::processes_with(&format!("/dev/{name}"));
                let hint = match holders.as_slice() {
                    [] => "something has one of its files open, or its mounts".to_owned(),
                    _ => "these processes have mounts of their own, with it: stop them, then try again"
                        .to_owned(),
                };
                return Err(Failure::new(format!(
                    "{} is unmounted here, and something else still has it as /dev/{name}",
                    detail.mount_point().display()
                ))
                .details(holders)
                .hint(hint));
            }
        }
    }
}
