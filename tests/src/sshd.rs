//! A private sshd on a high port of the loopback, and a client of it on "another host": with its own keys,
//! home and Docker configuration.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{LIMIT, Node, wait_for};
use crate::programs;

/// The name of the host in the client's ssh configuration.
pub const HOST: &str = "gpuhost";

/// What is missing on this machine for it.
pub fn missing() -> Option<&'static str> {
    let sshd = Path::new(SSHD).is_file();
    (!sshd || command::find(&["ssh"]).is_err()).then_some("openssh-server is not installed")
}

const SSHD: &str = "/usr/sbin/sshd";

/// It. Dropped, it is gone.
pub struct Sshd {
    folder: tempfile::TempDir,
    server: Child,
}

impl Sshd {
    /// Starts one whose sessions see the node's Engine; `environment` comes before that.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(node: &Node, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Users of the host have their keys looked up in it.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("it may be entered");
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "client"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name));
            assert_eq!(command::run(&mut keygen, LIMIT).expect("ssh-keygen").code, 0);
        }
        let port = free_port();
        let mut all: Vec<(String, String)> = node.site().engine().environment().map(owned).to_vec();
        for (name, value) in environment {
            all.retain(|(other, _)| other != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let set: String = all.iter().map(|(name, value)| format!(" \"{name}={value}\"")).collect();
        let shown = folder.path().display();
        let text = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/client.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nSetEnv{set}\n"
        );
        write(&at("sshd_config"), &text);
        let key = std::fs::read_to_string(at("host.pub")).expect("a key");
        write(&at("known_hosts"), &format!("[127.0.0.1]:{port} {key}"));
        let text = format!(
            "Host {HOST} stranger\n HostName 127.0.0.1\n Port {port}\n User root\n\
             Host *\n IdentityFile {shown}/client\n IdentitiesOnly yes\n IdentityAgent none\n\
             Host {HOST}\n UserKnownHostsFile {shown}/known_hosts\n\
             Host stranger\n UserKnownHostsFile {shown}/none\n"
        );
        write(&at("ssh_config"), &text);
        // ssh looks for its configuration in the home that the user database names, not in HOME.
        let ssh = command::find(&["ssh"]).expect("ssh");
        let text = format!("#!/bin/sh\nexec {} -F {shown}/ssh_config \"$@\"\n", ssh.display());
        std::fs::create_dir(at("bin")).expect("a folder");
        write(&at("bin/ssh"), &text);
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("bin/ssh"), open).expect("it may be started");
        let plugins = at("docker/cli-plugins");
        std::fs::create_dir_all(&plugins).expect("a folder");
        std::os::unix::fs::symlink(programs::programs().plugin, plugins.join("docker-gpuctl"))
            .expect("a link");
        // Where it separates its privileges; Debian makes it at boot.
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let log = std::fs::File::create(at("log")).expect("a log");
        let server = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        wait_for("sshd", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { folder, server }
    }

    /// A `docker ...` of the client's.
    pub fn client_command(&self, words: &[&str]) -> Command {
        client(self.folder.path(), words)
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn client(&self, words: &[&str]) -> Output {
        command::run(&mut self.client_command(words), LIMIT).expect("the Docker CLI starts")
    }

    /// The variables of the client's.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let docker = self.client_command(&[]);
        docker.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect()
    }

    /// It stands still, or goes on: connections are taken and nobody answers.
    ///
    /// # Panics
    /// When it is gone.
    pub fn pause(&self, still: bool) {
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        let pid = Pid::from_raw(i32::try_from(self.server.id()).expect("a pid"));
        kill(pid, signal).expect("sshd is there");
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A `docker ...` of somebody on another host, whose home and Docker configuration are in this folder, and
/// who has no gpuctl of his own.
pub fn client(folder: &Path, words: &[&str]) -> Command {
    let mut docker = Command::new(command::find(&["docker"]).expect("docker"));
    let path = std::env::var("PATH").unwrap_or_default();
    docker.args(words).env_clear();
    docker.env("PATH", format!("{}:{path}", folder.join("bin").display())).env("HOME", folder);
    docker.env("DOCKER_CONFIG", folder.join("docker"));
    docker
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            eprintln!("sshd's last words:\n{}", self.log());
        }
    }
}

fn owned((name, value): (&'static str, String)) -> (String, String) {
    (name.to_owned(), value)
}

fn write(path: &PathBuf, text: &str) {
    std::fs::write(path, text).expect("written");
}

/// A port that nobody has just now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
