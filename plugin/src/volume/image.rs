//! The image backend: a file with a filesystem in it, mounted by loop, of which a folder is bound as a
//! local volume. Works on any host, and grows in place. See docs/adr/0016.

mod fit;
mod offline;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::{ImageFilesystem, plain_io_error};
use gpuctl_ledger::model::{ByteSize, Token};
use gpuctl_ledger::node::files;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::usage::Usage;
use super::{GivenUp, MakeError, Sizing, Spec, engine_view, mounts, programs, unit};
use crate::docker::Docker;
use crate::engine::api::Failure;
use crate::faults;

/// Where systemd looks for units of the host's own.
const UNITS: &str = "/etc/systemd/system";
/// There where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";
/// The folder in the image that is the volume.
const CONTENT: &str = "data";
/// Beside it, what is left over of the filesystem, so that the volume is as large as was asked.
const FILLER: &str = "filler";
/// The longest name that a file may have, in bytes.
const LONGEST_FILE_NAME: usize = 255;
/// How long an unmount waits for whoever looks into the volume for a moment.
const BUSY: Duration = Duration::from_secs(3);

/// What to do where a filesystem does not get to a size in place.
const BY_COPY: &str = "volume resize without --in-place makes a new volume with the same content";

/// What finds an image again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// The file.
    pub(crate) file: PathBuf,
    /// `ext4` or `xfs`.
    pub(crate) filesystem: String,
    /// Its room was taken at once.
    #[serde(default)]
    pub(crate) allocated: bool,
    /// What an empty volume's filesystem shows as used, in bytes; known once it was made.
    #[serde(default)]
    pub(crate) base: u64,
}

impl Detail {
    /// Of a new version, in this folder.
    pub(crate) fn new(
        images: &Path,
        docker_name: &str,
        filesystem: ImageFilesystem,
        allocated: bool,
    ) -> Self {
        let filesystem = match filesystem {
            ImageFilesystem::Ext4 => "ext4",
            ImageFilesystem::Xfs => "xfs",
        };
        let file = images.join(format!("{docker_name}.img"));
        Self { file, filesystem: filesystem.into(), allocated, base: 0 }
    }

    /// As it stands in a record.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub(crate) fn of(spec: &Spec) -> Result<Self, Failure> {
        serde_json::from_value(spec.detail.clone()).map_err(|_| {
            Failure::new(format!("the record of {} is not understood", spec.docker_name))
                .hint("upgrade docker-gpuctl on this host")
        })
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> PathBuf {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        folder.join("mounts").join(self.file.file_stem().unwrap_or_default())
    }

    /// The folder that is the volume.
    fn content(&self) -> PathBuf {
        self.mount_point().join(CONTENT)
    }

    fn filler(&self) -> PathBuf {
        self.mount_point().join(FILLER)
    }

    /// What mount is told. What is deleted in the volume goes back to the host's disk, unless its room
    /// was taken at once.
    fn options(&self) -> &'static str {
        if self.allocated { "loop" } else { "loop,discard" }
    }

    fn is_xfs(&self) -> bool {
        self.filesystem == "xfs"
    }

    fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The backend.
#[derive(Debug)]
pub(crate) struct Images<'a> {
    /// The Engine.
    pub(crate) docker: &'a Docker,
}

fn unwritten(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let shown = path.display().to_string();
    move |e| {
        let failure = Failure::new(format!("{shown} cannot be written: {}", plain_io_error(&e)));
        match e.kind() {
            std::io::ErrorKind::StorageFull => failure.hint(
                "the disk of the images is full: docker gpuctl volume prune removes old versions",
            ),
            _ => failure,
        }
    }
}

