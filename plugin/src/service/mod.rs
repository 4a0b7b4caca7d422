//! Operations over a socket: served by root, asked for by anybody who may open it.
//!
//! Lines of JSON both ways. The client sends one request and then only answers what it is asked;
//! the server sends events and questions, and at last one answer or failure. A connection that ends
//! means that nobody is there any more, and the engine finishes or undoes what it was doing.

pub mod client;
pub mod dial;
mod lines;
mod places;
pub mod protocol;
pub mod reach;
pub mod server;
pub mod socket;

#[cfg(test)]
mod tests;
