//! Questions with a limit of time, whatever they hang in.

use std::sync::mpsc;
use std::time::Duration;

/// Runs `ask` on a thread of its own, of this name, and waits for it no longer than `limit`: `None`
/// afterwards. A call that hangs in the kernel cannot be ended: its thread is left behind, and what it says
/// then is nobody's.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    name: &str,
    ask: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Option<T>> {
    let (tell, told) = mpsc::sync_channel(1);
    let _ = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = tell.send(ask());
    })?;
    Ok(told.recv_timeout(limit).ok())
}
