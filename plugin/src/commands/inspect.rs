//! `docker gpuctl inspect`.

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// Show everything about containers: record, leases, and Docker's own inspect
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    /// json: one object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn inspect(session: &Session, args: Args) -> Result<u8, Failure> {
    let Answer::Inspect(objects) = session.look(Request::Inspect { names: args.names })? else {
        return Err(odd());
    };
    ui::table(&ui::inspect(&objects, args.format));
    Ok(0)
}
