//! `docker gpuctl start`.

use super::session::{Session, each, odd};
use crate::client::create::Wanted;
use crate::engine::api::{Answer, Failure, Request};

/// Start stopped containers, with the number of GPUs they are to have
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names: NAME, NAME-VERSION or id
    #[arg(required = true)]
    names: Vec<String>,
    /// Attach stdout and stderr, and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach the container's stdin
    #[arg(short, long)]
    interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

pub(super) fn start(session: &Session, args: Args) -> Result<u8, Failure> {
    let attach = args.attach || args.interactive;
    let request = Request::Start { names: args.names, attach };
    if !attach {
        return each(session.change(request, &mut session.terminal())?);
    }
    let wanted = Wanted::attaching(args.interactive, args.detach_keys);
    let mut front = session.terminal().creating(wanted);
    let outcome = session.change(request, &mut front);
    let code = front.wait();
    match outcome.map_err(|failure| front.told(failure))? {
        Answer::Created { id, name, .. } => {
            // Of one made with --rm; what cannot be forgotten now the service finds.
            let _ = session.look(Request::Ended { name, id });
            Ok(code.unwrap_or(0))
        }
        _ => Err(odd()),
    }
}
