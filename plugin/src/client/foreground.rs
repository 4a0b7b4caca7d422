//! The terminal, lent to a command that runs in a process group of its own, as a shell lends it.
//!
//! `docker start --attach --interactive` needs the terminal, and yet must not get the signals that
//! are meant for the container: it leaves at the first of them, or dies of it, with the container
//! running on.

use std::io::{IsTerminal as _, Stdin, stdin};

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// What is to be put right again when the command has ended. Dropping it does that.
pub(super) struct Lent {
    terminal: Stdin,
    modes: Termios,
    to: Option<Pid>,
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Lent {
    /// The terminal at our stdin, where there is one and it is ours to lend: a command in the
    /// background has none.
    pub(super) fn ours() -> Option<Self> {
        let terminal = stdin();
        if !terminal.is_terminal() || tcgetpgrp(&terminal) != Ok(getpgrp()) {
            return None;
        }
        let modes = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, modes, to: None })
    }

    /// Lends it to this process, the first of its group.
    pub(super) fn lend(&mut self, pid: Pid) {
        if tcsetpgrp(&self.terminal, pid).is_ok() {
            self.to = Some(pid);
        }
        // It may have been stopped, having reached for the terminal before it was its own.
        let _ = kill(pid, Signal::SIGCONT);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Who has taken it meanwhile, a shell, keeps it. That we are in the background does not
        // stop us: SIGTTOU is blocked.
        if self.to.is_some() && tcgetpgrp(&self.terminal).ok() == self.to {
            let _ = tcsetpgrp(&self.terminal, getpgrp());
            // A command that was killed has left it raw.
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.modes);
        }
    }
}
