//! `docker gpuctl volume inspect`.

use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui::{self, Format};

/// Show everything about volumes: size, what is used, who mounts them, and Docker's own inspect
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME or NAME-VERSION
    #[arg(required = true)]
    names: Vec<String>,
    /// json: one object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn inspect(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = VolumeRequest::Inspect { names: args.names };
    let VolumeAnswer::Inspect(objects) = look(session, request)? else { return Err(odd()) };
    ui::table(&ui::inspect(&objects, args.format));
    Ok(0)
}
