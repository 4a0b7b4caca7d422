//! A GPU node made of files and a private Engine on it. The quickstart and the end-to-end tests
//! stand on this one implementation.
//!
//! Everything lies in one folder, the [`Place`]: device nodes, CDI spec, `/proc/driver/nvidia`, the
//! driver's library, the config, the Engine's data and sockets. The Engine runs in a mount namespace
//! of its own, in which `/dev` is the place's `dev`: so `--device /dev/nvidia3` and `--privileged`
//! meet the simulated nodes, the host's `/dev` stays as it is, and the Engine's mounts end with it.

pub mod bridge;
pub mod command;
pub mod engine;
pub mod etcd;
pub mod files;
pub mod image;
pub mod narrow;
pub mod nvidia;
pub mod place;
pub mod processes;
pub mod profile;
pub mod reaper;
pub mod root;
pub mod site;
pub mod sweep;

pub use place::Place;
pub use profile::Profile;
pub use root::Root;
pub use site::Site;

/// What went wrong, in words for people.
pub type Result<T> = std::result::Result<T, String>;

/// Adds what was being done to an error's own word.
pub(crate) trait Doing<T> {
    /// `what` reads as in "cannot {what}".
    fn doing(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|e| format!("cannot {what}: {e}"))
    }
}
