//! The terminal as a [`Front`]: events go to stderr, `docker create` and `docker start --attach` are
//! run here, with the user's paths, credentials and terminal.

use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gpuctl_ledger::model::{ContainerId, DockerName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::create::Wanted;
use super::dockercli::{DockerCli, NoOutput, captured, exit_code, watched};
use super::foreground::Lent;
use super::relay::Relay;
use super::signals;
use crate::docker::DockerError;
use crate::engine::api::{AskError, CreateAsk, Event, Failure, Front};
use crate::ui;

/// What `docker create` ends with where it does not understand a flag.
const FLAG_CODE: u8 = 125;
/// How long `docker create` may take: it pulls images.
const CREATE_LIMIT: Duration = Duration::from_secs(3600);

/// How long the passing on of a signal may take, and a look at the container.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Terminal {
    cli: DockerCli,
    wanted: Option<Wanted>,
    user: Option<String>,
    attached: Option<Child>,
    /// The container that signals are passed to.
    passing_to: Option<DockerName>,
    /// The signal that ended the attached command; then it is `docker wait` that we wait for.
    lost_by: Option<Signal>,
    /// The terminal, while the attached command has it.
    lent: Option<Lent>,
    relay: Option<Relay>,
    /// The attached command's exit code.
    ended: Option<u8>,
    /// The exit code of docker run for what kept it from starting, where Docker said something.
    failed: Option<u8>,
    /// What our runtime said in a refused start, held back for the engine to tell.
    refusal: Option<String>,
    /// `docker create` ended with the code that it has for flags.
    flag_was_wrong: bool,
    /// Only warnings are shown.
    quiet: bool,
    meter: ui::Meter,
}

impl Terminal {
    /// For a command that creates nothing.
    pub fn new(cli: DockerCli) -> Self {
        Self {
            cli,
            wanted: None,
            user: None,
            attached: None,
            passing_to: None,
            lost_by: None,
            lent: None,
            relay: None,
            ended: None,
            failed: None,
            refusal: None,
            flag_was_wrong: false,
            quiet: false,
            meter: ui::Meter::default(),
        }
    }

    /// Only warnings are shown of what goes on.
    #[must_use]
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// For run and create.
    #[must_use]
    pub fn creating(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// With the name of who asks.
    #[must_use]
    pub fn asked_by(mut self, user: Option<String>) -> Self {
        self.user = user;
        self
    }

    /// Says what a container is called in Docker, where that is not the name the user gave.
    pub fn name_in_docker(&self, docker_name: &DockerName) {
        let given = self.wanted.as_ref().and_then(|w| w.name.as_ref());
        match (given, DockerName::split(docker_name.as_str())) {
            (Some(name), _) if name.as_str() == docker_name.as_str() => {}
            (Some(name), _) => ui::tell(&format!("{name} is {docker_name} in Docker")),
            (None, Some((name, _))) => ui::tell(&format!("{name} is {docker_name} in Docker")),
            (None, None) => ui::tell(&format!("it is {docker_name} in Docker")),
        }
    }

    /// Waits for the attached command; its exit code, the container's own. `None` where nothing was
    /// attached.
    pub fn wait(&mut self) -> Option<u8> {
        while let Some(mut child) = self.attached.take() {
            let status = child.wait().ok();
            self.over(child, status);
        }
        self.ended
    }

    /// After the attached command's end. Where it died of a signal that was meant for the container
    /// too, as when the terminal is closed, that one gets it, and we wait for the end of it.
    fn over(&mut self, mut child: Child, status: Option<ExitStatus>) {
        let code = status.map_or(1, exit_code);
        if let Some(signal) = self.lost_by.take() {
            let waited = u8::try_from(128 + signal as i32).unwrap_or(1);
            self.ended = Some(printed_code(&mut child).unwrap_or(waited));
            return self.settle();
        }
        let by = status.and_then(|s| Signal::try_from(s.signal()?).ok());
        let by = by.filter(|s| matches!(s, Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM));
        if let (Some(signal), Some(name)) = (by, self.passing_to.take()) {
            self.lent = None;
            // First, so that `--rm` has not removed it before it is asked for.
            let mut wait = self.cli.command(["wait", name.as_str()]);
            wait.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let waiting = wait.spawn();
            signals::passed_by(signal);
            if let Ok(waiting) = waiting {
                self.lost_by = Some(signal);
                self.attached = Some(waiting);
                return;
            }
        }
        self.ended = Some(code);
        self.settle();
    }

    /// Of a failure that Docker has told already there is nothing more to say; but of a container with
    /// `--rm` only the attached command knows what our runtime said, and that was held back.
    pub fn told(&self, failure: Failure) -> Failure {
        match &self.refusal {
            Some(text) if failure.message.is_empty() => {
                let refused = DockerError::Refused { status: 500, message: text.clone() };
                Failure::from(refused).code(failure.code)
            }
            _ => failure,
        }
    }

    /// Whether `docker create` did not understand a flag, or its value.
    pub fn flag_was_wrong(&self) -> bool {
        self.flag_was_wrong
    }

    fn settle(&mut self) {
        self.lent = None;
        self.passing_to = None;
        let passed = self.relay.take().map(Relay::end).unwrap_or_default();
        (self.failed, self.refusal) = (passed.code, passed.refusal);
        signals::to_us();
    }

    /// Whether this container has a terminal of its own, by what Docker says.
    fn shows_tty(&self, docker_name: &DockerName) -> bool {
        let words = ["inspect", "--format", "{{.Config.Tty}}", docker_name.as_str()];
        let mut command = self.cli.command(words);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let shown = captured(command, KILL_LIMIT, signals::interrupted);
        shown.is_ok_and(|(code, text)| code == 0 && text.trim() == "true")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal is never left to a child that outlives us.
        let _ = self.wait();
    }
}

impl Front for Terminal {
    fn event(&mut self, event: Event) {
        match event {
            Event::Note { .. } | Event::Progress(_) if self.quiet => {}
            Event::Note { text } => ui::tell(&text),
            Event::Progress(progress) => self.meter.show(&progress),
            Event::Warning { text } => ui::tell(&format!("warning: {text}")),
            // Only events asks for these, and prints them itself.
            Event::Decision { .. } | Event::View(_) => {}
        }
    }

