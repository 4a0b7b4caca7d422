//! A change to a container as pure functions: what is to be, in what it differs, what it takes. Nothing
//! here acts, and nothing reads a clock, the environment or the disk. docs/adr/0014 says why.
//!
//! A *spec* here is what version records have: Docker's inspect cut down to what a container was created
//! with ([`crate::docker::Inspect::creation`]).

mod apply;
mod differences;
mod flags;
mod image;
mod model;
mod mounts;
mod plan;

pub use apply::{apply, can_publish};
pub use differences::{Difference, differences};
pub use flags::{env, label, mount, publish, restart, swap};
pub use image::{back_to_image, without_image};
pub use model::{Change, HostPort, Mount, Publish, Restart};
pub use mounts::{Kept, anonymous, inherited};
pub use plan::{Way, is_reversible, way};

/// Why a change cannot be asked for: what is wrong, and what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to type instead.
    pub hint: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
