//! The parts of gpuctl-hook that only read and edit JSON, as a library, so that tests and fuzz
//! targets reach the same code that runs as root.
//!
//! Nothing here panics on any input, writes a file, or talks to anybody. The only files read are CDI
//! specs and, for their numbers, the device nodes that these name.

pub mod devices;
pub mod hostconfig;
pub mod request;
pub mod spec;
pub mod strip;