    fn create(&mut self, ask: &CreateAsk) -> Result<ContainerId, AskError> {
        let Some(wanted) = &self.wanted else { return Err(AskError::Refused { code: 125 }) };
        if signals::interrupted() {
            return Err(AskError::Gone);
        }
        let mut command = self.cli.command(wanted.create_words(ask));
        command.stdin(Stdio::null());
        match captured(command, CREATE_LIMIT, signals::interrupted) {
            Ok((0, output)) => {
                let id = output.lines().last().unwrap_or_default().trim().to_owned();
                ContainerId::new(id).map_err(|_| AskError::Refused { code: 125 })
            }
            Ok(_) | Err(NoOutput::GivenUp) if signals::interrupted() => Err(AskError::Gone),
            // docker run ends with 125 where docker create ends with 1.
            Ok((code, _)) => {
                self.flag_was_wrong = code == FLAG_CODE;
                Err(AskError::Refused { code: if code == 1 { 125 } else { code } })
            }
            Err(NoOutput::NotStarted) => {
                ui::tell("the docker program cannot be started; is it on PATH?");
                Err(AskError::Refused { code: 125 })
            }
            Err(_) => Err(AskError::Refused { code: 125 }),
        }
    }

    fn pull(&mut self, image: &str) -> Result<(), AskError> {
        if signals::interrupted() {
            return Err(AskError::Gone);
        }
        let mut command = self.cli.command(["pull", "--", image]);
        command.stdin(Stdio::null());
        // docker pull tells how far it is on stdout, which is for our data.
        if let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() {
            command.stdout(stderr);
        }
        match watched(command, CREATE_LIMIT, signals::interrupted) {
            Ok(0) => Ok(()),
            _ if signals::interrupted() => Err(AskError::Gone),
            Ok(code) => Err(AskError::Refused { code }),
            Err(NoOutput::NotStarted) => {
                ui::tell("the docker program cannot be started; is it on PATH?");
                Err(AskError::Refused { code: 125 })
            }
            Err(_) => Err(AskError::Refused { code: 125 }),
        }
    }

