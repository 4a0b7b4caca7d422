//! Questions whose answer is wanted at once or not at all: while somebody types, and after somebody's
//! command.

use std::time::Duration;

use super::Session;
use crate::client::argv::Globals;
use crate::engine::api::{Answer, Request};
use crate::within::within;

/// How long somebody who pressed a key waits.
pub(super) const LIMIT: Duration = Duration::from_millis(1000);

/// Runs `ask` and waits no longer than the limit; what comes later is nobody's.
pub(super) fn in_time<T: Send + 'static>(
    ask: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    within(LIMIT, "quick", ask).ok().flatten().flatten()
}

/// What engine or service answer in time. Why they do not is not said.
pub(super) fn asked(request: Request) -> Option<Answer> {
    in_time(move || Session::open(&Globals::default()).ok()?.look(request).ok())
}
