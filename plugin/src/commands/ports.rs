//! `docker gpuctl ports`.

use gpuctl_ledger::model::Timestamp;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, MoreAnswer, MoreRequest, Request};
use crate::ui::{self, Format};

/// List the ports of this host that are kept for containers: what -p auto:PORT chose
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only port numbers
    #[arg(short, long)]
    quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn ports(session: &Session, args: &Args) -> Result<u8, Failure> {
    match session.look(Request::More(MoreRequest::Ports))? {
        Answer::More(MoreAnswer::Ports(rows)) => {
            ui::table(&ui::ports(&rows, args.format, args.quiet, Timestamp::now()));
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
