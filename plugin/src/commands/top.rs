//! `docker gpuctl top`.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use super::looks::Looks;
use super::session::{Session, odd};
use crate::change::Change;
use crate::client::dockercli::captured;
use crate::client::front::this_user;
use crate::engine::api::{Answer, ChangeRequest, Event, Failure, Front, How, Request, TopView};
use crate::top::state::Act;
use crate::top::{self, Node};

/// The command's name.
pub(super) const WORD: &str = "top";
/// How long the service has for one look: the driver may take seconds for the first.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// How long `docker stop` may take.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Watch the GPUs live: what goes on on them, who holds them; stop or scale with a key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds between two looks
    #[arg(short = 'i', long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match seconds {
        0.2..=3600.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("from 0.2 to 3600".into()),
    }
}

pub(super) fn top(session: Session, args: &Args) -> Result<u8, Failure> {
    top::check()?;
    let session = Arc::new(session);
    let far = session.is_far().then(|| Looks::new(&session, args.interval));
    let node: Arc<dyn Node> = Arc::new(Watched { session, far });
    // Where there is nothing to see, that is said without a screen.
    let first = node.look()?;
    top::run(&node, first, args.interval)
}

fn look(session: &Session) -> Result<TopView, Failure> {
    match session.look_within(Request::Top, LOOK_LIMIT)? {
        Answer::Top(view) => Ok(view),
        _ => Err(odd()),
    }
}

struct Watched {
    session: Arc<Session>,
    /// Where another host is looked at.
    far: Option<Looks>,
}

impl Node for Watched {
    fn look(&self) -> Result<TopView, Failure> {
        match &self.far {
            Some(far) => far.look(),
            None => look(&self.session),
        }
    }

    fn look_now(&self) -> Result<TopView, Failure> {
        let view = look(&self.session)?;
        if let Some(far) = &self.far {
            far.newest(&view);
        }
        Ok(view)
    }

    fn act(&self, act: &Act, tell: &mut dyn FnMut(&str, bool)) -> Result<String, Failure> {
        let request = match act {
            Act::Stop { name, managed: false } => return docker_stop(&self.session, name),
            Act::Stop { name, .. } => {
                Request::Stop { names: vec![name.clone()], timeout: None, signal: None }
            }
            Act::Scale { name, gpus } => {
                let change = Change { gpus: Some(gpus.clone()), ..Change::default() };
                let how = How { timeout: None, dry_run: false, replace: false, snapshot: false };
                Request::Change(Box::new(ChangeRequest { name: name.clone(), change, how }))
            }
        };
        match self.session.follow(request, &mut Told(tell))? {
            Answer::Each { failed, done } => match failed.into_iter().next() {
                Some(failure) => Err(failure),
                None => Ok(format!("{} stopped", done.join(" "))),
            },
            Answer::Changed(changed) => Ok(changed.summary),
            _ => Err(odd()),
        }
    }
}

/// Of a container that `docker run` made, Docker is asked, with the user's own rights.
fn docker_stop(session: &Session, name: &str) -> Result<String, Failure> {
    let mut command = session.cli().command(["stop", name]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    match captured(command, STOP_LIMIT, || false) {
        Ok((0, _)) => Ok(format!("{name} stopped")),
        _ => Err(Failure::new(format!("docker could not stop {name}"))
            .hint(format!("docker stop {name} says why"))),
    }
}

/// What the engine tells goes to the screen.
struct Told<'a>(&'a mut dyn FnMut(&str, bool));

impl Front for Told<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Note { text } => (self.0)(&text, false),
            Event::Warning { text } => (self.0)(&format!("warning: {text}"), true),
            Event::Decision { .. } | Event::Progress(_) | Event::View(_) => {}
        }
    }

    fn user(&self) -> Option<String> {
        this_user()
    }
}
