//! `docker gpuctl history`.

use gpuctl_ledger::model::Timestamp;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// Show the versions of a container: what changed, when, by whom
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container's name
    name: String,
    /// Only version numbers
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn history(session: &Session, args: Args) -> Result<u8, Failure> {
    let Answer::History(rows) = session.look(Request::History { name: args.name })? else {
        return Err(odd());
    };
    ui::table(&ui::history(&rows, args.format, args.quiet, Timestamp::now()));
    Ok(0)
}