impl Images<'_> {
    /// The programs that it needs.
    pub(crate) fn programs(filesystem: ImageFilesystem) -> &'static [&'static str] {
        match filesystem {
            ImageFilesystem::Ext4 => {
                &["mount", "losetup", "cp", "mkfs.ext4", "e2fsck", "resize2fs"]
            }
            ImageFilesystem::Xfs => &["mount", "losetup", "mkfs.xfs", "xfs_growfs"],
        }
    }

    /// Mounts an image that is not mounted; whether it had to.
    ///
    /// # Errors
    /// When its file is gone or its filesystem is damaged.
    pub(crate) fn attach(&self, spec: &Spec) -> Result<bool, Failure> {
        let detail = Detail::of(spec)?;
        if is_mounted(&detail)? {
            return Ok(false);
        }
        if !detail.file.exists() {
            return Err(Failure::new(format!("the image of volume {} is gone", spec.docker_name))
                .details(vec![detail.file.display().to_string()])
                .hint("put it back from a backup; docker gpuctl volume rm forgets the volume"));
        }
        mount(&detail, &[])?;
        write_unit(&detail)?;
        Ok(true)
    }

    /// Gives Docker its volume again, which somebody has removed there: its image has all that was in it.
    /// Whether there is an image.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn restore(
        &self,
        spec: &Spec,
        labels: &[(String, String)],
    ) -> Result<bool, Failure> {
        let detail = Detail::of(spec)?;
        if !detail.file.exists() {
            return Ok(false);
        }
        self.attach(spec)?;
        let made =
            self.docker.create_volume(&spec.docker_name, &bind(&detail.content()), labels)?;
        super::keep_options(&made);
        Ok(true)
    }

    /// Whether this is what Docker shows of its volume, and not of another of that name.
    pub(crate) fn is_shown(spec: &Spec, shown: &Value) -> bool {
        let device = shown.pointer("/Options/device").and_then(Value::as_str);
        Detail::of(spec).is_ok_and(|detail| device == detail.content().to_str())
    }

    /// Whether its file is there and not mounted.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub(crate) fn is_detached(&self, spec: &Spec) -> Result<bool, Failure> {
        let detail = Detail::of(spec)?;
        Ok(!is_mounted(&detail)? && detail.file.exists())
    }

    /// Grows it in place to the size of `spec`, while it is in use.
    ///
    /// # Errors
    /// [`Failure`]; it may be larger by then, and is brought to the end by doing it again.
    pub(crate) fn grow(&self, spec: &Spec, given_up: GivenUp<'_>) -> Result<(), Failure> {
        self.attach(spec)?;
        fit::grow(&Detail::of(spec)?, spec.size, given_up)?;
        self.sync(spec)
    }

    /// After a growth that came to no end: it has room for the size of `spec` and no more, however far
    /// that got.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn keep(&self, spec: &Spec) -> Result<(), Failure> {
        self.attach(spec)?;
        fit::fill_up(&Detail::of(spec)?, spec.size)
    }

    /// Gives it another size in place while it is not mounted: a copy of the image is checked and
    /// resized, beside it. Nobody may use it meanwhile.
    ///
    /// # Errors
    /// [`Failure`]; then [`Self::forget_copy`] leaves all as it was.
    pub(crate) fn resize_copy(&self, spec: &Spec, given_up: GivenUp<'_>) -> Result<(), Failure> {
        let detail = Detail::of(spec)?;
        unmount(&detail)?;
        released(&detail)?;
        offline::resize(&detail, spec.size, given_up)
    }

    /// The copy that [`Self::resize_copy`] made takes the image's place.
    ///
    /// # Errors
    /// [`Failure`]; done again, it goes on.
    pub(crate) fn swap(&self, spec: &Spec) -> Result<(), Failure> {
        let detail = Detail::of(spec)?;
        let copy = offline::copy_of(&detail);
        if copy.file.exists() {
            unmount(&copy)?;
            unmount(&detail)?;
            fs::rename(&copy.file, &detail.file).map_err(unwritten(&detail.file))?;
            sync_folder(&detail.file)?;
            faults::point("image:swapped");
        }
        offline::remove_mount_point(&copy)?;
        self.attach(spec)?;
        faults::point("image:attached");
        fit::fill_up(&detail, spec.size)?;
        self.sync(spec)
    }

    /// Forgets a copy that was not brought to its end.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn forget_copy(&self, spec: &Spec) -> Result<(), Failure> {
        let detail = Detail::of(spec)?;
        let copy = offline::copy_of(&detail);
        unmount(&copy)?;
        offline::remove_mount_point(&copy)?;
        files::remove(&copy.file).map_err(unwritten(&copy.file))?;
        self.attach(spec).map(drop)
    }

    /// What it takes on the host's disk.
    pub(crate) fn on_disk(spec: &Spec) -> Option<ByteSize> {
        let meta = fs::metadata(Detail::of(spec).ok()?.file).ok()?;
        Some(ByteSize(meta.blocks().saturating_mul(512)))
    }
}

