//! Makes the filesystem of an image give just as much as was asked for: no block more, none less.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::ByteSize;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::{Detail, unwritten};
use crate::engine::api::Failure;
use crate::faults;
use crate::volume::{GivenUp, mounts, programs, rules};

/// How often it is enlarged until it is large enough. Each time what was missing is added, and some
/// of that goes into the filesystem's own tables.
const ROUNDS: u64 = 12;

/// Makes the filesystem.
fn format(detail: &Detail, size: ByteSize, given_up: GivenUp<'_>) -> Result<(), Failure> {
    if detail.allocated {
        take_room(detail)?;
    }
    let words = if detail.is_xfs() {
        vec!["-q".to_owned(), "-f".into()]
    } else {
        let journal = rules::journal_mebibytes(size);
        let inodes = rules::bytes_per_inode(size);
        // The file is new and all zeros: nothing has to be written over, and what is thrown away first
        // stays a hole, unless its room is to be kept.
        let room = if detail.allocated { ",nodiscard" } else { "" };
        let words = format!(
            "-q -F -b 4096 -m 0 -I 256 -i {inodes} -J size={journal} -e remount-ro \
             -E lazy_itable_init=0,lazy_journal_init=1{room}"
        );
        words.split_whitespace().map(str::to_owned).collect()
    };
    let mut words: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
    words.push(detail.file.as_ref());
    let program = if detail.is_xfs() { "mkfs.xfs" } else { "mkfs.ext4" };
    programs::done(program, &words, programs::LONG, given_up).map(drop)
}

/// Takes the room of the whole file on the host's disk.
pub(super) fn take_room(detail: &Detail) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().write(true).open(&detail.file);
    let file = open.map_err(unwritten(&detail.file))?;
    let length = file.metadata().map_err(unwritten(&detail.file))?.len();
    fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(length).unwrap_or(i64::MAX))
        .map_err(|e| unwritten(&detail.file)(e.into()))
}

/// What the mounted filesystem shows as used, our own files included, in bytes.
pub(super) fn used(detail: &Detail) -> Result<u64, Failure> {
    let stat = statvfs(&detail.mount_point()).map_err(|e| unread(detail, e.into()))?;
    Ok(stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(stat.fragment_size()))
}

fn unread(detail: &Detail, e: std::io::Error) -> Failure {
    let shown = detail.mount_point().display().to_string();
    Failure::new(format!("{shown} cannot be read: {}", plain_io_error(&e)))
}

/// What the filler takes, in bytes.
pub(super) fn filler(detail: &Detail) -> u64 {
    fs::symlink_metadata(detail.filler()).map_or(0, |meta| meta.blocks().saturating_mul(512))
}

/// What an empty volume's filesystem does not give, besides what it keeps back, in bytes.
fn base(detail: &Detail) -> Result<u64, Failure> {
    let stat = statvfs(&detail.mount_point()).map_err(|e| unread(detail, e.into()))?;
    let missing = stat.blocks().saturating_sub(stat.blocks_available());
    Ok(missing.saturating_mul(stat.fragment_size()).saturating_sub(keeps(detail)?))
}

/// What the filesystem keeps back beyond what it shows as used, in bytes. What XFS keeps it shows as
/// used.
fn keeps(detail: &Detail) -> Result<u64, Failure> {
    if detail.is_xfs() {
        return Ok(0);
    }
    let file = fs::metadata(&detail.file).map_err(|e| unread(detail, e))?;
    Ok(rules::ext4_keeps(file.len()))
}

/// What the volume could hold if it were empty and there were no filler, in bytes.
fn room(detail: &Detail) -> Result<u64, Failure> {
    let stat = statvfs(&detail.mount_point()).map_err(|e| unread(detail, e.into()))?;
    let all = stat.blocks().saturating_mul(stat.fragment_size());
    let kept = keeps(detail)?;
    Ok(all.saturating_sub(kept + detail.base))
}

/// What is missing for the volume to have room for `size`, in bytes; 0 where nothing is.
pub(super) fn missing(detail: &Detail, size: ByteSize) -> Result<u64, Failure> {
    Ok(rules::whole_blocks(size).saturating_sub(room(detail)?))
}

