//! A node whose service runs, and its users.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use nix::unistd::{Gid, Uid, setegid, seteuid};

use crate::{Node, Options, Output};

/// A user that every Debian has, so that he has a name.
pub const DAEMON: u32 = 1;
/// Another one.
pub const NOBODY: u32 = 65534;

/// A node, and the group whose members may use its socket.
pub struct Served {
    /// The node, on which the service runs.
    pub node: Node,
    /// The group.
    pub group: u32,
}

impl Served {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one with these options.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn with(options: Options) -> Self {
        let node = Node::start(Options { service: true, ..options });
        let group = std::fs::metadata(node.place().docker_socket()).expect("a socket").gid();
        Self { node, group }
    }

    /// A command of a user's.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn ask(&self, user: u32, line: &[&str]) -> Output {
        self.node.gpuctl_as(user, self.group, line)
    }

    /// A command of a user's that must work.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok(&self, user: u32, line: &[&str]) -> Output {
        let got = self.ask(user, line);
        assert_eq!(got.code, 0, "{got}");
        got
    }

    /// Begins a command of a user's, the first of a process group as a shell has it, its outputs
    /// kept for [`ended`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn begin(&self, user: u32, line: &[&str]) -> Child {
        use std::os::unix::process::CommandExt as _;
        let mut command = self.node.gpuctl_command_as(user, self.group, line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).spawn().expect("setpriv starts")
    }

    /// Opens the socket as another user of the group. For that moment the whole process is that user.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn connect_as(&self, user: u32) -> UnixStream {
        setegid(Gid::from_raw(self.group)).and(seteuid(Uid::from_raw(user))).expect("root may");
        let stream = UnixStream::connect(self.node.place().socket());
        seteuid(Uid::from_raw(0)).and(setegid(Gid::from_raw(0))).expect("root may");
        stream.expect("it answers")
    }

    /// The service's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> i32 {
        self.node.site().service().expect("the service runs")
    }
}

/// How a command ended: its exit code and all that it printed.
///
/// # Panics
/// When it cannot be waited for.
pub fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}
