//! `docker gpuctl inspect`.

use super::list_args::{format, wrong};
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// Show everything about containers: record, leases, and Docker's own inspect
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    /// Format output: json (one object a line), or a template as '{{.Field}}'
    #[arg(short, long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) fn inspect(session: &Session, args: Args) -> Result<u8, Failure> {
    let answer = session.look(Request::Inspect { names: args.names })?;
    let Answer::Inspect { objects, failed } = answer else {
        return Err(odd());
    };
    let text = ui::inspect(&objects, args.format).map_err(|text| wrong("inspect", text))?;
    ui::table(&text);
    for failure in &failed {
        ui::failure(failure);
    }
    Ok(u8::from(!failed.is_empty()))
}
