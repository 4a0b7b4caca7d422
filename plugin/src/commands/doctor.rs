//! `docker gpuctl doctor`.

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request, Verdict};
use crate::ui::{self, Format};

/// Check this node: Engine, runtime, ledger, GPUs, leases
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Mend what can be mended safely
    #[arg(long)]
    fix: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn doctor(session: &Session, args: &Args) -> Result<u8, Failure> {
    let request = Request::Doctor { fix: args.fix };
    let answer = if args.fix {
        session.change(request, &mut session.terminal())?
    } else {
        session.look(request)?
    };
    let Answer::Doctor(checks) = answer else { return Err(odd()) };
    ui::table(&ui::checks(&checks, args.format));
    Ok(u8::from(checks.iter().any(|c| c.verdict == Verdict::Problem)))
}
