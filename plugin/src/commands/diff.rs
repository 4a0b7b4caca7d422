//! `docker gpuctl diff`.

use gpuctl_ledger::model::Version;

use super::list_args::{format, wrong};
use super::session::{Session, odd};
use crate::engine::api::{Answer, DiffRequest, Failure, Request};
use crate::ui::{self, Format, View};

/// Show in what two versions of a container differ
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container's name
    name: String,
    /// The first version; the one before the second when not given
    from: Option<u32>,
    /// The second; the current one when not given
    to: Option<u32>,
    /// Format output: table, json, or a template as '{{.Field}}'
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) fn diff(session: &Session, args: Args) -> Result<u8, Failure> {
    let request =
        DiffRequest { name: args.name, from: args.from.map(Version), to: args.to.map(Version) };
    let Answer::Diff(diff) = session.look(Request::Diff(request))? else { return Err(odd()) };
    let view = View::stdout(args.format, false, false);
    ui::table(&ui::diff(&diff, &view).map_err(|text| wrong("diff", text))?);
    Ok(0)
}
