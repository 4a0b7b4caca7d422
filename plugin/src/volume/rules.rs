//! What is decided about volumes, as pure functions: sizes, backends, what a resize is.

use gpuctl_ledger::config::ImageFilesystem;
use gpuctl_ledger::model::{Backend, ByteSize};

use crate::engine::api::Failure;

/// A block of the filesystems that we make, in bytes.
pub(crate) const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A size in whole blocks, rounded up.
pub(crate) fn whole_blocks(size: ByteSize) -> u64 {
    size.0.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// One inode for so many bytes: a small volume must not run out of them before it runs out of blocks.
pub(crate) fn bytes_per_inode(size: ByteSize) -> u64 {
    match size.0 {
        s if s <= 64 * GIB => 4096,
        s if s <= TIB => 8192,
        _ => 16384,
    }
}

/// The size of ext4's journal, in MiB.
pub(crate) fn journal_mebibytes(size: ByteSize) -> u64 {
    match size.0 {
        s if s < 128 * MIB => 4,
        s if s < GIB => 16,
        s if s < 16 * GIB => 64,
        _ => 128,
    }
}

/// What ext4 keeps back for its own tables in an image of this length, in bytes: a fiftieth, at most
/// 4096 blocks.
pub(crate) fn ext4_keeps(length: u64) -> u64 {
    (length / BLOCK / 50).min(4096) * BLOCK
}

/// What ext4 needs beyond the files of an image of this length and its journal, in bytes, rather too much
/// than too little: what is too much is filled up, what is missing takes another attempt.
fn ext4_overhead(length: u64, size: ByteSize) -> u64 {
    const GROUP: u64 = 128 * MIB;
    let groups = length / GROUP + 1;
    let inodes = length / bytes_per_inode(size) * 256;
    // Of each group two bitmaps, and its share of the table of groups.
    let of_groups = groups * 3 * BLOCK;
    // The table of groups, with room to grow to a thousand times as many, lies in groups 0, 1 and the
    // powers of 3, 5 and 7.
    let table = (groups * 1024 * 64).div_ceil(BLOCK).min(1024) + groups * 64 / BLOCK + 2;
    let powers = |of: u64| std::iter::successors(Some(of), move |n| n.checked_mul(of));
    let copies: usize =
        [3, 5, 7].into_iter().map(|of| powers(of).take_while(|n| *n < groups).count()).sum();
    let copies = 2 + u64::try_from(copies).unwrap_or(64);
    inodes + of_groups + table * copies * BLOCK + ext4_keeps(length) + length / 256 + MIB / 4
}

/// About how long an image has to be for a volume of this size, in bytes. It is made exact once it
/// can be measured.
pub(crate) fn image_bytes(size: ByteSize, xfs: bool) -> u64 {
    let wanted = whole_blocks(size);
    if xfs {
        // Log, what each group keeps, and what is kept for when it is full.
        return whole_blocks(ByteSize(wanted.saturating_add(wanted / 64 + 100 * MIB)));
    }
    let files = wanted.saturating_add(journal_mebibytes(size) * MIB);
    let mut length = files;
    // What it needs for itself depends on how long it is: each time it comes nearer to that.
    for _ in 0..6 {
        length = files.saturating_add(ext4_overhead(length, size));
    }
    whole_blocks(ByteSize(length))
}

/// The smallest volume that a backend makes.
pub(crate) fn smallest(backend: Backend, filesystem: ImageFilesystem) -> ByteSize {
    match (backend, filesystem) {
        (Backend::Image, ImageFilesystem::Ext4) => ByteSize(8 * MIB),
        (Backend::Image, ImageFilesystem::Xfs) => ByteSize(256 * MIB),
        (Backend::Size | Backend::Plain, _) => ByteSize(MIB),
    }
}

/// A size as Docker's own option takes it: `20GB`, or bytes where that would not be exact.
pub(crate) fn docker_size(size: ByteSize) -> String {
    let shown = size.to_string();
    match ByteSize::parse(&shown) {
        Ok(same) if same == size => shown,
        _ => size.0.to_string(),
    }
}

/// What a host can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Why it cannot keep volumes to a size by Docker's own option; `None` where it can.
    pub(crate) no_size: Option<String>,
    /// Why not by images.
    pub(crate) no_image: Option<String>,
}

impl Abilities {
    /// Why a backend cannot be used; `None` where it can.
    pub(crate) fn why_not(&self, backend: Backend) -> Option<&str> {
        match backend {
            Backend::Size => self.no_size.as_deref(),
            Backend::Image => self.no_image.as_deref(),
            Backend::Plain => Some("it keeps no volume to a size"),
        }
    }

