//! Directory trees, copied, compared, measured and removed as root, so that nothing of them is lost.
//!
//! Works on directory descriptors only: a tree may be deeper than the longest path that the system
//! takes, and names may hold any bytes. No link is followed, nothing mounted is entered, and what is
//! read keeps its time of access.

mod content;
mod copy;
mod dir;
mod error;
mod file;
mod meta;
mod pool;
mod watch;
mod xattr;

pub use copy::{Options, Report, copy};
pub use error::TreeError;
pub use watch::{Progress, Step, Stop, Watch};
