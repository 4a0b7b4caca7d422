//! A thread that runs what is asynchronous, so that the store can be called from anywhere, from
//! within another runtime too, where blocking on a runtime of one's own would panic.

use std::future::Future;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Longer than a future that keeps its own limit can overrun it; then the thread itself hangs.
const GRACE: Duration = Duration::from_millis(250);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread; nothing where there is no room for one.
    pub(super) fn start() -> Option<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("gpuctl-etcd".into())
            .spawn(move || {
                let Ok(runtime) = Builder::new_current_thread().enable_io().enable_time().build()
                else {
                    return;
                };
                if tell.send(runtime.handle().clone()).is_ok() {
                    // An error says that the sender is gone: that is a stop as well.
                    let _ = runtime.block_on(stopped);
                }
                // Not waiting for a name that is still being looked up.
                runtime.shutdown_background();
            })
            .ok()?;
        let handle = told.recv().ok()?;
        Some(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a future that ends within `limit` by itself, and waits for it. Nothing when it did not.
    pub(super) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = sync_channel(1);
        let task = self.handle.spawn(async move {
            // Nobody may be waiting any more.
            let _ = tell.send(future.await);
        });
        let answer = told.recv_timeout(limit + GRACE).ok();
        if answer.is_none() {
            task.abort();
        }
        answer
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It says nothing that is not known by its end.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    #[test]
    fn its_thread_ends_with_it() {
        let worker = Worker::start().unwrap();
        let second = Duration::from_secs(1);
        let thread = worker.run(second, async { nix::unistd::gettid() }).unwrap();
        let thread = format!("/proc/self/task/{thread}");
        assert!(Path::new(&thread).exists());
        drop(worker);
        assert!(!Path::new(&thread).exists());
    }

    #[test]
    fn what_overruns_its_limit_is_given_up() {
        let worker = Worker::start().unwrap();
        let begun = Instant::now();
        let answer = worker.run(Duration::from_millis(50), std::future::pending::<()>());
        assert_eq!(answer, None);
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(worker.run(Duration::from_secs(1), async { 7 }), Some(7));
    }
}
