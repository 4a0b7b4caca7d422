//! What the node itself shows: its boot, its processes and cgroups, who has GPUs open, what Docker
//! writes down of a container, and our own notes of this boot. Everything here reads the system;
//! nothing here decides.

pub mod busy;
pub mod docker;
pub mod files;
pub mod hostconfig;
pub mod journald;
pub mod links;
pub mod lock;
pub mod mig;
pub mod notes;
pub mod process;
pub mod quarantine;
pub mod refused;
