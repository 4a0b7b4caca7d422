//! `docker gpuctl volume inspect`.

use super::super::list_args::{format, wrong};
use super::{Session, look, odd};
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui::{self, Format};

/// Show everything about volumes: size, what is used, who mounts them, and Docker's own inspect
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME or NAME-VERSION
    #[arg(required = true)]
    names: Vec<String>,
    /// Format output: json (one object a line), or a template as '{{.Field}}'
    #[arg(short, long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) fn inspect(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = VolumeRequest::Inspect { names: args.names };
    let VolumeAnswer::Inspect(objects) = look(session, request)? else { return Err(odd()) };
    let text = ui::inspect(&objects, args.format);
    ui::table(&text.map_err(|text| wrong("volume inspect", text))?);
    Ok(0)
}
