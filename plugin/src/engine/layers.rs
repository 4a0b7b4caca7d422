//! The writable layers of containers, for changes: found, looked at before anything is touched, and
//! carried while whoever asked sees how far it is. What is so of overlays, [`crate::layer`] knows.

use std::path::{Path, PathBuf};

use gpuctl_ledger::model::{ByteSize, ContainerId, DockerName};
use gpuctl_ledger::node::notes;
use serde_json::Value;

use super::api::{Amount, Event, Failure, Front};
use super::asker::Asker;
use super::context::Context;
use super::names::Found;
use crate::client::signals::INTERRUPTED_CODE;
use crate::docker::Inspect;
use crate::layer::{self, Facts, Fit, LayerError};
use crate::tree::{self, Report};

/// A disk that nobody would call fast, in bytes a second: so long a copy takes at most, as a rule.
const SLOW_DISK: u64 = 100 << 20;
/// So many files a second are made anew on it.
const SLOW_FILES: u64 = 10_000;
/// So many places in which a copy differs are told.
const TOLD: usize = 10;

/// Whose files a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Where they are.
    pub(super) upper: PathBuf,
    /// They were kept by a snapshot; else they are a container's.
    pub(super) kept: bool,
    /// In words: `the snapshot of version 2`.
    pub(super) words: String,
}

/// How much a container has in files of its own, where its layer is one that is known. The look is told
/// to whoever asked.
///
/// # Errors
/// When nobody waits for it any more.
pub(super) fn size(
    ctx: &Context,
    found: &Found,
    shown: &Inspect,
    front: &mut dyn Front,
) -> Result<Option<Amount>, Failure> {
    let Ok(Some(upper)) = upper(ctx, &found.id, shown, &found.docker_name) else {
        return Ok(None);
    };
    let asker = Asker::of(front, found.docker_name.as_str(), None);
    match tree::measure(&upper, &asker) {
        Ok(size) => Ok(Some(size.into())),
        Err(why) if why.is_stopped() => Err(failure(LayerError::Tree(why))),
        Err(_) => Ok(None),
    }
}

/// A container's upper directory. `None` of one that never ran and has no files of its own.
///
/// # Errors
/// When there is none, or it is not known.
pub(super) fn upper(
    ctx: &Context,
    id: &ContainerId,
    shown: &Inspect,
    docker_name: &DockerName,
) -> Result<Option<PathBuf>, Failure> {
    let text = |pointer: &str| shown.0.pointer(pointer).and_then(Value::as_str);
    let note = notes::read_binding(&ctx.config.paths, id).ok().flatten();
    let noted = note.and_then(|binding| binding.upper_dir);
    let facts = Facts {
        name: docker_name.as_str(),
        driver: text("/GraphDriver/Name"),
        shown: text("/GraphDriver/Data/UpperDir").map(Path::new),
        noted: noted.as_deref().map(Path::new),
        never_started: shown.never_started(),
    };
    layer::find(&facts).map_err(failure)
}

/// As [`upper()`], for who takes the files: where Docker put some into a container that never ran (`docker
/// cp`) and shows no folder of them, it is not known where they are.
///
/// # Errors
/// As [`upper()`], and then.
pub(super) fn of_source(
    ctx: &Context,
    id: &ContainerId,
    shown: &Inspect,
    docker_name: &DockerName,
) -> Result<Option<PathBuf>, Failure> {
    let found = upper(ctx, id, shown, docker_name)?;
    if found.is_none() && ctx.docker()?.has_files(id.as_str())? {
        return Err(Failure::new(format!(
            "{docker_name} was never started, and files were put into it: where they are is known from its \
             first start on"
        ))
        .hint(format!("docker gpuctl start {docker_name}, then try again; it need not run any more then")));
    }
    Ok(found)
}

/// Where a new container is to have its files. With containerd's image store that is known once it was
/// mounted: its start, which our runtime refuses, notes it.
///
/// # Errors
/// When it is not known then either.
pub(super) fn target(
    ctx: &Context,
    id: &ContainerId,
    shown: &Inspect,
    docker_name: &DockerName,
) -> Result<PathBuf, Failure> {
    if let Some(upper) = upper(ctx, id, shown, docker_name)? {
        return Ok(upper);
    }
    if ctx.docker()?.start(id.as_str()).is_ok() {
        return Err(Failure::new(format!(
            "{docker_name} started before its files were there: its runtime does not lead through gpuctl"
        ))
        .hint("docker gpuctl doctor tells more"));
    }
    upper(ctx, id, shown, docker_name)?.ok_or_else(|| {
        Failure::new(format!("where the files of {docker_name} are to lie is not known")).hint(
            "only overlay2 and containerd's overlayfs are known; docker info names the driver",
        )
    })
}

