//! `docker gpuctl gpus`.

use super::list_args::ListArgs;
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// List the GPUs of this node and who holds them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How each GPU lies to each: NVLinks (NV4: four of them), one switch (PIX), more switches (PXB), one
    /// host bridge (PHB), one socket (NODE), or across sockets (SYS)
    #[arg(long, conflicts_with_all = ["quiet", "format", "filter"])]
    links: bool,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) fn gpus(session: &Session, args: &Args) -> Result<u8, Failure> {
    let ask = || match session.look(Request::Gpus)? {
        Answer::Gpus(rows) => Ok(rows),
        _ => Err(odd()),
    };
    if args.links {
        ui::table(&ui::links(&ask()?));
        return Ok(0);
    }
    args.list.show("gpus", &ui::GPUS, ask)
}
