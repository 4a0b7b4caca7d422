//! The content of one version into the next: copied, compared, with progress, until the user gives up.

use std::path::Path;

use super::super::api::{Event, Failure, Front};
use super::super::asker::Asker;
use super::super::layers;
use crate::client::signals;
use crate::tree::{self, Compare, Differences, TreeError, Watch as _};
use crate::volume::GivenUp;

/// So many places in which a copy differs are told.
const TOLD: usize = 10;

/// Does something that may be given up.
pub(super) fn watched<T>(front: &mut dyn Front, act: impl FnOnce(GivenUp<'_>) -> T) -> T {
    let asker = Asker::silent(front);
    act(&|| asker.stopped())
}

/// Copies a tree into an empty folder and compares the two: every name with its kind, mode, owner, size,
/// times, attributes and links, and every byte, unless that is not wanted.
///
/// # Errors
/// [`Failure`]; what was copied until then is the caller's to remove.
pub(in crate::engine) fn copy(
    from: &Path,
    to: &Path,
    (name, no_verify): (&str, bool),
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let size = tree::measure(from, &Asker::of(front, name, None)).map_err(failed)?;
    let asker = Asker::of(front, name, Some(size));
    let (report, syncing) =
        tree::begin(from, to, &tree::Options::default(), &asker).map_err(failed)?;
    // While it goes to the disk.
    let how = Compare { content: !no_verify, ..Compare::default() };
    let found = tree::compare(from, to, &how, &asker).map_err(failed)?;
    syncing.wait(&asker).map_err(failed)?;
    if !found.is_empty() {
        return Err(differs(&found));
    }
    if let Some(text) = layers::sockets(&report) {
        asker.tell(Event::Warning { text });
    }
    Ok(())
}

fn differs(found: &Differences) -> Failure {
    let message = format!(
        "the copy is not what it is a copy of, in {} places: nothing was changed",
        found.count
    );
    Failure::new(message)
        .details(found.lines.iter().take(TOLD).cloned().collect())
        .hint("somebody may be writing to the volume, or the disk is broken")
}

fn failed(why: TreeError) -> Failure {
    if why.is_stopped() {
        return Failure::new("interrupted: the copy was removed again")
            .code(signals::INTERRUPTED_CODE);
    }
    let full = why.is_full();
    let failure = Failure::new(format!("the content was not copied: {why}"));
    match why {
        _ if full => failure.hint("a larger size has room for it"),
        TreeError::System { why: rustix::io::Errno::IO | rustix::io::Errno::ROFS, .. } => failure
            .hint("is the disk on which volumes are kept full (df)? volume prune removes old versions"),
        TreeError::Changed { .. } => failure.hint("stop who writes to the volume, then try again"),
        _ => failure,
    }
}
