//! `docker gpuctl rollback`.

use gpuctl_ledger::model::Version;

use super::scale::{HowArgs, tell};
use super::session::Session;
use crate::engine::api::{Failure, Request, RollbackRequest};

/// Bring a container back to what it was at an older version, as a new version
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name: NAME, NAME-VERSION or id
    name: String,
    /// The version; the one before the current when not given
    version: Option<u32>,
    /// Its files too, where they were kept; else the files of now stay
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(super) fn rollback(session: &Session, args: Args) -> Result<u8, Failure> {
    let (how, shown) = (args.how.how(), args.how.shown());
    let version = args.version.map(Version);
    let request = RollbackRequest { name: args.name, version, files: args.files, how };
    tell(session, Request::Rollback(request), shown)
}
