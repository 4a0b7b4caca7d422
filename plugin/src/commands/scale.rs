//! `docker gpuctl scale`.

use gpuctl_ledger::model::GpuRequest;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// Give a container more GPUs, fewer, others, or none; its processes restart, its files stay
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name: NAME, NAME-VERSION or id
    name: String,
    /// How many GPUs, or which: a number, all, device=0,3, mig=1, shared, or attributes as
    /// count=2,memory>=40GB,name=A100
    #[arg(long, value_name = "N")]
    gpus: GpuRequest,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Seconds to wait for its processes before they are killed; the container's own setting when not given
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    timeout: Option<i32>,
}

pub(super) fn scale(session: &Session, args: Args) -> Result<u8, Failure> {
    let request = Request::Scale {
        name: args.name,
        gpus: args.gpus,
        timeout: args.timeout,
        dry_run: args.dry_run,
    };
    let answer = if args.dry_run {
        session.look(request)?
    } else {
        session.change(request, &mut session.terminal())?
    };
    match answer {
        Answer::Plan { steps } => ui::lines(steps),
        Answer::Scaled { docker_name, summary, .. } => {
            ui::tell(&summary);
            ui::lines([docker_name.as_str()]);
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
