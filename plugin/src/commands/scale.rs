//! `docker gpuctl scale`.

use gpuctl_ledger::model::GpuRequest;

use super::session::{Session, odd};
use crate::change::Change;
use crate::engine::api::{Answer, ChangeRequest, Failure, How, Request};
use crate::ui;

/// Give a container more GPUs, fewer, others, or none; its processes restart, its files stay
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name: NAME, NAME-VERSION or id
    name: String,
    /// How many GPUs, or which: a number, all, device=0,3, mig=1, shared, or attributes as
    /// count=2,memory>=40GB,name=A100
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    gpus: GpuRequest,
    #[command(flatten)]
    how: HowArgs,
}

pub(super) fn scale(session: &Session, args: Args) -> Result<u8, Failure> {
    let change = Change { gpus: Some(args.gpus), ..Change::default() };
    let shown = args.how.shown();
    let request = ChangeRequest { name: args.name, change, how: args.how.how() };
    tell(session, Request::Change(Box::new(request)), shown)
}

/// How a change is made.
#[derive(Debug, clap::Args)]
pub(super) struct HowArgs {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// By a new container, with the files of the one before, which is kept
    #[arg(long)]
    replace: bool,
    /// Keep the files as they are now as those of this version first
    #[arg(long)]
    snapshot: bool,
    /// Show warnings and errors only, and no progress
    #[arg(short, long)]
    quiet: bool,
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

/// What is shown of a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    dry_run: bool,
    quiet: bool,
}

impl HowArgs {
    pub(super) fn shown(&self) -> Shown {
        Shown { dry_run: self.dry_run, quiet: self.quiet }
    }

    pub(super) fn how(&self) -> How {
        How {
            timeout: self.timeout,
            dry_run: self.dry_run,
            replace: self.replace,
            snapshot: self.snapshot,
        }
    }
}

/// Has a change made, or its plan, and shows what came of it.
pub(super) fn tell(session: &Session, request: Request, shown: Shown) -> Result<u8, Failure> {
    let answer = match shown.dry_run {
        true => session.look(request)?,
        false => session.change(request, &mut session.terminal().quiet(shown.quiet))?,
    };
    match answer {
        Answer::Plan { steps } => ui::lines(steps),
        Answer::Changed(changed) => {
            if !shown.quiet {
                ui::tell(&changed.summary);
            }
            ui::lines([changed.docker_name.as_str()]);
        }
        _ => return Err(odd()),
    }
    Ok(0)
}
