//! What root does: observe, plan, execute, with a journal.

pub mod api;

use api::{Answer, Event, Failure, Front, Request};
