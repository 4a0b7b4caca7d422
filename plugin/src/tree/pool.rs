//! A few threads that do jobs, which may bring more jobs, while the caller's thread looks on.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::TreeError;
use super::watch::{Progress, Step, Watch};

/// How often the watch is called.
const TICK: Duration = Duration::from_millis(100);
/// So many threads at most: beyond that a disk and a directory's lock are what is waited for.
const MOST: usize = 8;

/// What has been done.
#[derive(Debug, Default)]
pub(super) struct Done {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Done {
    pub(super) fn entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, more: u64) {
        self.bytes.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn so_far(&self, step: Step) -> Progress {
        let entries = self.entries.load(Ordering::Relaxed);
        Progress { step, entries, bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// What jobs are to be done with.
pub(super) trait Work: Sync {
    /// One job.
    type Job: Send;
    /// What a thread keeps between jobs.
    type Local: Default;

    /// Does one; pushes what comes of it.
    fn job(
        &self,
        job: Self::Job,
        local: &mut Self::Local,
        pool: &Pool<Self::Job>,
    ) -> Result<(), TreeError>;
}

/// Jobs that wait: the last one first, so that a tree is walked depth first and few wait.
#[derive(Debug)]
pub(super) struct Pool<J> {
    state: Mutex<State<J>>,
    wake: Condvar,
    halted: AtomicBool,
}

#[derive(Debug)]
struct State<J> {
    waiting: Vec<J>,
    running: usize,
    failed: Option<TreeError>,
}

impl<J> Pool<J> {
    /// Adds jobs; the last of them is done first.
    pub(super) fn push(&self, jobs: impl IntoIterator<Item = J>) {
        let mut state = self.state();
        if state.failed.is_none() {
            state.waiting.extend(jobs);
        }
        drop(state);
        self.wake.notify_all();
    }

    /// An error where all is to end now: asked between files, and between pieces of large ones.
    pub(super) fn go_on(&self) -> Result<(), TreeError> {
        if self.halted.load(Ordering::Relaxed) { Err(TreeError::Stopped) } else { Ok(()) }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        // A thread that panicked holds no half-made state: each change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: TreeError) {
        self.halted.store(true, Ordering::Relaxed);
        let mut state = self.state();
        // Others stop because of the first.
        if state.failed.is_none() {
            state.failed = Some(why);
        }
        state.waiting.clear();
    }

    /// The next job; `None` when there is none left and none that could bring one.
    fn next(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.waiting.pop() {
                state.running += 1;
                return Some(job);
            }
            if state.running == 0 {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says that a job has ended, also where it panicked.
struct Running<'a, J>(&'a Pool<J>);

impl<J> Drop for Running<'_, J> {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.wake.notify_all();
    }
}

/// How many threads work.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get).clamp(2, MOST)
}

/// Does these jobs and those that come of them. The first error ends it.
pub(super) fn run<W: Work>(
    work: &W,
    first: Vec<W::Job>,
    watch: &dyn Watch,
    step: Step,
    done: &Done,
) -> Result<(), TreeError> {
    let pool = Pool {
        state: Mutex::new(State { waiting: first, running: 0, failed: None }),
        wake: Condvar::new(),
        halted: AtomicBool::new(false),
    };
    let worker = || {
        let mut local = W::Local::default();
        while let Some(job) = pool.next() {
            let running = Running(&pool);
            if let Err(why) = work.job(job, &mut local, &pool) {
                pool.fail(why);
            }
            drop(running);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(worker)).collect();
        loop {
            if watch.stopped() {
                pool.fail(TreeError::Stopped);
            }
            watch.progress(done.so_far(step));
            let state = pool.state();
            if state.running == 0 && state.waiting.is_empty() {
                break;
            }
            let waited = pool.wake.wait_timeout_while(state, TICK, |state| {
                state.running != 0 || !state.waiting.is_empty()
            });
            drop(waited);
        }
        // A panic of a worker goes on in the caller.
        drop(workers);
    });
    let failed = pool.state().failed.take();
    failed.map_or(Ok(()), Err)
}
