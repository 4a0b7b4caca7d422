//! What the engine needs of whoever asked, while it works.

use gpuctl_ledger::model::{ContainerId, DockerName};
use serde::{Deserialize, Serialize};

use super::{CreateAsk, Event};

/// What the engine needs of whoever asked, while it works: the terminal itself, or the client at
/// the other end of the socket. Who only shows what happens need not run Docker for it.
pub trait Front {
    /// Show an event.
    fn event(&mut self, event: Event);

    /// Run `docker create` with the user's arguments and these of ours; the new container's id.
    ///
    /// # Errors
    /// Docker's own message and exit code have been shown to the user already when
    /// [`AskError::Refused`] comes; [`AskError::Gone`] when nobody is there any more.
    fn create(&mut self, _ask: &CreateAsk) -> Result<ContainerId, AskError> {
        Err(AskError::Refused { code: 125 })
    }

    /// Start the container attached (`docker start --attach`), and return as soon as that command
    /// runs.
    ///
    /// # Errors
    /// As for create.
    fn attach(&mut self, _docker_name: &DockerName) -> Result<(), AskError> {
        Err(AskError::Refused { code: 125 })
    }

    /// Whether the attached command has ended, without waiting: its exit code.
    ///
    /// # Errors
    /// [`AskError::Gone`] when nobody is there any more.
    fn attach_ended(&mut self) -> Result<Option<u8>, AskError> {
        Ok(None)
    }

    /// Run `docker pull`, as `docker create` would of an image that is not there: with the user's
    /// credentials, and Docker's own progress shown to the user.
    ///
    /// # Errors
    /// As for create.
    fn pull(&mut self, _image: &str) -> Result<(), AskError> {
        Err(AskError::Refused { code: 125 })
    }

    /// Who asks: the user's name, from the socket's credentials or our own uid (through sudo:
    /// SUDO_USER).
    fn user(&self) -> Option<String>;

    /// Whether somebody still looks on: asked by what goes on until nobody does.
    fn listens(&mut self) -> bool {
        true
    }
}

/// Why a client did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum AskError {
    /// The Docker CLI refused; its exit code.
    #[error("docker refused")]
    Refused {
        /// The CLI's exit code.
        code: u8,
    },
    /// The client is gone, or was interrupted.
    #[error("the client is gone")]
    Gone,
}
