//! The content of one version into the next: copied, compared, with progress, until the user gives up.

use std::path::Path;

use super::super::api::{Event, Failure, Front};
use super::super::asker::Asker;
use super::compare;
use crate::client::signals;
use crate::tree::{self, TreeError, Watch as _};
use crate::volume::GivenUp;

/// Does something that may be given up.
pub(super) fn watched<T>(front: &mut dyn Front, act: impl FnOnce(GivenUp<'_>) -> T) -> T {
    let asker = Asker::new(front);
    act(&|| asker.stopped())
}

/// Copies a tree into an empty folder and compares the two.
///
/// # Errors
/// [`Failure`]; what was copied until then is the caller's to remove.
pub(in crate::engine) fn copy(
    from: &Path,
    to: &Path,
    no_verify: bool,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let asker = Asker::new(front);
    let report = tree::copy(from, to, &tree::Options::default(), &asker).map_err(failed)?;
    compare::compare(from, to, !no_verify, &asker)?;
    if report.sockets_count > 0 {
        let first = report.sockets.first().map(|s| s.display().to_string()).unwrap_or_default();
        let text = format!("{} sockets were not copied: {first} ...", report.sockets_count);
        asker.tell(Event::Warning { text });
    }
    Ok(())
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
