//! A real terminal: a tmux of its own with a shell in it, which is typed to and looked at.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gpuctl_sim::command;

use crate::Node;
use crate::node::LIMIT;

/// The longest that something may take to appear.
const APPEARS: Duration = Duration::from_secs(20);

/// A terminal. Dropped, it is gone with all that runs in it.
pub struct Terminal {
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Terminal {
    /// A terminal of this size, in which `docker` is the node's: root's, or a user's with this uid and
    /// gid.
    ///
    /// # Panics
    /// When tmux does not start.
    pub fn open(node: &Node, user: Option<(u32, u32)>, width: u16, height: u16) -> Self {
        let engine = node.site().engine();
        let environment = engine.environment().map(|(name, value)| (name.to_owned(), value));
        Self::with(&environment, engine.cli(), user, width, height)
    }

    /// A terminal in which `docker` is this program, with these variables.
    ///
    /// # Panics
    /// When tmux does not start.
    pub fn with(
        environment: &[(String, String)],
        docker: &Path,
        user: Option<(u32, u32)>,
        width: u16,
        height: u16,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("tmux");
        let terminal = Self { socket, _folder: folder };
        let mut start = terminal.tmux();
        // dash never sets a terminal's modes itself, as bash does for its line.
        start.args(["new-session", "-d", "-x", &width.to_string(), "-y", &height.to_string()]);
        for (name, value) in environment {
            // tmux gives its own PATH to what it starts, whatever it is told.
            start.env(name, value).arg("-e").arg(format!("{name}={value}"));
        }
        start.args(["-e", "PS1=$ ", "-e", "ENV=", "-e", "LC_ALL=C.UTF-8"]);
        if let Some((uid, gid)) = user {
            start.args(["setpriv", "--reuid", &uid.to_string(), "--regid", &gid.to_string()]);
            start.arg("--clear-groups");
        }
        start.args(["dash", "-i"]);
        let got = command::run(&mut start, LIMIT).expect("tmux starts");
        assert_eq!(got.code, 0, "{got}");
        terminal.wait_for("$");
        terminal.line(&format!("alias docker={}", docker.display()));
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).env_remove("TMUX");
        tmux
    }

    fn ask(&self, words: &[&str]) -> String {
        let got = command::run(self.tmux().args(words), LIMIT).expect("tmux runs");
        assert_eq!(got.code, 0, "{words:?}: {got}");
        got.stdout
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// Types text.
    pub fn type_text(&self, text: &str) {
        self.ask(&["send-keys", "-l", "--", text]);
    }

    /// Presses a key by tmux's name for it: Enter, C-c, Up.
    pub fn press(&self, key: &str) {
        self.ask(&["send-keys", key]);
    }

    /// Types a line to the shell.
    pub fn line(&self, text: &str) {
        self.type_text(text);
        self.press("Enter");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until the screen is so.
    ///
    /// # Panics
    /// When it does not become so, with what is on it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, so: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + APPEARS;
        loop {
            let screen = self.screen();
            if so(&screen) {
                return screen;
            }
            assert!(Instant::now() < until, "waited in vain for {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this is on the screen.
    ///
    /// # Panics
    /// When it does not appear.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("{text:?}"), |screen| screen.contains(text))
    }

    /// How the terminal is: its modes, whether its other screen is shown, whether there is a cursor. To
    /// be asked while the shell waits for a line.
    pub fn modes(&self) -> String {
        let tty = self.ask(&["display-message", "-p", "#{pane_tty}"]);
        let mut stty = Command::new("stty");
        let got = command::run(stty.args(["-a", "-F", tty.trim()]), LIMIT).expect("stty runs");
        assert_eq!(got.code, 0, "{got}");
        // The size may have been changed by us.
        let modes = got.stdout.split_once(';').map_or("", |(_, rest)| rest);
        let modes = modes.split_once("columns").map_or(modes, |(_, rest)| rest);
        let modes = modes.split_once(';').map_or("", |(_, rest)| rest);
        let flags = "other screen: #{alternate_on}, cursor: #{cursor_flag}, mouse: #{mouse_any_flag}, \
                     keypad: #{keypad_flag}, wrap: #{wrap_flag}";
        format!("{modes}\n{}", self.ask(&["display-message", "-p", flags]))
    }

    /// The process in the foreground whose words have this in them.
    ///
    /// # Panics
    /// When there is none.
    pub fn process(&self, words: &str) -> i32 {
        let tty = self.ask(&["display-message", "-p", "#{pane_tty}"]);
        let mut ps = Command::new("ps");
        ps.args(["-o", "pid=,args=", "-t", tty.trim().trim_start_matches("/dev/")]);
        let got = command::run(&mut ps, LIMIT).expect("ps runs");
        let line = got.stdout.lines().find(|line| line.contains(words));
        let pid = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        pid.unwrap_or_else(|| panic!("no {words:?} in {got}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = command::run(self.tmux().arg("kill-server"), LIMIT);
    }
}
