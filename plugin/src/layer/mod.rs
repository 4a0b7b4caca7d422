//! The writable layer of a container: where it is, whether it is whole by itself, and how another
//! container gets it. [docs/adr/0015](../../../docs/adr/0015-carrying-a-layer.md) says what of it arrives.
//!
//! ```text
//! facts of the caller ── place::find ──► an upper directory ┐
//!                                                           ├─ check ──► Fit: size, shared or copied
//! kernel, mounts, the tree, the target's disk ──────────────┘              │
//!                                        carry: vacate, copy, sync, compare ▼ Carried
//! ```

mod overlay;
mod place;
mod room;

use std::path::Path;

use gpuctl_ledger::model::ByteSize;
use gpuctl_ledger::node::files;

pub use place::{Facts, find};
pub(crate) use room::shares;

use crate::tree::{self, Compare, Differences, Report, Size, TreeError, Watch};

/// Of each overlay its own, so it does not go to another: what `statfs` shows of it is made of this.
const OWN: [&str; 2] = ["trusted.overlay.uuid", "user.overlay.uuid"];
/// Longest mountinfo, in bytes: hosts with thousands of containers have thousands of mounts.
const LONGEST: u64 = 64 << 20;

/// Why a layer cannot be carried, or was not. Shown to the user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayerError {
    /// It cannot be, and nothing was touched.
    #[error("{message}")]
    Refused {
        /// What is so.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// It was begun and failed.
    #[error("its files could not be copied: {0}")]
    Tree(#[from] TreeError),
    /// The copy is not what it was copied from.
    #[error("the copy of its files is not the same as they are, in {} places", .0.count)]
    Differs(Differences),
}

impl LayerError {
    fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), hint: hint.into() }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. } => Some(hint),
            Self::Tree(why) if why.is_full() => {
                Some("docker gpuctl prune frees what older versions keep")
            }
            Self::Tree(TreeError::Changed { .. }) | Self::Differs(_) => Some(
                "is something on the host writing below Docker's root? see to that, then try again",
            ),
            Self::Tree(_) => None,
        }
    }
}

/// A layer that can be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// How large it is.
    pub size: Size,
    /// Whether its bytes can be shared on the disk, so that none are copied.
    pub shares: bool,
}

/// What was carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Of the copy.
    pub report: Report,
}

/// Whether a layer can be carried to `target`, a directory that is there: where the upper directory
/// of the new container is or will be, or its parent. Touches nothing.
///
/// # Errors
/// [`LayerError::Refused`] with what to do; [`LayerError::Tree`] where the layer cannot be read, or
/// the watch says stop.
pub fn check(from: &Path, target: &Path, watch: &dyn Watch) -> Result<Fit, LayerError> {
    check_settings(from)?;
    overlay::check_index(from)?;
    fits(from, target, watch)
}

/// As [`check()`], of a layer that was kept when it was whole. `home` is the folder in which containers have
/// theirs, each in one of its own.
///
/// # Errors
/// As [`check()`].
pub fn check_kept(from: &Path, home: &Path, watch: &dyn Watch) -> Result<Fit, LayerError> {
    // Of none in particular: as those beside it will be.
    check_settings(&home.join("one/diff"))?;
    fits(from, home, watch)
}

/// The folder in which a driver keeps its containers, each in one of its own: by the upper directory of
/// one of them.
pub fn home(upper: &Path) -> Option<&Path> {
    upper.ancestors().nth(2)
}

fn check_settings(upper: &Path) -> Result<(), LayerError> {
    overlay::check_settings(&overlay::Kernel::read(), &overlay::mounted(&mounts()?), upper)
}

fn fits(from: &Path, target: &Path, watch: &dyn Watch) -> Result<Fit, LayerError> {
    let survey = tree::survey(from, &overlay::METACOPY, watch)?;
    if let Some(first) = survey.bearers.first() {
        return Err(overlay::is_metacopy(first));
    }
    let shares = room::shares(from, target);
    let fit = Fit { size: survey.size, shares };
    room::check(&fit, &room::Free::of(target)?, target)?;
    Ok(fit)
}

/// Copies the layer in `from` to `to`, the upper directory of a container that never ran, compares
/// the two byte by byte, and brings all to the disk before it returns.
///
/// # Errors
/// As [`check`], where `to` is in use or has something in it; and what goes wrong on the way. Then what
/// is in `to` is the caller's to [`tree::remove()`], with its container.
pub fn carry(from: &Path, to: &Path, watch: &dyn Watch) -> Result<Carried, LayerError> {
    vacate(to, watch)?;
    let skip_xattrs: Vec<String> = OWN.map(str::to_owned).to_vec();
    let options = tree::Options { skip_xattrs: skip_xattrs.clone(), ..tree::Options::default() };
    let (report, syncing) = tree::begin(from, to, &options, watch)?;
    // While it goes to the disk.
    let how = Compare { content: true, skip_xattrs };
    let differences = tree::compare(from, to, &how, watch)?;
    syncing.wait(watch)?;
    if differences.is_empty() {
        Ok(Carried { report })
    } else {
        Err(LayerError::Differs(differences))
    }
}

/// Empties the upper directory of a container that never ran. What its making leaves there are mount
/// points: folders and files with nothing in them.
///
/// # Errors
/// [`LayerError::Refused`] where it is mounted, or has content: then it has been used.
pub fn vacate(to: &Path, watch: &dyn Watch) -> Result<(), LayerError> {
    if overlay::mounted(&mounts()?).iter().any(|mount| mount.is_on(to)) {
        return Err(LayerError::refused(
            format!("the container that is to have the files is running on {}", to.display()),
            "docker ps shows it; stop it, then try again",
        ));
    }
    if tree::measure(to, watch)?.apparent > 0 {
        return Err(LayerError::refused(
            format!("{} has files already, and they would be overwritten", to.display()),
            "they are of a container that has run; docker ps -a shows all of them",
        ));
    }
    tree::clear(to)?;
    Ok(())
}

fn mounts() -> Result<String, LayerError> {
    // Of the thread: it may be in a mount namespace of its own.
    files::read_bounded(Path::new("/proc/thread-self/mountinfo"), LONGEST)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|_| {
            LayerError::refused(
                "which overlays are mounted cannot be read from /proc/thread-self/mountinfo",
                "is /proc mounted?",
            )
        })
}

/// Sizes as the user sees them.
fn shown(bytes: u64) -> ByteSize {
    ByteSize(bytes)
}
