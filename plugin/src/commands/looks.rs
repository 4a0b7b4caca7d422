//! top's looks at another host: they come over one line that stays, as the service there has them. A line for
//! each look would take longer than the look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpuctl_ledger::model::Timestamp;

use super::Session;
use crate::client::front::this_user;
use crate::engine::api::{Event, Failure, Front, Request, TopView};

/// How long a look may be waited for besides the interval: a connection, and a driver that is cold.
const LIMIT: Duration = Duration::from_secs(20);

/// Another host's looks.
pub(super) struct Looks {
    session: Arc<Session>,
    every: Duration,
    line: Mutex<Option<Line>>,
}

/// The line while it is up. Dropped, it ends.
struct Line {
    views: Receiver<Result<TopView, Failure>>,
    over: Arc<AtomicBool>,
    /// When the newest of what was seen was so.
    seen: Option<Timestamp>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

impl Looks {
    /// Of this host, so often; nothing is begun yet.
    pub(super) fn new(session: &Arc<Session>, every: Duration) -> Self {
        Self { session: Arc::clone(session), every, line: Mutex::new(None) }
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest that has come; waits for it where all that has come was seen.
    ///
    /// # Errors
    /// Why there is none. The next call begins a line anew.
    pub(super) fn look(&self) -> Result<TopView, Failure> {
        let mut held = self.line();
        let line = held.get_or_insert_with(|| Line::begin(&self.session, self.every));
        let seen = line.newest(LIMIT + self.every);
        if seen.is_err() {
            // The next look begins anew.
            *held = None;
        }
        seen
    }

    /// What is older than this is not shown any more.
    pub(super) fn newest(&self, view: &TopView) {
        if let Some(line) = self.line().as_mut() {
            line.seen = line.seen.max(Some(view.at));
        }
    }
}

impl Line {
    fn begin(session: &Arc<Session>, every: Duration) -> Self {
        let (tell, views) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let (session, ended) = (Arc::clone(session), Arc::clone(&over));
        std::thread::spawn(move || {
            let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
            let over = || ended.load(Ordering::Acquire);
            let outcome = session.watch(Request::Watch { every }, &mut Views(&tell), &over);
            let _ = tell.send(Err(match outcome {
                Err(failure) => failure,
                Ok(_) => Failure::new("the gpuctl service there ends"),
            }));
        });
        Self { views, over, seen: None }
    }

    fn newest(&mut self, limit: Duration) -> Result<TopView, Failure> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut view = self.views.recv_timeout(left).unwrap_or_else(|_| {
                Err(Failure::new(format!("no answer within {} s", limit.as_secs())))
            })?;
            while let Ok(newer) = self.views.try_recv() {
                view = newer?;
            }
            if self.seen.is_none_or(|seen| seen < view.at) {
                self.seen = Some(view.at);
                return Ok(view);
            }
        }
    }
}

/// What comes over the line.
struct Views<'a>(&'a Sender<Result<TopView, Failure>>);

impl Front for Views<'_> {
    fn event(&mut self, event: Event) {
        if let Event::View(view) = event {
            let _ = self.0.send(Ok(*view));
        }
    }

    fn user(&self) -> Option<String> {
        this_user()
    }
}