impl Sizing for Images<'_> {
    fn check_free(&self, spec: &Spec) -> Result<(), Failure> {
        super::check_docker_free(self.docker, &spec.docker_name)?;
        let detail = Detail::of(spec)?;
        if unit::name(&detail.mount_point()).len() > LONGEST_FILE_NAME {
            let name = &spec.docker_name;
            return Err(Failure::new(format!(
                "{name} is too long: in the name of its systemd unit each - takes four characters"
            ))
            .hint("take a shorter name, or one with fewer -"));
        }
        if is_mounted(&detail)? {
            let shown = detail.mount_point().display().to_string();
            return Err(Failure::new(format!("something is mounted at {shown} already"))
                .hint(format!("umount {shown}, or take another name")));
        }
        match detail.file.symlink_metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            _ => {
                let shown = detail.file.display();
                Err(Failure::new(format!("{shown} is there already, and no volume of this node"))
                    .hint("move it away, or take another name"))
            }
        }
    }

    fn make(&self, spec: &Spec, token: &Token, given_up: GivenUp<'_>) -> Result<Value, MakeError> {
        let mut detail = Detail::of(spec)?;
        let point = detail.mount_point();
        files::make_private_dir(&point).map_err(unwritten(&point))?;
        make_file(&detail)?;
        faults::point("image:file");
        let content = detail.content();
        detail.base = fit::make(&detail, spec.size, given_up)?;
        faults::point("image:mounted");
        write_unit(&detail)?;
        faults::point("image:unit");
        self.sync(&Spec { detail: detail.value(), ..spec.clone() })?;
        if engine_view::hides(self.docker.host(), &content) {
            let folder = detail.file.parent().unwrap_or(Path::new("/")).display().to_string();
            return Err(Failure::new(format!(
                "the Engine has mounts of its own and does not see what is mounted below {folder}"
            ))
            .hint(format!(
                "mount --bind {folder} {folder}; mount --make-shared {folder}; then start the Engine anew"
            ))
            .into());
        }
        super::docker_volume(self.docker, spec, token, &bind(&content))?;
        Ok(detail.value())
    }

    fn content(&self, spec: &Spec) -> Result<PathBuf, Failure> {
        self.attach(spec)?;
        Ok(Detail::of(spec)?.content())
    }

    fn usage(&self, spec: &Spec) -> Result<Option<Usage>, Failure> {
        let detail = Detail::of(spec)?;
        if !is_mounted(&detail)? {
            return Ok(None);
        }
        let used = fit::used(&detail)?.saturating_sub(detail.base + fit::filler(&detail));
        Ok(Some(Usage { size: spec.size, used: ByteSize(used) }))
    }

    fn sync(&self, spec: &Spec) -> Result<(), Failure> {
        let detail = Detail::of(spec)?;
        let failed = |path: &Path, e: &dyn std::fmt::Display| {
            Failure::new(format!("{} could not be written to the disk: {e}", path.display()))
                .hint("is the disk of the images full?")
        };
        let root = fs::File::open(detail.mount_point())
            .map_err(|e| failed(&detail.file, &plain_io_error(&e)))?;
        nix::unistd::syncfs(&root).map_err(|e| failed(&detail.file, &e.desc()))?;
        let image = fs::File::open(&detail.file).and_then(|file| file.sync_all());
        image.map_err(|e| failed(&detail.file, &plain_io_error(&e)))?;
        sync_folder(&detail.file)
    }

    fn remove(&self, spec: &Spec, token: Option<&Token>) -> Result<(), Failure> {
        super::remove_docker_volume(self.docker, &spec.docker_name, token)?;
        faults::point("image:forgotten");
        let detail = Detail::of(spec)?;
        unmount(&detail)?;
        faults::point("image:unmounted");
        for path in unit_files(&detail) {
            files::remove(&path).map_err(unwritten(&path))?;
        }
        let copy = offline::copy_of(&detail);
        unmount(&copy)?;
        offline::remove_mount_point(&copy)?;
        for path in [copy.file, detail.file.clone()] {
            files::remove(&path).map_err(unwritten(&path))?;
        }
        faults::point("image:removed");
        match fs::remove_dir(detail.mount_point()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(unwritten(&detail.mount_point())(e))
            }
            _ => Ok(()),
        }
    }
}

/// The options of a Docker volume that is this folder.
fn bind(content: &Path) -> [(&'static str, String); 3] {
    [
        ("type", "none".to_owned()),
        ("o", "bind".to_owned()),
        ("device", content.display().to_string()),
    ]
}

/// Makes the file, which must not be there.
fn make_file(detail: &Detail) -> Result<(), Failure> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NOFOLLOW)
        .open(&detail.file)
        .map(drop)
        .map_err(unwritten(&detail.file))
}

/// Whether it is mounted: then its mount point is on another filesystem than the folder that this is in.
fn is_mounted(detail: &Detail) -> Result<bool, Failure> {
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
fn mount(detail: &Detail, more: &[&str]) -> Result<(), Failure> {
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
fn unit_files(detail: &Detail) -> [PathBuf; 2] {
    let name = unit::name(&detail.mount_point());
    [Path::new(UNITS).join(&name), Path::new(UNITS).join("docker.service.wants").join(&name)]
}

/// Writes the unit that mounts it at the next boot, where systemd runs.
fn write_unit(detail: &Detail) -> Result<(), Failure> {
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
fn unmount_released(detail: &Detail) -> Result<(), Failure> {
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
fn unmount(detail: &Detail) -> Result<(), Failure> {
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
fn released(detail: &Detail) -> Result<(), Failure> {
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

/// Whether a mounted filesystem may be grown by this process: ext4 wants CAP_SYS_RESOURCE for it.
pub(crate) fn may_grow_mounted(filesystem: ImageFilesystem) -> bool {
    const SYS_RESOURCE: u32 = 24;
    if filesystem == ImageFilesystem::Xfs {
        return true;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = held.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    held.is_none_or(|held| held >> SYS_RESOURCE & 1 == 1)
}

/// Has a file's name written to the disk.
fn sync_folder(file: &Path) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritten(folder))
}