    /// The one that is taken where none is named: the config's, else Docker's own before images.
    pub(crate) fn preferred(&self, config: Option<Backend>) -> Option<Backend> {
        if config.is_some() {
            return config;
        }
        [Backend::Size, Backend::Image].into_iter().find(|b| self.why_not(*b).is_none())
    }
}

/// Chooses the backend of a new volume.
///
/// # Errors
/// [`Failure`], where the host cannot do what is wanted, or nothing.
pub(crate) fn choose(
    wanted: Option<Backend>,
    config: Option<Backend>,
    can: &Abilities,
) -> Result<Backend, Failure> {
    const HINT: &str = "docker gpuctl volume backends shows what this host can do";
    let Some(backend) = wanted.or_else(|| can.preferred(config)) else {
        let why = |b| format!("{b}  {}", can.why_not(b).unwrap_or_default());
        return Err(Failure::new("this host can keep no volume to a size")
            .details(vec![why(Backend::Size), why(Backend::Image)])
            .hint(HINT));
    };
    match can.why_not(backend) {
        None => Ok(backend),
        Some(why) => {
            Err(Failure::new(format!("this host has no backend {backend}: {why}")).hint(HINT))
        }
    }
}

/// Checks a size that a volume is to have.
///
/// # Errors
/// [`Failure`], where it is too small for its backend.
pub(crate) fn check_size(
    size: ByteSize,
    backend: Backend,
    filesystem: ImageFilesystem,
) -> Result<(), Failure> {
    let smallest = smallest(backend, filesystem);
    if size >= smallest {
        return Ok(());
    }
    let of = match (backend, filesystem) {
        (Backend::Image, ImageFilesystem::Xfs) => "image with xfs".to_owned(),
        _ => backend.to_string(),
    };
    Err(Failure::new(format!("{size} asked for, a volume of backend {of} has at least {smallest}"))
        .hint(format!("ask for {smallest} or more")))
}

/// What a resize comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resize {
    /// It has that size.
    Nothing,
    /// A new version with the same content.
    Copy,
    /// The same version gets a larger limit, while it is in use.
    Grow,
    /// The same version gets another limit, while it is not mounted.
    Offline,
}

/// What is known of the volume that is to be resized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    /// Its name in Docker.
    pub(crate) docker_name: &'a str,
    /// Its size; `None` where nothing keeps it to one.
    pub(crate) size: Option<ByteSize>,
    /// Its backend.
    pub(crate) backend: Backend,
    /// The filesystem in its image.
    pub(crate) filesystem: ImageFilesystem,
    /// What is used of it.
    pub(crate) used: ByteSize,
    /// Whether its image may be grown while it is mounted.
    pub(crate) grows_mounted: bool,
}

