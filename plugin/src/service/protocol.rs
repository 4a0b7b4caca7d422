//! What goes over the socket.

use std::time::Duration;

use gpuctl_ledger::model::{ContainerId, DockerName};
use serde::{Deserialize, Serialize};

use crate::engine::api::{Answer, CreateAsk, Event, Failure, Request};

/// The version of this protocol.
pub const PROTOCOL: u32 = 8;
/// The longest line that the server reads, in bytes.
pub const LONGEST_TO_SERVER: usize = 1 << 20;
/// The longest line that the client reads, in bytes.
pub const LONGEST_TO_CLIENT: usize = 64 << 20;

/// How often the client says that it is still about what it was asked.
pub const BUSY: Duration = Duration::from_secs(10);

/// The client's first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// What it asks for.
    pub request: Request,
}

/// Any further line of the client's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromClient {
    /// `docker create` or `docker pull` is still under way; said every [`BUSY`].
    Busy,
    /// `docker create` gave this container.
    Created(ContainerId),
    /// `docker pull` has brought the image.
    Pulled,
    /// Docker refused, and has told the user; the CLI's exit code.
    Refused(u8),
    /// The attached command runs.
    Attached,
    /// The attached command ended with this exit code.
    AttachEnded(u8),
}

/// What the server asks of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// To create a container.
    Create(CreateAsk),
    /// To pull this image.
    Pull(String),
    /// To start this container attached.
    Attach(DockerName),
}

/// A line of the server's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromServer {
    /// The request is understood and begun; the first line, so that who asks knows that somebody is there.
    Taken,
    /// Something to show.
    Event(Event),
    /// Something to do.
    Ask(Ask),
    /// Done; the last line.
    Ok(Answer),
    /// Not done; the last line.
    Failed(Failure),
}
