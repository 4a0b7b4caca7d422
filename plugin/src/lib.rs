//! docker-gpuctl: the Docker CLI plugin that runs and changes GPU containers, and the same program
//! as a service. A library only so that its parts can be tested from outside; the program is
//! `main.rs`.

pub mod docker;
pub mod engine;
pub mod gpu;