    fn attach(&mut self, docker_name: &DockerName) -> Result<(), AskError> {
        let Some(wanted) = &self.wanted else { return Err(AskError::Refused { code: 125 }) };
        if signals::interrupted() {
            return Err(AskError::Gone);
        }
        // Before the container writes to the terminal, or sets it to raw.
        self.name_in_docker(docker_name);
        let tty = wanted.has_tty().unwrap_or_else(|| self.shows_tty(docker_name));
        let mut command = self.cli.command(wanted.attach_words(docker_name.as_str()));
        // Signals that come to us are for the container, and no Docker CLI that we know passes them
        // all on from `docker start`: so it is not in our group, which a key or a supervisor tells.
        // Keys are the container's where that has a terminal, so the command needs ours; from the
        // background it cannot have it, and is to be stopped with us when it reaches for it.
        let at_terminal = wanted.interactive && std::io::stdin().is_terminal();
        let lent = if tty && at_terminal { Lent::ours() } else { None };
        if !(tty && at_terminal && lent.is_none()) {
            command.process_group(0);
        }
        // Without one, it would be stopped when it reads our terminal, so we read for it.
        let feed = !tty && at_terminal;
        command.stdin(match (wanted.interactive, feed) {
            (false, _) => Stdio::null(),
            (true, true) => Stdio::piped(),
            (true, false) => Stdio::inherit(),
        });
        command.stderr(Stdio::piped());
        if !wanted.attaches("stdout") {
            command.stdout(Stdio::null());
        }
        // As docker start: of one with a terminal signals are not passed on, keys are bytes there.
        let proxy = wanted.sig_proxy != Some(false) && !(wanted.made && tty);
        let mut child = command.spawn().map_err(|_| AskError::Refused { code: 125 })?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        self.lent = lent.map(|mut lent| {
            lent.lend(pid);
            lent
        });
        if let Some(mut to) = child.stdin.take().filter(|_| feed) {
            // It ends with the input or with the process.
            std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut to));
        }
        if proxy {
            self.passing_to = Some(docker_name.clone());
            signals::to(pid, pass_to_container(self.cli.clone(), docker_name.clone()));
        } else {
            // Then a signal only ends our looking on; with a terminal the command puts that right.
            let end = move |signal| {
                let _ = kill(pid, if tty { signal } else { Signal::SIGKILL });
            };
            signals::to(pid, Arc::new(end));
        }
        let all = wanted.attaches("stderr");
        self.relay = child.stderr.take().map(|from| Relay::start(from, all));
        self.attached = Some(child);
        Ok(())
    }

    fn attach_ended(&mut self) -> Result<Option<u8>, AskError> {
        if let Some(mut child) = self.attached.take() {
            match child.try_wait() {
                Ok(Some(status)) => self.over(child, Some(status)),
                _ => self.attached = Some(child),
            }
        }
        // Whether it did not start, or ended with 1 and wrote such a line itself, the engine knows.
        Ok(match self.ended {
            Some(1) => self.failed.or(Some(1)),
            ended => ended,
        })
    }

    fn user(&self) -> Option<String> {
        self.user.clone()
    }

    fn listens(&mut self) -> bool {
        !signals::interrupted()
    }
}

/// The exit code of the container, as `docker wait` has printed it.
fn printed_code(wait: &mut Child) -> Option<u8> {
    let mut text = String::new();
    wait.stdout.take()?.take(64).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Sends signals to the container, as an attached docker run does.
fn pass_to_container(cli: DockerCli, docker_name: DockerName) -> signals::Pass {
    Arc::new(move |signal| {
        let words = ["kill", "--signal", signal.as_str(), docker_name.as_str()];
        let mut command = cli.command(words);
        // In a group of its own too, so that the key that made it does not end it. That the
        // container is gone already is no fault.
        command.process_group(0).stdin(Stdio::null()).stderr(Stdio::null());
        let _ = captured(command, KILL_LIMIT, || false);
    })
}

/// The name of who runs this process: behind sudo, of who called sudo.
pub fn this_user() -> Option<String> {
    let uid = nix::unistd::getuid();
    if uid.is_root()
        && let Ok(name) = std::env::var("SUDO_USER")
        && !name.is_empty()
    {
        return Some(name);
    }
    Some(user_name(uid))
}

/// A user's name, or `uid 1234` for one without.
pub fn user_name(uid: nix::unistd::Uid) -> String {
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
