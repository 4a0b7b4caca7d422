//! The image backend: a file with a filesystem in it, mounted by loop, of which a folder is bound as a
//! local volume. Works on any host, and grows in place. See docs/adr/0016.

mod fit;
mod mounted;
mod offline;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::{ImageFilesystem, plain_io_error};
use gpuctl_ledger::model::{ByteSize, Token};
use gpuctl_ledger::node::files;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use mounted::may_have_detached;
use mounted::{is_mounted, mount, released, unit_files, unmount, write_unit};

use super::usage::Usage;
use super::{GivenUp, MakeError, Sizing, Spec, engine_view, unit};
use crate::docker::Docker;
use crate::engine::api::Failure;
use crate::faults;

/// The folder in the image that is the volume.
const CONTENT: &str = "data";
/// Beside it, what is left over of the filesystem, so that the volume is as large as was asked.
const FILLER: &str = "filler";
/// The longest name that a file may have, in bytes.
const LONGEST_FILE_NAME: usize = 255;

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
