//! Whoever asked, while files are copied: is told how far that is, and may give up.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::api::{Amount, Doing, Event, Front, Progress};
use crate::tree::{self, Step, Watch};

/// How often it is told how far a copy is.
const TELL: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Asker<'a> {
    front: RefCell<&'a mut dyn Front>,
    /// Whose files they are; empty of one that is told nothing.
    of: String,
    all: Option<Amount>,
    told: Cell<Option<(Step, Instant)>>,
}

impl From<tree::Size> for Amount {
    fn from(size: tree::Size) -> Self {
        Self { files: size.entries, bytes: size.bytes }
    }
}

impl<'a> Asker<'a> {
    /// One that is told how far it is with the files of this, of which there are so many in all.
    pub(super) fn of(front: &'a mut dyn Front, of: &str, all: Option<tree::Size>) -> Self {
        let all = all.map(Amount::from);
        Self { front: RefCell::new(front), of: of.to_owned(), all, told: Cell::new(None) }
    }

    /// One that is not told how far it is.
    pub(super) fn silent(front: &'a mut dyn Front) -> Self {
        Self::of(front, "", None)
    }

    pub(super) fn tell(&self, event: Event) {
        self.front.borrow_mut().event(event);
    }
}

impl Watch for Asker<'_> {
    fn progress(&self, so_far: tree::Progress) {
        let now = Instant::now();
        let is_soon = |(step, at): (Step, Instant)| step == so_far.step && now - at < TELL;
        if self.of.is_empty() || self.told.get().is_some_and(is_soon) {
            return;
        }
        self.told.set(Some((so_far.step, now)));
        let doing = match so_far.step {
            Step::Measure => Doing::Measuring,
            Step::Copy => Doing::Copying,
            Step::Sync => Doing::Syncing,
            Step::Compare => Doing::Comparing,
        };
        let done = Amount { files: so_far.entries, bytes: so_far.bytes };
        let all = self.all.filter(|_| doing != Doing::Measuring);
        self.tell(Event::Progress(Progress { doing, of: self.of.clone(), done, all }));
    }

    fn stopped(&self) -> bool {
        !self.front.borrow_mut().listens()
    }
}
