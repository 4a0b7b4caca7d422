//! Whether the host's disk can hold what a volume is to become.

use std::path::Path;

use gpuctl_ledger::model::{Backend, ByteSize};

use super::super::api::{Event, Failure, Front};
use super::super::context::Context;
use super::observe;

/// What makes room.
pub(super) const PRUNE: &str = "docker gpuctl volume prune removes old versions that nobody uses";

/// What a change needs of the disk.
pub(super) struct Need {
    /// Right away.
    pub(super) now: ByteSize,
    /// What that is for, as it follows the figure: `have to be copied`.
    pub(super) why: &'static str,
    /// Once the volume is full.
    pub(super) full: ByteSize,
    /// What was asked for, in words.
    pub(super) asked: String,
    /// All of that is taken at once.
    pub(super) allocate: bool,
    /// What to do where that cannot be had.
    pub(super) else_do: &'static str,
}

/// Refuses what the disk cannot hold, and warns where it could not hold the volume full.
///
/// # Errors
/// [`Failure`].
pub(super) fn check(
    ctx: &Context,
    backend: Backend,
    need: &Need,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    let Some((folder, free)) = observe::disk(ctx, backend) else { return Ok(()) };
    if let Some(text) = judge(need, free, &folder)? {
        front.event(Event::Warning { text });
    }
    Ok(())
}

/// As [`check`]; what is to be warned of. Pure.
fn judge(need: &Need, free: ByteSize, folder: &Path) -> Result<Option<String>, Failure> {
    let has = format!("{} has {free} free", folder.display());
    if need.now > free {
        return Err(Failure::new(format!("{} {}, {has}", need.now, need.why)).hint(PRUNE));
    }
    if need.full <= free {
        return Ok(None);
    }
    let text = format!("{}, {has}", need.asked);
    if need.allocate {
        return Err(Failure::new(text).hint(need.else_do));
    }
    Ok(Some(format!("{text}: whoever fills the volume will find the disk full first")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_must_fit_and_what_is_asked_for_is_told_of() {
        let of = |now, full, allocate, free| {
            let (asked, else_do) = ("8MB asked for".to_owned(), "ask for less");
            let (now, full) = (ByteSize(now), ByteSize(full));
            let need = Need { now, why: "have to be copied", full, asked, allocate, else_do };
            judge(&need, ByteSize(free), Path::new("/images"))
        };
        assert_eq!(of(10, 20, false, 20), Ok(None));
        assert_eq!(of(10, 20, true, 20), Ok(None));
        let told = of(10, 20, false, 19).unwrap().unwrap();
        assert!(told.starts_with("8MB asked for, /images has 19B free: "), "{told}");
        let refused = of(10, 20, true, 19).unwrap_err();
        assert_eq!(
            (refused.message.as_str(), refused.hint.as_deref()),
            ("8MB asked for, /images has 19B free", Some("ask for less"))
        );
        let refused = of(10, 20, false, 9).unwrap_err();
        assert_eq!(refused.message, "10B have to be copied, /images has 9B free");
        assert_eq!(refused.hint.as_deref(), Some(PRUNE));
    }
}
