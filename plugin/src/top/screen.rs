//! The terminal: taken, and given back as it was however we end.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::execute;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use crate::engine::api::Failure;
use crate::ui;

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Refuses where there is no terminal to draw on.
///
/// # Errors
/// A failure that names what prints the same once.
pub fn check() -> Result<(), Failure> {
    let there = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let why = match (there, ui::is_dumb()) {
        (true, false) => return Ok(()),
        (true, true) => "top draws on the whole screen, and this terminal (TERM=dumb) cannot",
        (false, _) => "top draws on a terminal, and input or output is none",
    };
    Err(Failure::new(why).hint("docker gpuctl gpus and docker gpuctl ps print the same once"))
}

/// Takes the terminal: no echo, every key at once, and a screen of our own.
///
/// # Errors
/// What the terminal says.
pub(super) fn take() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(std::io::stdout(), EnterAlternateScreen, Hide)
}

/// Gives the terminal back. Any thread may, at any time, as often as it likes.
pub(super) fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let mut out = std::io::stdout();
        // Where the window grew meanwhile, some terminals (tmux) fill what is new of the first screen
        // with rows of this one: nothing of ours may be left on it.
        let _ = execute!(out, Clear(ClearType::All), MoveTo(0, 0), LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// Whether the terminal is ours now.
pub(super) fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// Gives it back in the end.
#[derive(Debug)]
pub(super) struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether the shell has us in the foreground: else the terminal is somebody else's.
pub(super) fn in_foreground() -> bool {
    let ours = nix::unistd::getpgrp();
    nix::unistd::tcgetpgrp(std::io::stdout().as_fd()).is_ok_and(|group| group == ours)
}

/// Whether there is a shell that would call us back: our process group's parent is in our session.
pub(super) fn has_shell() -> bool {
    let group = nix::unistd::getpgrp();
    let Some(parent) = parent_of(group.as_raw()) else { return false };
    let session = |pid| nix::unistd::getsid(pid).ok();
    session(Some(nix::unistd::Pid::from_raw(parent))).is_some_and(|s| Some(s) == session(None))
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may have anything in it: state, parent.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Stops our whole process group, as the key would have; returns when we are called back.
pub(super) fn suspend() {
    give_back();
    // Not SIGTSTP: that would come to us again.
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(0), nix::sys::signal::Signal::SIGSTOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_programs_name_is() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent_of(me), Some(nix::unistd::getppid().as_raw()));
        assert_eq!(parent_of(-1), None);
    }

    #[test]
    fn what_was_not_taken_is_not_given_back() {
        // Nothing is written: the tests' own output would have it.
        give_back();
        assert!(!is_taken());
    }
}