/// Makes the filesystem in the empty file, mounts it, and makes the volume's folder; made anew until
/// it is large enough. What an empty one does not give, see `base`.
pub(super) fn make(detail: &Detail, size: ByteSize, given_up: GivenUp<'_>) -> Result<u64, Failure> {
    let mut bytes = rules::image_bytes(size, detail.is_xfs());
    for _ in 0..ROUNDS {
        let open = fs::OpenOptions::new().write(true).truncate(true).open(&detail.file);
        let file = open.map_err(unwritten(&detail.file))?;
        file.set_len(bytes).map_err(unwritten(&detail.file))?;
        format(detail, size, given_up)?;
        faults::point("image:formatted");
        super::mounted::mount(detail, &[])?;
        let content = detail.content();
        fs::DirBuilder::new().mode(0o755).create(&content).map_err(unwritten(&content))?;
        let detail = Detail { base: base(detail)?, ..detail.clone() };
        match missing(&detail, size)? {
            0 => {
                fill_up(&detail, size)?;
                return Ok(detail.base);
            }
            more => bytes += rules::whole_blocks(ByteSize(more + more / 16)),
        }
        super::mounted::unmount_released(&detail)?;
    }
    Err(too_odd(detail, size))
}

/// Enlarges it until it has room for `size`, and fills up what is too much. It may be in use.
pub(super) fn grow(detail: &Detail, size: ByteSize, given_up: GivenUp<'_>) -> Result<(), Failure> {
    for round in 0..ROUNDS {
        match missing(detail, size)? {
            0 => return fill_up(detail, size),
            more => enlarge(detail, more + more / 16 + (round << 18), given_up)?,
        }
    }
    Err(too_odd(detail, size))
}

/// Takes what there is too much, so that there is room for `size` and no more.
pub(super) fn fill_up(detail: &Detail, size: ByteSize) -> Result<(), Failure> {
    match room(detail)?.checked_sub(rules::whole_blocks(size)) {
        Some(surplus) => fill(detail, surplus),
        None => Err(too_odd(detail, size)),
    }
}

fn too_odd(detail: &Detail, size: ByteSize) -> Failure {
    Failure::new(format!("{} does not get to {size}", detail.file.display())).hint(super::BY_COPY)
}

/// Adds bytes to the file, its loop device and its filesystem.
fn enlarge(detail: &Detail, more: u64, given_up: GivenUp<'_>) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().write(true).open(&detail.file);
    let file = open.map_err(unwritten(&detail.file))?;
    let before = file.metadata().map_err(unwritten(&detail.file))?.len();
    let length = rules::whole_blocks(ByteSize(before.saturating_add(more)));
    file.set_len(length).map_err(unwritten(&detail.file))?;
    if detail.allocated
        && let Err(why) = take_room(detail)
    {
        // Nothing but the file has grown yet.
        file.set_len(before).map_err(unwritten(&detail.file))?;
        return Err(why);
    }
    let point = detail.mount_point();
    let mount = mounts::at(&point).map_err(|e| unread(detail, e))?;
    faults::point("image:longer");
    let device = mount
        .map(|mount| mount.source)
        .ok_or_else(|| Failure::new(format!("{} is not mounted", point.display())))?;
    programs::done("losetup", &["-c".as_ref(), device.as_ref()], programs::SHORT, &|| false)?;
    faults::point("image:device");
    if detail.is_xfs() {
        programs::done("xfs_growfs", &["-d".as_ref(), point.as_ref()], programs::LONG, given_up)?;
    } else {
        programs::done("resize2fs", &[device.as_ref()], programs::LONG, given_up)
            .map_err(|why| why.hint(super::BY_COPY))?;
        keep(&device, length);
    }
    Ok(())
}

/// Has ext4 keep back as much as it will after the next mount. Where that cannot be said to it, there
/// is some more room until then.
fn keep(device: &str, length: u64) {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let clusters = rules::ext4_keeps(length) / rules::BLOCK;
    let _ = fs::write(format!("/sys/fs/ext4/{name}/reserved_clusters"), clusters.to_string());
}

/// Gives the filler this many bytes.
fn fill(detail: &Detail, bytes: u64) -> Result<(), Failure> {
    let path = detail.filler();
    let now = filler(detail);
    if bytes == now {
        return Ok(());
    }
    let open = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(&path);
    let file = open.map_err(unwritten(&path))?;
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    if bytes > now {
        fallocate(file.as_fd(), FallocateFlags::empty(), 0, length)
            .map_err(|e| unwritten(&path)(e.into()))?;
    }
    file.set_len(bytes).map_err(unwritten(&path))
}
