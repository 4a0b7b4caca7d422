//! `docker gpuctl gpus`.

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui::{self, Format};

/// List the GPUs of this node and who holds them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only UUIDs
    #[arg(short, long)]
    quiet: bool,
    /// Whole UUIDs
    #[arg(long)]
    no_trunc: bool,
    /// How each GPU lies to each: NVLinks (NV4: four of them), one switch (PIX), more switches (PXB), one
    /// host bridge (PHB), one socket (NODE), or across sockets (SYS)
    #[arg(long, conflicts_with_all = ["quiet", "format"])]
    links: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn gpus(session: &Session, args: &Args) -> Result<u8, Failure> {
    let Answer::Gpus(rows) = session.look(Request::Gpus)? else { return Err(odd()) };
    if args.links {
        ui::table(&ui::links(&rows));
        return Ok(0);
    }
    ui::table(&ui::gpus(&rows, args.format, args.quiet, args.no_trunc));
    Ok(0)
}
