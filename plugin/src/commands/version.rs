//! `docker gpuctl version`.

use super::list_args::{format, wrong};
use super::session::{Session, odd};
use crate::client::argv::Globals;
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// Show the versions of gpuctl, the Engine and the driver
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Format output: table, json, or a template as '{{.Field}}'
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
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
            ui::print(&ui::version(&info, args.format).map_err(|text| wrong("version", text))?);
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
