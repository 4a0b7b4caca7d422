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
