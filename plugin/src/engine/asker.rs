//! Whoever asked, while files are copied: is told how far that is, and may give up.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use gpuctl_ledger::model::ByteSize;

use super::api::{Event, Front};
use crate::tree::{Progress, Step, Watch};

/// How often it is told how far a copy is.
const TELL: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Asker<'a> {
    front: RefCell<&'a mut dyn Front>,
    /// When it was last told; never of one that is told nothing.
    told: RefCell<Option<Instant>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(front: &'a mut dyn Front) -> Self {
        Self { front: RefCell::new(front), told: RefCell::new(Some(Instant::now())) }
    }

    /// One that is not told how far it is.
    pub(super) fn silent(front: &'a mut dyn Front) -> Self {
        Self { front: RefCell::new(front), told: RefCell::new(None) }
    }

    pub(super) fn tell(&self, event: Event) {
        self.front.borrow_mut().event(event);
    }
}

impl Watch for Asker<'_> {
    fn progress(&self, progress: Progress) {
        let mut told = self.told.borrow_mut();
        match *told {
            Some(last) if last.elapsed() >= TELL => *told = Some(Instant::now()),
            _ => return,
        }
        let (entries, bytes) = (progress.entries, ByteSize(progress.bytes));
        let text = match progress.step {
            Step::Measure => return,
            Step::Copy => format!("copied {entries} files, {bytes}"),
            Step::Sync => "bringing the copy to the disk".to_owned(),
            Step::Compare => format!("compared {entries} files, {bytes}"),
        };
        self.tell(Event::Note { text });
    }

    fn stopped(&self) -> bool {
        !self.front.borrow_mut().listens()
    }
}
