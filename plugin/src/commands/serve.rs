//! `docker-gpuctl serve`: the service.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gpuctl_ledger::config::Config;

use super::session::config;
use crate::client::signals;
use crate::engine::{
    self,
    api::{Failure, Front, Request},
};
use crate::service::server::{Limits, Perform, serve as serve_on};
use crate::service::socket;
use crate::ui;

/// Serve operations on the socket; systemd starts this
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Another socket than the config's
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The engine's context, opened by the first operation that needs it, so that the service is up
/// while the ledger is not, and says so to whoever asks.
struct Engine {
    config: Config,
    config_path: PathBuf,
    context: OnceLock<engine::Context>,
}

impl Engine {
    fn context(&self) -> Result<&engine::Context, Failure> {
        if let Some(context) = self.context.get() {
            return Ok(context);
        }
        let context = engine::Context::open(self.config.clone(), self.config_path.clone())?;
        Ok(self.context.get_or_init(|| context))
    }
}

/// How often the service looks at the node; what it saw counts for five seconds.
const TICK: Duration = Duration::from_secs(2);

/// How often it frees what the dead hold, and ends changes that were broken off.
const TEND: Duration = Duration::from_secs(10);

/// Looks at the node until the service ends. A fault is told when it is new.
fn watch(engine: &Engine) {
    let mut told: Option<String> = None;
    while !signals::interrupted() {
        let fault = engine.context().and_then(engine::tick).err().map(|f| f.message);
        if fault != told {
            match &fault {
                Some(text) => ui::tell(&format!("warning: the node cannot be watched: {text}")),
                None => ui::tell("the node is watched again"),
            }
            told = fault;
        }
        std::thread::sleep(TICK);
    }
}

/// Tends the node until the service ends. In a thread of its own: ending a change may take as long as
/// a container takes to stop, and what was seen of the node must not grow old meanwhile.
fn tend(engine: &Engine) {
    while !signals::interrupted() {
        std::thread::sleep(TEND);
        // What it cannot reach now it finds the next time.
        for text in engine.context().and_then(engine::tend).unwrap_or_default() {
            ui::tell(&text);
        }
    }
}

/// Tries refused starts again until the service ends. In a thread of its own: a start may take long.
fn retry(engine: &Engine) {
    let mut told = Vec::new();
    while !signals::interrupted() {
        std::thread::sleep(TICK);
        // What it cannot reach now it finds the next time.
        let now = engine.context().and_then(engine::retry).unwrap_or_default();
        for text in now.iter().filter(|text| !told.contains(*text)) {
            ui::tell(text);
        }
        told = now;
    }
}

pub(super) fn serve(args: &Args) -> Result<u8, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(
            Failure::new("the service runs as root").hint("sudo systemctl start gpuctl.socket")
        );
    }
    let (config, config_path) = config()?;
    let path = args.socket.clone().unwrap_or_else(|| config.paths.socket.clone());
    let socket = socket::open(&path)?;
    signals::changing();
    let engine = Arc::new(Engine { config, config_path, context: OnceLock::new() });
    // They end with the process.
    let (watched, tended) = (Arc::clone(&engine), Arc::clone(&engine));
    std::thread::spawn(move || watch(&watched));
    std::thread::spawn(move || tend(&tended));
    let retried = Arc::clone(&engine);
    std::thread::spawn(move || retry(&retried));
    let heard = engine.config.clone();
    std::thread::spawn(move || engine::listen(&heard, signals::interrupted));
    let perform: Arc<Perform> = Arc::new(move |request: Request, front: &mut dyn Front| {
        let is_ps = matches!(request, Request::Ps { .. });
        if let (Request::Doctor { fix }, Err(why)) = (&request, engine.context()) {
            let (config, path) = (&engine.config, &engine.config_path);
            return Ok(engine::doctor_without_ledger(config, path, *fix, why));
        }
        let done = engine.context().and_then(|context| engine::perform(context, request, front));
        done.map_err(|why| if is_ps { engine::with_waiting(&engine.config, why) } else { why })
    });
    ui::tell(&format!("serving on {}", path.display()));
    serve_on(&socket.listener, &perform, Limits::default(), signals::interrupted).map_err(|e| {
        let why = gpuctl_ledger::config::plain_io_error(&e);
        Failure::new(format!("the service cannot go on: {why}"))
    })?;
    Ok(0)
}
