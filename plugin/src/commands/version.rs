//! `docker gpuctl version`.

use super::session::{Session, odd};
use crate::client::argv::Globals;
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// Show the versions of gpuctl, the Engine and the driver
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn version(globals: &Globals, args: &Args) -> Result<u8, Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let answer = Session::open(globals).and_then(|session| session.look(Request::Version));
    match answer {
        Ok(Answer::Version(info)) => {
            if info.gpuctl != ours {
                ui::tell(&format!("warning: the plugin is {ours}, the service {}", info.gpuctl));
            }
            ui::print(&ui::version(&info, args.format));
            Ok(0)
        }
        Ok(_) => Err(odd()),
        Err(failure) => {
            // Ours is known whatever else is not there.
            ui::print(&format!("gpuctl:  {ours}"));
            Err(failure)
        }
    }
}