/// Whether these files can be carried into a new container beside one with this upper directory.
/// Touches nothing.
///
/// # Errors
/// What speaks against it.
pub(super) fn check(
    ctx: &Context,
    source: &Source,
    beside: Option<&Path>,
    front: &mut dyn Front,
) -> Result<Fit, Failure> {
    let home = beside.and_then(layer::home).unwrap_or(&ctx.config.docker.root);
    let asker = Asker::of(front, &source.words, None);
    let fit = match source.kept {
        true => layer::check_kept(&source.upper, home, &asker),
        false => layer::check(&source.upper, home, &asker),
    };
    fit.map_err(failure)
}

/// Whether the files of a container can be kept in a folder that is there. Touches nothing.
///
/// # Errors
/// As [`check`].
pub(super) fn check_keeping(
    upper: &Path,
    folder: &Path,
    docker_name: &DockerName,
    front: &mut dyn Front,
) -> Result<Fit, Failure> {
    let asker = Asker::of(front, docker_name.as_str(), None);
    layer::check(upper, folder, &asker).map_err(failure)
}

/// Carries files into an upper directory in which there are none, and compares the two.
///
/// # Errors
/// What went wrong. Then nothing is left in it, as far as that can be.
pub(super) fn carry(
    from: &Path,
    to: &Path,
    (name, size): (&str, Option<tree::Size>),
    front: &mut dyn Front,
) -> Result<Report, Failure> {
    let asker = Asker::of(front, name, size);
    match layer::carry(from, to, &asker) {
        Ok(carried) => {
            if let Some(text) = sockets(&carried.report) {
                asker.tell(Event::Warning { text });
            }
            Ok(carried.report)
        }
        Err(why) => {
            // Docker's own removal does not get rid of what chattr protects.
            if !matches!(why, LayerError::Refused { .. }) {
                let _ = tree::clear(to);
            }
            Err(failure(why))
        }
    }
}

/// What is said of sockets that were left behind.
pub(super) fn sockets(report: &Report) -> Option<String> {
    let first = report.sockets.first()?;
    let others = match report.sockets_count {
        1 => return Some(format!("the socket {first:?} is not in the copy: nobody listens there")),
        n => n - 1,
    };
    Some(format!(
        "the socket {first:?} and {others} others are not in the copy: nobody listens there"
    ))
}

/// How much it is, and how long it will take, for the user: before it begins.
pub(super) fn announced(fit: &Fit) -> String {
    let size = fit.size;
    let (bytes, files) = (ByteSize(size.bytes), size.entries);
    let copied = if fit.shares { 0 } else { size.bytes };
    let seconds = copied.div_ceil(SLOW_DISK).max(files.div_ceil(SLOW_FILES)).max(1);
    let how = if fit.shares { "shared on the disk, " } else { "" };
    format!("{bytes} in {files} files, {how}some {seconds} s")
}

fn failure(why: LayerError) -> Failure {
    let hint = why.hint().map(str::to_owned);
    let failure = match &why {
        LayerError::Tree(tree) if tree.is_stopped() => {
            Failure::new("interrupted").code(INTERRUPTED_CODE)
        }
        LayerError::Differs(found) => {
            Failure::new(why.to_string()).details(found.lines.iter().take(TOLD).cloned().collect())
        }
        _ => Failure::new(why.to_string()),
    };
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Size, TreeError};

    #[test]
    fn size_and_time_are_said_first() {
        let fit = |bytes, entries, shares| {
            announced(&Fit { size: Size { bytes, entries, ..Size::default() }, shares })
        };
        assert_eq!(fit(5 << 30, 10, false), "5GB in 10 files, some 52 s");
        assert_eq!(fit(5 << 30, 10, true), "5GB in 10 files, shared on the disk, some 1 s");
        assert_eq!(fit(0, 100_000, true), "0B in 100000 files, shared on the disk, some 10 s");
    }

    #[test]
    fn sockets_that_are_left_are_named() {
        let of = |names: &[&str]| {
            let sockets: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            let sockets_count = sockets.len() as u64;
            super::sockets(&Report { sockets, sockets_count, ..Report::default() })
        };
        assert_eq!(of(&[]), None);
        assert!(of(&["run/a"]).unwrap().starts_with("the socket \"run/a\" is not"));
        assert!(of(&["a", "b", "c"]).unwrap().contains("and 2 others"));
    }

    #[test]
    fn an_interrupt_and_a_difference_are_told_as_such() {
        let stopped = failure(TreeError::Stopped.into());
        assert_eq!((stopped.message.as_str(), stopped.code), ("interrupted", INTERRUPTED_CODE));
        let lines: Vec<String> = (0..30).map(|n| format!("\"f{n}\": has other content")).collect();
        let differs = failure(LayerError::Differs(tree::Differences { lines, count: 40 }));
        assert!(differs.message.contains("in 40 places") && differs.hint.is_some(), "{differs}");
        assert_eq!(differs.details.len(), TOLD);
    }
}
