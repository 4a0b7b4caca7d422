//! File systems of their own in a file: ext4, xfs with shared blocks, btrfs.
//!
//! Each is mounted in a mount namespace that only the calling thread and what it starts from then on
//! see, and its image has no name any more once it is mounted. So nothing of it is left, however the
//! test ends: with the last process the mount goes, with the mount the loop device, with that the
//! image.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;

use crate::skip;

/// So much stays free on the host's disk, in bytes.
const SPARE: u64 = 4 << 30;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shares no blocks between files.
    Ext4,
    /// Shares blocks between files.
    Xfs,
    /// Shares blocks between files.
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As `mount -t` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Whether files can share blocks.
    pub fn shares(self) -> bool {
        self != Self::Ext4
    }

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // A hundred thousand small files need as many inodes.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-i", "4096"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }
}

/// A file system that is mounted.
#[derive(Debug)]
pub struct LoopFs {
    kind: Kind,
    folder: PathBuf,
}

impl LoopFs {
    /// Of which kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Where a test fails, somebody may still have it open; then it goes with the last one.
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Makes a file system of a size in bytes; what is not written takes no room on the host's disk. `None`
/// after saying why it cannot be had here.
///
/// # Panics
/// When making or mounting it fails although all is there.
pub fn loop_fs(kind: Kind, size: u64) -> Option<LoopFs> {
    if !nix::unistd::geteuid().is_root() {
        skip("a file system in a file needs root");
        return None;
    }
    let (make, options) = kind.make();
    if gpuctl_sim::command::find(&[make]).is_err() {
        skip(&format!("{make} is not installed"));
        return None;
    }
    let base = Path::new("/var/tmp");
    let disk = statvfs(base).expect("the free room of /var/tmp");
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < size.saturating_add(SPARE) {
        skip(&format!(
            "{} MB are free in /var/tmp, {} MB too few",
            free >> 20,
            (size + SPARE) >> 20
        ));
        return None;
    }
    let folder =
        tempfile::Builder::new().prefix("gpuctl-loop-").tempdir_in(base).expect("a folder");
    // Known to Drop from here on.
    let fs = LoopFs { kind, folder: folder.keep() };
    private();
    let image = fs.folder.with_extension("image");
    std::fs::File::create_new(&image).and_then(|file| file.set_len(size)).expect("an image");
    let image_text = image.to_str().expect("a plain path");
    let folder = fs.folder.to_str().expect("a plain path");
    let made = run(make, &[options, &[image_text]].concat());
    // To look at a tree is not to change it.
    let mounted = made.and_then(|()| run("mount", &["-o", "loop,noatime", image_text, folder]));
    std::fs::remove_file(&image).expect("the image's name");
    mounted.expect("a mounted image");
    Some(fs)
}

/// A mount namespace of the calling thread's own. What is unmounted outside goes from it too: another test's
/// volume, say, which it would keep in use.
fn private() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).expect("mounts of its own");
}

/// Runs a program.
///
/// # Errors
/// What it said.
fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(words).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&out.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seen_here_only_and_nothing_is_left_of_it() {
        let Some(fs) = loop_fs(Kind::Ext4, 64 << 20) else { return };
        std::fs::write(fs.path().join("x"), b"in it").unwrap();
        let mounts = |of: &str| std::fs::read_to_string(format!("/proc/{of}/mountinfo")).unwrap();
        let folder = fs.path().to_owned();
        let name = folder.to_str().unwrap();
        assert!(mounts("thread-self").contains(name) && !mounts("1").contains(name));
        drop(fs);
        assert!(!folder.exists() && !folder.with_extension("image").exists());
    }
}
