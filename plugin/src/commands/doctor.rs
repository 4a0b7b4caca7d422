//! `docker gpuctl doctor`.

use super::list_args::{format, wrong};
use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request, Verdict};
use crate::ui::{self, Format, View};

/// Check this node: Engine, runtime, ledger, GPUs, leases
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Mend what can be mended safely
    #[arg(long)]
    fix: bool,
    /// Format output: table, json, or a template as '{{.Field}}'
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
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
    let view = View::stdout(args.format, false, false);
    ui::table(&ui::checks(&checks, &view).map_err(|text| wrong("doctor", text))?);
    let is_bad = checks.iter().any(|c| c.verdict == Verdict::Problem);
    if args.format == Format::Table && view.screen.width.is_some() {
        ui::tell(&ui::summary(&checks));
    }
    Ok(u8::from(is_bad))
}
