//! The Docker CLI, which does what needs the user's own paths, credentials and terminal: create,
//! attach, exec, logs.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::signals;

/// The environment variable by which the Docker CLI names itself to its plugins.
pub const ORIGINAL: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";
/// How long the CLI may take to print its help: it asks every plugin first, and machines are busy.
pub const HELP_LIMIT: Duration = Duration::from_secs(60);
/// How much output of the CLI is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// A Docker CLI that talks to this node's Engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerCli {
    program: OsString,
    engine: Engine,
    config: Option<OsString>,
}

/// Which Engine a CLI talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Engine {
    /// This one, whatever the environment says.
    At(String),
    /// The one that these global flags and the user's environment name.
    Named(Vec<String>),
}

impl DockerCli {
    /// The CLI that started us, else `docker` on PATH; `host` is the Engine's endpoint.
    pub fn found(host: &str) -> Self {
        // While it completes, the CLI names the plugin there.
        let plugin = |p: &OsString| Path::new(p).file_name().is_some_and(|f| f == "docker-gpuctl");
        let program = std::env::var_os(ORIGINAL).filter(|p| !p.is_empty() && !plugin(p));
        Self::of(program.unwrap_or_else(|| "docker".into()), host)
    }

    /// The CLI that is this program.
    pub fn of(program: impl Into<OsString>, host: &str) -> Self {
        Self { program: program.into(), engine: Engine::At(host.to_owned()), config: None }
    }

    /// With the Engine that the user named, by these global flags or by the environment where there are
    /// none.
    #[must_use]
    pub fn named(mut self, flags: &[String]) -> Self {
        self.engine = Engine::Named(flags.to_vec());
        self
    }

    /// With the folder of the user's Docker configuration, where `--config` named one.
    #[must_use]
    pub fn with_config(mut self, config: Option<&str>) -> Self {
        self.config = config.map(OsString::from);
        self
    }

    /// A command with these words after the global flags.
    pub fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove(signals::PLUGIN_SOCKET).env_remove(ORIGINAL);
        if let Some(config) = &self.config {
            command.env("DOCKER_CONFIG", config);
        }
        match &self.engine {
            Engine::At(host) => {
                for other in [
                    "DOCKER_HOST",
                    "DOCKER_CONTEXT",
                    "DOCKER_TLS",
                    "DOCKER_TLS_VERIFY",
                    "DOCKER_CERT_PATH",
                ] {
                    command.env_remove(other);
                }
                command.arg("--host").arg(host);
            }
            Engine::Named(flags) => drop(command.args(flags)),
        }
        command.args(words);
        command
    }

    /// The help of a subcommand. The Engine is not asked, so that the flags are those that the CLI
    /// knows.
    ///
    /// # Errors
    /// Why there is none; a CLI that fails at it counts as none.
    pub fn help(&self, subcommand: &str) -> Result<String, NoOutput> {
        let nowhere = Engine::At("unix:///nonexistent/docker.sock".into());
        let aside = Self { engine: nowhere, ..self.clone() };
        let mut command = aside.command([subcommand, "--help"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        match captured(command, HELP_LIMIT, || false)? {
            (0, text) => Ok(text),
            _ => Err(NoOutput::NotStarted),
        }
    }
}

/// Why a captured command gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoOutput {
    /// It could not be started.
    NotStarted,
    /// It took too long, and was ended.
    TooLong,
    /// The user gave up, and it was ended.
    GivenUp,
}

/// Runs a command for its exit code and stdout. It is ended when `limit` has passed or `given_up`
/// says so.
///
/// # Errors
/// [`NoOutput`].
pub fn captured(
    mut command: Command,
    limit: Duration,
    given_up: impl Fn() -> bool,
) -> Result<(u8, String), NoOutput> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|_| NoOutput::NotStarted)?;
    let (tell, told) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(LONGEST).read_to_end(&mut bytes);
            let _ = tell.send(read.map(|_| bytes).unwrap_or_default());
        });
    }
    let begun = Instant::now();
    let why = loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                // Its output has ended, so its end is near; a program that goes on without is cut.
                match end_within(&mut child, Duration::from_secs(10)) {
                    Some(code) => return Ok((code, text)),
                    None => break NoOutput::TooLong,
                }
            }
            Err(RecvTimeoutError::Timeout) if given_up() => break NoOutput::GivenUp,
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit => {}
            Err(_) => break NoOutput::TooLong,
        }
    };
    end(&mut child);
    Err(why)
}

/// Runs a command, whose output goes where it says, for its exit code; ended as in [`captured`].
///
/// # Errors
/// [`NoOutput`].
pub fn watched(
    mut command: Command,
    limit: Duration,
    given_up: impl Fn() -> bool,
) -> Result<u8, NoOutput> {
    let mut child = command.spawn().map_err(|_| NoOutput::NotStarted)?;
    let begun = Instant::now();
    loop {
        if let Some(code) = end_within(&mut child, Duration::from_millis(50)) {
            return Ok(code);
        }
        let why = match (given_up(), begun.elapsed() < limit) {
            (true, _) => NoOutput::GivenUp,
            (false, false) => NoOutput::TooLong,
            (false, true) => continue,
        };
        end(&mut child);
        return Err(why);
    }
}

fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    if end_within(child, Duration::from_secs(5)).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn end_within(child: &mut Child, limit: Duration) -> Option<u8> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(exit_code(status)),
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}

/// The exit code of a shell for what became of a child: 128 and the signal's number for a killed
/// one.
pub fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn output_and_code_are_captured() {
        let ran = captured(shell("echo a; exit 3"), Duration::from_secs(5), || false);
        assert_eq!(ran, Ok((3, "a\n".to_owned())));
        let killed = captured(shell("kill -9 $$"), Duration::from_secs(5), || false);
        assert_eq!(killed, Ok((137, String::new())));
        let none = captured(Command::new("/nowhere/x"), Duration::from_secs(5), || false);
        assert_eq!(none, Err(NoOutput::NotStarted));
    }

    #[test]
    fn a_command_that_takes_too_long_or_is_given_up_is_ended() {
        let begun = Instant::now();
        let slow = captured(shell("exec sleep 30"), Duration::from_millis(100), || false);
        assert_eq!(slow, Err(NoOutput::TooLong));
        let given_up = captured(shell("exec sleep 30"), Duration::from_secs(30), || true);
        assert_eq!(given_up, Err(NoOutput::GivenUp));
        assert_eq!(watched(shell("exit 4"), Duration::from_secs(5), || false), Ok(4));
        let slow = watched(shell("exec sleep 30"), Duration::from_millis(100), || false);
        assert_eq!(slow, Err(NoOutput::TooLong));
        let given_up = watched(shell("exec sleep 30"), Duration::from_secs(30), || true);
        assert_eq!(given_up, Err(NoOutput::GivenUp));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_cli_is_pointed_at_this_nodes_engine_whatever_the_environment_says() {
        let cli = DockerCli::found("unix:///run/x.sock").with_config(Some("/home/u/.d"));
        let command = cli.command(["create", "img"]);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["--host", "unix:///run/x.sock", "create", "img"]);
        let removed: Vec<_> = command.get_envs().filter(|(_, v)| v.is_none()).collect();
        assert!(removed.iter().any(|(k, _)| *k == "DOCKER_HOST"));
        assert!(removed.iter().any(|(k, _)| *k == "DOCKER_CONTEXT"));
    }
}