/// Decides what a resize comes to.
///
/// # Errors
/// [`Failure`], with both figures where more is used than would fit, and where the backend cannot do it
/// in place.
pub(crate) fn resize(before: Before<'_>, to: ByteSize, in_place: bool) -> Result<Resize, Failure> {
    let name = before.docker_name;
    if before.size == Some(to) {
        return Ok(Resize::Nothing);
    }
    if before.used > to {
        let used = before.used;
        return Err(Failure::new(format!("{to} asked for, {used} of {name} are used"))
            .details(vec![format!("{} bytes asked for, {} bytes used", to.0, used.0)])
            .hint("remove files in it first, or ask for more"));
    }
    if !in_place {
        return Ok(Resize::Copy);
    }
    let other =
        "docker gpuctl volume resize without --in-place makes a new version with the same content";
    let smaller = before.size.is_some_and(|size| to < size);
    match before.backend {
        Backend::Image if !smaller && before.grows_mounted => Ok(Resize::Grow),
        Backend::Image if before.filesystem == ImageFilesystem::Ext4 => Ok(Resize::Offline),
        Backend::Image => {
            Err(Failure::new(format!("{name} has xfs in its image, which only grows")).hint(other))
        }
        backend => Err(Failure::new(format!(
            "{name} has the backend {backend}, which cannot change a limit in place"
        ))
        .hint(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: ImageFilesystem = ImageFilesystem::Ext4;

    fn before(size: u64, used: u64) -> Before<'static> {
        Before {
            docker_name: "data-0",
            size: Some(ByteSize(size)),
            backend: Backend::Image,
            filesystem: EXT4,
            used: ByteSize(used),
            grows_mounted: true,
        }
    }

    #[test]
    fn who_may_not_grow_what_is_mounted_does_so_while_it_is_not() {
        let before = Before { grows_mounted: false, ..before(10 << 20, 0) };
        assert_eq!(resize(before, ByteSize(20 << 20), true), Ok(Resize::Offline));
    }

    #[test]
    fn a_resize_is_nothing_a_copy_or_in_place() {
        let to = |bytes, in_place| resize(before(10 << 20, 4 << 20), ByteSize(bytes), in_place);
        assert_eq!(to(10 << 20, false), Ok(Resize::Nothing));
        assert_eq!(to(10 << 20, true), Ok(Resize::Nothing));
        assert_eq!(to(20 << 20, false), Ok(Resize::Copy));
        assert_eq!(to(4 << 20, false), Ok(Resize::Copy));
        assert_eq!(to(20 << 20, true), Ok(Resize::Grow));
        assert_eq!(to(4 << 20, true), Ok(Resize::Offline));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        for in_place in [false, true] {
            let why =
                resize(before(10 << 20, (4 << 20) + 1), ByteSize(4 << 20), in_place).unwrap_err();
            assert!(why.message.contains("4MB") && why.message.contains("data-0"), "{why}");
            assert_eq!(why.details, ["4194304 bytes asked for, 4194305 bytes used"]);
        }
    }

    #[test]
    fn a_backend_that_cannot_do_it_in_place_says_what_can() {
        let size = Before { backend: Backend::Size, ..before(10, 0) };
        let xfs = Before { filesystem: ImageFilesystem::Xfs, ..before(10, 0) };
        for (before, to) in [(size, 20), (size, 5), (xfs, 5)] {
            let why = resize(before, ByteSize(to), true).unwrap_err();
            assert!(why.hint.unwrap().contains("without --in-place"));
            assert_eq!(resize(before, ByteSize(to), false), Ok(Resize::Copy));
        }
        assert_eq!(resize(xfs, ByteSize(20), true), Ok(Resize::Grow));
        let plain = Before { backend: Backend::Plain, size: None, ..before(0, 5) };
        assert_eq!(resize(plain, ByteSize(5), false), Ok(Resize::Copy));
        assert!(resize(plain, ByteSize(5), true).is_err());
    }

    #[test]
    fn the_backend_is_what_is_wanted_then_the_configs_then_what_there_is() {
        let can = |size: bool, image: bool| Abilities {
            no_size: (!size).then(|| "no XFS".to_owned()),
            no_image: (!image).then(|| "no loop".to_owned()),
        };
        let image = Some(Backend::Image);
        assert_eq!(choose(None, None, &can(true, true)), Ok(Backend::Size));
        assert_eq!(choose(None, None, &can(false, true)), Ok(Backend::Image));
        assert_eq!(choose(None, image, &can(true, true)), Ok(Backend::Image));
        assert_eq!(choose(image, Some(Backend::Size), &can(true, true)), Ok(Backend::Image));
        let why = choose(Some(Backend::Size), None, &can(false, true)).unwrap_err();
        assert!(why.message.contains("no XFS"), "{why}");
        assert!(choose(None, Some(Backend::Size), &can(false, true)).is_err(), "not another");
        assert_eq!(choose(None, None, &can(false, false)).unwrap_err().details.len(), 2);
    }

    #[test]
    fn a_size_too_small_is_refused_and_says_what_would_do() {
        assert!(check_size(ByteSize(8 << 20), Backend::Image, EXT4).is_ok());
        let why = check_size(ByteSize(1), Backend::Image, EXT4).unwrap_err();
        assert!(why.message.contains("1B") && why.hint.unwrap().contains("8MB"));
        assert!(check_size(ByteSize(1 << 20), Backend::Size, EXT4).is_ok());
        assert!(check_size(ByteSize(200 << 20), Backend::Image, ImageFilesystem::Xfs).is_err());
    }

    #[test]
    fn docker_is_given_the_very_size() {
        assert_eq!(docker_size(ByteSize(20 << 30)), "20GB");
        assert_eq!(docker_size(ByteSize((20 << 30) + 1)), "21474836481");
        assert_eq!(docker_size(ByteSize(3 << 29)), "1.5GB");
    }

    #[test]
    fn an_image_is_longer_than_its_volume_and_grows_with_it() {
        for xfs in [false, true] {
            let mut last = 0;
            for size in [8 << 20, 100 << 20, 1 << 30, 20 << 30, 1 << 40, (1 << 40) + 1] {
                let bytes = image_bytes(ByteSize(size), xfs);
                assert!(
                    bytes > size && bytes.is_multiple_of(BLOCK) && bytes > last,
                    "{size}: {bytes}"
                );
                last = bytes.saturating_sub(1 << 36);
            }
        }
        assert_eq!(whole_blocks(ByteSize(1)), 4096);
        assert_eq!(ext4_keeps(1 << 30), 4096 * 4096);
        assert_eq!(ext4_keeps(100 * 4096), 2 * 4096);
    }
}
