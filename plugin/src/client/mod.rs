//! The side of the user: words, terminal, signals, and the Docker CLI.

pub mod argv;
pub mod create;
pub mod dockercli;
pub mod endpoint;
pub mod far;
pub mod flags;
mod foreground;
pub mod front;
mod relay;
pub mod signals;
pub mod when;
