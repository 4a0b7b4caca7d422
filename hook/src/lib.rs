//! gpuctl-hook: the OCI runtime wrapper and the OCI hooks, as a library, so that tests and fuzz
//! targets reach the same code that runs as root.
//!
//! `request`, `inject`, `strip`, `admit`, `visible` and `command` decide and edit, without I/O but for CDI specs
//! and the numbers of the device nodes that these name. `runtime`, `gate` and `release` act.

pub mod admit;
pub mod command;
pub mod devices;
mod driver;
pub mod entry;
pub mod fault;
pub mod gate;
pub mod hostconfig;
pub mod image_env;
pub mod inject;
mod making;
pub mod real;
pub mod refuse;
pub mod release;
pub mod request;
pub mod runtime;
pub mod spec;
mod spec_alone;
pub mod strip;
mod turned_away;
pub mod upper;
pub mod visible;
