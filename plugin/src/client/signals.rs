//! Signals, and the Docker CLI's own way to say that the user gave up.
//!
//! All of them end in one thread, which decides by what is going on. While a child has the terminal
//! (exec, logs), what the kernel sends for a key goes to the whole process group and so to the child
//! by itself; what somebody sends to us alone is passed on. A container that is attached gets its
//! signals from us, with a terminal of its own too: some Docker CLIs (28.2) leave `docker start
//! --attach` at the first interrupt, and with a terminal none passes any on. So that command runs in a
//! group of its own and never sees one.

use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

/// The environment variable with the abstract socket on which an end of file means that the user
/// gave up.
pub const PLUGIN_SOCKET: &str = "DOCKER_CLI_PLUGIN_SOCKET";
/// The exit code of a command that was interrupted.
pub const INTERRUPTED_CODE: u8 = 130;
/// The siginfo code of what the kernel sends itself: for a key, for a terminal that went away.
const SI_KERNEL: i32 = 0x80;
/// After so many signals we go at once; the next command finishes or undoes what is left.
const PATIENCE: u8 = 3;
/// Within this time a second signal by another way is the same event.
const SAME: Duration = Duration::from_millis(500);
const WATCHED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

static STATE: Mutex<State> = Mutex::new(State { child: Child::None, last: None });
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CHANGING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU8 = AtomicU8::new(0);

/// Who is to get signals.
#[derive(Clone)]
enum Child {
    /// Nobody else: they mean that the user gives up.
    None,
    /// This child, which is in our process group.
    Terminal(Pid),
    /// This child shows what goes on, and this passes them to whom they are for.
    Passed(Pid, Pass),
    /// We draw on the whole terminal, and put it right ourselves before we end.
    Screen(Pass),
}

/// Passes a signal on.
pub type Pass = Arc<dyn Fn(Signal) + Send + Sync>;

struct State {
    child: Child,
    /// When a signal last came, however.
    last: Option<Instant>,
}

fn state() -> std::sync::MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Begins to watch; before any thread is started, so that all of them leave the signals to ours.
/// Children start with a clean mask.
pub fn watch() {
    watch_these(&[]);
}

/// As [`watch`], for what draws on the whole terminal: it puts that right before it is stopped, and
/// draws anew when it goes on.
pub fn watch_screen() {
    watch_these(&[Signal::SIGTSTP, Signal::SIGCONT]);
}

fn watch_these(more: &[Signal]) {
    let mut set = SigSet::empty();
    for signal in WATCHED.iter().chain(more) {
        set.add(*signal);
    }
    // Not watched, but blocked: taking back a terminal that was lent does not stop us.
    let mut blocked = set;
    blocked.add(Signal::SIGTTOU);
    if blocked.thread_block().is_err() {
        return;
    }
    if let Ok(fd) = SignalFd::new(&set) {
        std::thread::spawn(move || {
            while let Ok(Some(info)) = fd.read_signal() {
                let signal = i32::try_from(info.ssi_signo).ok();
                if let Some(signal) = signal.and_then(|s| Signal::try_from(s).ok()) {
                    came(signal, info.ssi_code == SI_KERNEL);
                }
            }
        });
    }
    if let Some(stream) = plugin_socket() {
        std::thread::spawn(move || until_end(stream));
    }
}

/// Whether the user gave up.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Says that from here on a change is under way, which has to be finished or undone: an interrupt
/// no longer ends us at once.
pub fn changing() {
    CHANGING.store(true, Ordering::Relaxed);
}

/// Leaves the terminal and its signals to this child.
pub fn to_child(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        state().child = Child::Terminal(Pid::from_raw(pid));
    }
}

/// Has all signals passed on, while this child shows what goes on.
pub fn to(shows: Pid, pass: Pass) {
    state().child = Child::Passed(shows, pass);
}

/// Has all signals passed to who draws on the whole terminal.
pub fn to_screen(pass: Pass) {
    state().child = Child::Screen(pass);
}

/// A signal came to the child in our stead: it is passed on, unless it came to us as well.
pub fn passed_by(signal: Signal) {
    if !just_now() {
        came(signal, false);
    }
}

/// Whether a signal has come just now.
fn just_now() -> bool {
    state().last.is_some_and(|last| last.elapsed() < SAME)
}

/// From here on signals are for us again.
pub fn to_us() {
    state().child = Child::None;
}

/// Runs a command with our terminal until it ends; its exit code.
///
/// # Errors
/// When it cannot be started.
pub fn run_child(mut command: std::process::Command) -> std::io::Result<u8> {
    let mut running = command.spawn()?;
    to_child(running.id());
    let status = running.wait();
    to_us();
    status.map(super::dockercli::exit_code)
}

fn came(signal: Signal, by_kernel: bool) {
    if matches!(signal, Signal::SIGWINCH | Signal::SIGTSTP | Signal::SIGCONT) {
        let child = state().child.clone();
        match child {
            // Not for the container, but for who sets the size of its terminal.
            Child::Passed(pid, _) if signal == Signal::SIGWINCH => {
                let _ = nix::sys::signal::kill(pid, signal);
            }
            Child::Screen(pass) => pass(signal),
            _ => {}
        }
        return;
    }
    let child = {
        let mut state = state();
        state.last = Some(Instant::now());
        state.child.clone()
    };
    match child {
        Child::Terminal(_) if by_kernel => {}
        child => pass(&child, signal),
    }
}

fn pass(child: &Child, signal: Signal) {
    match child {
        Child::Terminal(pid) => {
            let _ = nix::sys::signal::kill(*pid, signal);
        }
        Child::Passed(_, pass) | Child::Screen(pass) => pass(signal),
        Child::None => give_up(),
    }
}

fn give_up() {
    let count = COUNT.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    INTERRUPTED.store(true, Ordering::Relaxed);
    if !CHANGING.load(Ordering::Relaxed) || count >= PATIENCE {
        leave();
    }
    if count == 1 {
        crate::ui::tell("interrupted: the change under way is being undone or finished");
    }
}

#[allow(clippy::exit, reason = "a signal ends the program from another thread than its main one")]
fn leave() -> ! {
    std::process::exit(i32::from(INTERRUPTED_CODE))
}

fn plugin_socket() -> Option<UnixStream> {
    let name = std::env::var(PLUGIN_SOCKET).ok().filter(|n| !n.is_empty())?;
    match name.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok(),
        None => UnixStream::connect(name).ok(),
    }
}

fn until_end(mut stream: UnixStream) {
    let parent = nix::unistd::getppid();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Err(e) if e.kind() != std::io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
    // The CLI closes the socket when it gets a signal itself. If that came by a key, it has come to
    // us too.
    std::thread::sleep(Duration::from_millis(100));
    if just_now() {
        return;
    }
    let child = state().child.clone();
    // Who has died of one, has died with its terminal: that is what it would have passed on.
    let died = nix::unistd::getppid() != parent;
    pass(&child, if died { Signal::SIGHUP } else { Signal::SIGTERM });
}
