//! `docker gpuctl diff`.

use gpuctl_ledger::model::Version;

use super::session::{Session, odd};
use crate::engine::api::{Answer, DiffRequest, Failure, Request};
use crate::ui::{self, Format};

/// Show in what two versions of a container differ
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container's name
    name: String,
    /// The first version; the one before the second when not given
    from: Option<u32>,
    /// The second; the current one when not given
    to: Option<u32>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn diff(session: &Session, args: Args) -> Result<u8, Failure> {
    let request =
        DiffRequest { name: args.name, from: args.from.map(Version), to: args.to.map(Version) };
    let Answer::Diff(diff) = session.look(Request::Diff(request))? else { return Err(odd()) };
    ui::table(&ui::diff(&diff, args.format));
    Ok(0)
}
