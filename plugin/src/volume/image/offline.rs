//! Gives an image another size while it is not mounted: a copy of it is checked and resized. Killed at
//! any moment, the image itself is as it was.

use std::fs;
use std::path::Path;

use gpuctl_ledger::model::ByteSize;

use super::{Detail, fit, unwritten};
use crate::engine::api::Failure;
use crate::faults;
use crate::volume::{GivenUp, programs, rules};

/// How often the copy is enlarged by what it lacks.
const ROUNDS: u32 = 8;

/// The copy, as an image of its own.
pub(super) fn copy_of(detail: &Detail) -> Detail {
    Detail { file: detail.file.with_extension("img.resized"), ..detail.clone() }
}

/// Removes the folder at which a copy was mounted to be measured.
pub(super) fn remove_mount_point(copy: &Detail) -> Result<(), Failure> {
    let point = copy.mount_point();
    match fs::remove_dir(&point) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unwritten(&point)(e)),
        _ => Ok(()),
    }
}

/// Makes the copy, large enough for `size`. What it is too large is filled up once it is mounted in
/// the image's place.
pub(super) fn resize(
    detail: &Detail,
    size: ByteSize,
    given_up: GivenUp<'_>,
) -> Result<(), Failure> {
    let copy = copy_of(detail);
    let words: [&std::ffi::OsStr; 4] = [
        "--reflink=auto".as_ref(),
        "--sparse=always".as_ref(),
        detail.file.as_ref(),
        copy.file.as_ref(),
    ];
    programs::done("cp", &words, programs::LONG, given_up)?;
    faults::point("image:copied");
    check(&copy, given_up)?;
    let inodes = rules::bytes_per_inode(size);
    let mut length = rules::whole_blocks(size) / inodes * (inodes + 256) + detail.base / 4;
    for _ in 0..ROUNDS {
        length = rules::whole_blocks(ByteSize(length));
        set_length(&copy, length, given_up)?;
        super::mounted::mount(&copy, &["ro"])?;
        let missing = fit::missing(&copy, size);
        faults::point("image:measured");
        super::mounted::unmount_released(&copy)?;
        match missing? {
            0 => {
                check(&copy, given_up)?;
                if copy.allocated {
                    fit::take_room(&copy)?;
                }
                return remove_mount_point(&copy);
            }
            more => length += more + more / 16,
        }
    }
    Err(Failure::new(format!("{} does not get to {size}", detail.file.display()))
        .hint(super::BY_COPY))
}

/// Checks the copy's filesystem.
fn check(copy: &Detail, given_up: GivenUp<'_>) -> Result<(), Failure> {
    let words: [&std::ffi::OsStr; 3] = ["-f".as_ref(), "-p".as_ref(), copy.file.as_ref()];
    let ended = programs::run("e2fsck", &words, programs::LONG, given_up)?;
    // 1: there was something to mend, and it is mended.
    if ended.code <= 1 {
        return Ok(());
    }
    Err(programs::failed("e2fsck", &words, &ended)
        .hint("this is of a copy, the volume itself was not touched; without --in-place a new volume is made"))
}

/// Gives file and filesystem this length.
fn set_length(copy: &Detail, length: u64, given_up: GivenUp<'_>) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().write(true).open(&copy.file);
    let file = open.map_err(unwritten(&copy.file))?;
    let now = file.metadata().map_err(unwritten(&copy.file))?.len();
    if now < length {
        file.set_len(length).map_err(unwritten(&copy.file))?;
    }
    let wanted = length / rules::BLOCK;
    let mut least = u64::MAX;
    // What it takes for the least is too much, and less each time that it comes nearer to it.
    while let Some(minimum) = resize_to(&copy.file, wanted, given_up)? {
        if minimum >= least || minimum <= wanted {
            let text = format!(
                "the filesystem in {} does not get to {} in place",
                copy.file.with_extension("").display(),
                ByteSize(length)
            );
            return Err(Failure::new(text).hint(super::BY_COPY));
        }
        least = minimum;
        resize_to(&copy.file, minimum, given_up)?;
    }
    file.set_len(length).map_err(unwritten(&copy.file))?;
    file.sync_all().map_err(unwritten(&copy.file))
}

/// Resizes a filesystem to so many blocks; else the least that resize2fs would make of it.
fn resize_to(file: &Path, blocks: u64, given_up: GivenUp<'_>) -> Result<Option<u64>, Failure> {
    let blocks = blocks.to_string();
    let words: [&std::ffi::OsStr; 2] = [file.as_ref(), blocks.as_ref()];
    let ended = programs::run("resize2fs", &words, programs::LONG, given_up)?;
    if ended.code == 0 {
        return Ok(None);
    }
    // A filesystem does not grow to more than some thousand times of what it was made with.
    minimum(&ended.stderr)
        .map(Some)
        .ok_or_else(|| programs::failed("resize2fs", &words, &ended).hint(super::BY_COPY))
}

/// Of `resize2fs: New size smaller than minimum (19998)`.
fn minimum(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("smaller than minimum (")?;
    rest.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_read_of_what_resize2fs_says() {
        let said =
            "resize2fs 1.47.0 (5-Feb-2023)\nresize2fs: New size smaller than minimum (19998)\n\n";
        assert_eq!(minimum(said), Some(19998));
        assert_eq!(minimum("resize2fs: No space left on device"), None);
    }
}
