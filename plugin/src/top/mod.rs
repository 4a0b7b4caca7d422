//! `docker gpuctl top`: the live view of the node's GPUs. See docs/top.md for how things flow.
//!
//! [`state`] is what is on the screen and what a key does to it, [`rows`] which rows and columns there
//! are, [`mod@draw`] how it looks: all pure. `screen` takes the terminal and gives it back, `run` joins
//! them: keys, signals and answers come to one loop, which never waits for the node.

pub mod draw;
pub mod rows;
mod run;
mod screen;
pub mod state;
#[cfg(test)]
mod tests;

pub use run::{Node, run};
pub use screen::check;
