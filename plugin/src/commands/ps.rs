//! `docker gpuctl ps`.

use gpuctl_ledger::model::Timestamp;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// List containers with their GPUs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stopped ones too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn ps(session: &Session, args: &Args) -> Result<u8, Failure> {
    let Answer::Ps(rows) = session.look(Request::Ps { all: args.all })? else {
        return Err(odd());
    };
    ui::table(&ui::ps(&rows, args.format, args.quiet, args.no_trunc, Timestamp::now()));
    Ok(0)
}
