//! How a command reaches the engine: root does it here, others ask the service.

use std::path::PathBuf;
use std::time::Duration;

use gpuctl_ledger::config::Config;

use crate::client::argv::Globals;
use crate::client::dockercli::DockerCli;
use crate::client::endpoint::{Surroundings, Target, resolve};
use crate::client::far;
use crate::client::front::{Terminal, this_user};
use crate::client::signals;
use crate::engine::{
    self,
    api::{Answer, Failure, Front, Request},
};
use crate::service::client;
use crate::service::reach::Service;
use crate::ui;

/// Set to `service`, root asks the service too; to `local`, nobody does.
const VIA: &str = "GPUCTL_VIA";
/// Another socket than the config's.
const SOCKET: &str = "GPUCTL_SOCKET";

/// The settings of one command.
#[derive(Debug)]
pub struct Session {
    config: Config,
    config_path: PathBuf,
    cli: DockerCli,
    /// Another host's service, where the user means that host.
    far: Option<Service>,
}

/// The config, or why there is none.
///
/// # Errors
/// A failure that says what to mend.
pub(super) fn config() -> Result<(Config, PathBuf), Failure> {
    Config::load().map_err(|e| Failure::new(e.to_string()).hint("mend the config, then try again"))
}

/// As [`config`], before there is one: a file that is named and not there is a new one.
///
/// # Errors
/// As [`config`].
pub(super) fn config_to_be() -> Result<(Config, PathBuf), Failure> {
    let named =
        std::env::var_os(gpuctl_ledger::config::PATH_VARIABLE).filter(|path| !path.is_empty());
    match named.map(PathBuf::from) {
        Some(path) if path.symlink_metadata().is_err() => Ok((Config::default(), path)),
        _ => config(),
    }
}

impl Session {
    /// Reads the config, and finds the Engine that the user means: this node's, or another host's.
    ///
    /// # Errors
    /// When the config is wrong, or the Engine is one that cannot be reached.
    pub fn open(globals: &Globals) -> Result<Self, Failure> {
        let (config, config_path) = config()?;
        let cli = DockerCli::found(&config.docker.host).with_config(globals.config.as_deref());
        match resolve(globals, &Surroundings::found(globals), &config.docker.host)? {
            Target::Here => Ok(Self { config, config_path, cli, far: None }),
            Target::There(far) => {
                let cli = cli.named(&far.flags);
                let service = far::service(far, &cli);
                Ok(Self { config, config_path, cli, far: Some(service) })
            }
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The Docker CLI.
    pub fn cli(&self) -> &DockerCli {
        &self.cli
    }

    /// The terminal, for a command that creates nothing.
    pub fn terminal(&self) -> Terminal {
        Terminal::new(self.cli.clone()).asked_by(this_user())
    }

    /// Has a request done that changes nothing: an interrupt ends it at once.
    ///
    /// # Errors
    /// The engine's or the service's failure.
    pub fn look(&self, request: Request) -> Result<Answer, Failure> {
        self.ask(request, &mut self.terminal())
    }

    /// Has a change done: an interrupt has it undone or finished.
    ///
    /// # Errors
    /// As for look.
    pub fn change(&self, request: Request, front: &mut Terminal) -> Result<Answer, Failure> {
        signals::changing();
        self.ask(request, front)
    }

    /// Has a request done that shows things as they come, until nobody looks on: an interrupt ends it
    /// at once.
    ///
    /// # Errors
    /// As for look.
    pub fn follow(&self, request: Request, front: &mut dyn Front) -> Result<Answer, Failure> {
        self.ask(request, front)
    }

    /// As [`Session::look`], for who shows it to the user in his own way: the service gets so long.
    ///
    /// # Errors
    /// As for look.
    pub fn look_within(&self, request: Request, limit: Duration) -> Result<Answer, Failure> {
        self.ask_within(request, &mut self.terminal(), Some(limit))
    }

    /// Whether another host's service is asked.
    pub fn is_far(&self) -> bool {
        self.far.is_some()
    }

    /// Has another host show things as they come, until `over` says that nobody looks on.
    ///
    /// # Errors
    /// The service's failure, or why there was no answer.
    pub fn watch(
        &self,
        request: Request,
        front: &mut dyn Front,
        over: &dyn Fn() -> bool,
    ) -> Result<Answer, Failure> {
        match &self.far {
            Some(service) => client::perform_watching(service, request, front, over),
            None => self.follow(request, front),
        }
    }

    fn ask(&self, request: Request, front: &mut dyn Front) -> Result<Answer, Failure> {
        self.ask_within(request, front, None)
    }

    fn ask_within(
        &self,
        request: Request,
        front: &mut dyn Front,
        limit: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let via = std::env::var(VIA).unwrap_or_default();
        let here = match via.as_str() {
            _ if self.far.is_some() => false,
            "service" => false,
            "local" => true,
            _ => nix::unistd::geteuid().is_root(),
        };
        if here {
            let is_ps = matches!(request, Request::Ps { .. });
            let ctx = engine::Context::open(self.config.clone(), self.config_path.clone());
            // Doctor has something to say also of a node whose ledger cannot be opened.
            let ctx = match (ctx, &request) {
                (Err(why), Request::Doctor { fix }) => {
                    let (config, path) = (&self.config, &self.config_path);
                    return Ok(engine::doctor_without_ledger(config, path, *fix, why));
                }
                (ctx, _) => ctx,
            };
            let outcome =
                ctx.and_then(|ctx| engine::perform(&ctx, request, front)).map_err(|why| {
                    if is_ps { engine::with_waiting(&self.config, why) } else { why }
                });
            // What the engine made of an interrupt is told, and the exit code is an interrupt's.
            return match outcome {
                Err(failure) if signals::interrupted() => {
                    Err(failure.code(signals::INTERRUPTED_CODE))
                }
                other => other,
            };
        }
        let socket = std::env::var_os(SOCKET).filter(|s| !s.is_empty());
        let socket = socket.map_or_else(|| self.config.paths.socket.clone(), PathBuf::from);
        let ours = Service::Socket(socket);
        let service = self.far.as_ref().unwrap_or(&ours);
        // What is shown to nobody need not go on.
        let over = || signals::interrupted() || ui::is_unwritten();
        match limit {
            None => client::perform(service, request, front, &over),
            Some(limit) => client::perform_within(service, request, front, limit),
        }
    }
}

/// Shows what became of start, stop, restart and rm: the names that were done on stdout, a failure
/// for each other. What was interrupted ends so, also where it was done to its end.
pub(super) fn each(answer: Answer) -> Result<u8, Failure> {
    shown(answer, false)
}

/// As [`each`], of what is removed by force: what is not there is told, and is no failure.
pub(super) fn each_by_force(answer: Answer) -> Result<u8, Failure> {
    shown(answer, true)
}

fn shown(answer: Answer, by_force: bool) -> Result<u8, Failure> {
    let Answer::Each { done, failed } = answer else { return Err(odd()) };
    ui::lines(done);
    for failure in &failed {
        ui::failure(failure);
    }
    let is_failed = failed.iter().any(|failure| !(by_force && failure.is_not_there()));
    Ok(if signals::interrupted() { signals::INTERRUPTED_CODE } else { u8::from(is_failed) })
}

/// For an answer to another question.
pub(super) fn odd() -> Failure {
    Failure::new("the gpuctl service gave another answer than was asked for")
        .hint("install plugin and service of the same version, and restart the service")
}
