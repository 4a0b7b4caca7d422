//! Directory trees, copied, compared, measured and removed as root, so that nothing of them is lost.
//!
//! Works on directory descriptors only: a tree may be deeper than the longest path that the system
//! takes, and names may hold any bytes. No link is followed, nothing mounted is entered, and what is
//! read keeps its time of access.

mod compare;
mod content;
mod copy;
mod dir;
mod error;
mod file;
mod measure;
mod meta;
mod pool;
mod remove;
mod same;
mod watch;
mod xattr;

#[cfg(test)]
mod tests;

pub use compare::{Compare, Differences, compare};
pub(crate) use copy::begin;
pub use copy::{Options, Report, copy};
pub use error::TreeError;
pub(crate) use measure::survey;
pub use measure::{Size, measure};
pub use remove::{clear, remove};
pub use watch::{Progress, Step, Stop, Watch};
