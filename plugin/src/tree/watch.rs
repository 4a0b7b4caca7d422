//! Who looks on: is told how far it is, and says stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sizes are added up.
    Measure,
    /// Content is copied.
    Copy,
    /// What was copied is brought to the disk. It does not tell how far it is.
    Sync,
    /// Two trees are compared.
    Compare,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Files, directories and so on of this step done so far.
    pub entries: u64,
    /// Bytes of this step done so far. As [`super::Size::bytes`], so holes do not count; where the
    /// file system compresses it may come to more than that.
    pub bytes: u64,
}

/// Looks on. Both are called by the thread that called the copy, about ten times a second, so
/// neither needs to be fast.
pub trait Watch {
    /// How far it is.
    fn progress(&self, _: Progress) {}

    /// Whether to stop. It is asked ten times a second, and heeded between files and between
    /// pieces of large ones.
    fn stopped(&self) -> bool {
        false
    }
}

/// A flag that somebody else sets; the simplest watch.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Watch for Stop {
    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
