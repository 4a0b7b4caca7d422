//! `docker gpuctl volume backends`.

use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui::{self, Format};

/// Show how this host can keep volumes to a size, and why not otherwise
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn backends(session: &Session, args: &Args) -> Result<u8, Failure> {
    let VolumeAnswer::Backends(rows) = look(session, VolumeRequest::Backends)? else {
        return Err(odd());
    };
    ui::table(&ui::backends(&rows, args.format));
    Ok(0)
}
