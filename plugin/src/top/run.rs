//! The loop: keys, signals and answers in, a screen out.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crossterm::event::{Event, KeyEvent};
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType};
use gpuctl_ledger::model::Timestamp;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::draw::draw;
use super::screen;
use super::state::{Act, Effect, State};
use crate::client::signals::{self, INTERRUPTED_CODE, Signal};
use crate::engine::api::{Failure, TopView};
use crate::ui;

/// How often it is looked whether what is shown has grown old.
const GROWN_OLD: Duration = Duration::from_secs(1);
/// How often it is looked whether the terminal is ours again.
const IN_BACKGROUND: Duration = Duration::from_millis(200);

/// What is looked at and acted on. Both may take long: neither is called by the loop's own thread.
pub trait Node: Send + Sync {
    /// One look.
    ///
    /// # Errors
    /// Why there is nothing to see.
    fn look(&self) -> Result<TopView, Failure>;

    /// One look that is not older than this call.
    ///
    /// # Errors
    /// As look.
    fn look_now(&self) -> Result<TopView, Failure> {
        self.look()
    }

    /// Does what the user confirmed; says what goes on meanwhile, and in the end what was done.
    ///
    /// # Errors
    /// Why it was not done.
    fn act(&self, act: &Act, tell: &mut dyn FnMut(&str, bool)) -> Result<String, Failure>;
}

/// What wakes the loop.
enum Wake {
    Key(KeyEvent),
    /// The terminal has another size, or its keys come no more.
    Resized,
    NoKeys,
    Signal(Signal),
    Looked(Result<TopView, Failure>),
    Told(String, bool),
    Acted(Result<String, Failure>),
}

/// Shows the node until the user leaves; the exit code. `first` is a look that was had already.
///
/// # Errors
/// When the terminal cannot be drawn on.
pub fn run(node: &Arc<dyn Node>, first: TopView, every: Duration) -> Result<u8, Failure> {
    let (wake, woken) = channel();
    let tell = wake.clone();
    signals::to_screen(Arc::new(move |signal| {
        let _ = tell.send(Wake::Signal(signal));
    }));
    let mut state = State { every, ..State::default() };
    state.looked(Ok(first));
    let look_now = poll(node, every, &wake);
    let held = screen::Held;
    screen::take().map_err(|e| unusable(&e))?;
    read_keys(&wake);
    let mut shown = Shown::new()?;
    let outcome = turn(&mut shown, &mut state, node, (&wake, &woken), &look_now);
    drop(held);
    signals::to_us();
    let code = outcome?;
    if let Some(doing) = state.acting.take() {
        ui::tell(&format!("{doing}: waiting for the end of it"));
        return finish(&woken, code);
    }
    Ok(code)
}

/// Waits for the change that was under way when the user left.
fn finish(woken: &Receiver<Wake>, code: u8) -> Result<u8, Failure> {
    for wake in woken {
        match wake {
            Wake::Told(text, _) => ui::tell(&text),
            Wake::Acted(Ok(text)) => {
                ui::tell(&text);
                return Ok(code);
            }
            Wake::Acted(Err(failure)) => return Err(failure),
            _ => {}
        }
    }
    Ok(code)
}

fn unusable(error: &std::io::Error) -> Failure {
    let why = gpuctl_ledger::config::plain_io_error(error);
    Failure::new(format!("the terminal cannot be drawn on: {why}"))
        .hint("docker gpuctl gpus and docker gpuctl ps print the same once")
}

/// The screen, and what is drawn on it.
struct Shown {
    terminal: Terminal<CrosstermBackend<std::io::Stdout>>,
    colour: bool,
}

impl Shown {
    fn new() -> Result<Self, Failure> {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Ok(Self { terminal: empty().map_err(|e| unusable(&e))?, colour })
    }

    /// Only cells that are others than before are written.
    fn draw(&mut self, state: &mut State) -> Result<(), Failure> {
        let (now, colour) = (Timestamp::now(), self.colour);
        let mut drawn = None;
        self.terminal
            .draw(|frame| {
                let area = frame.area();
                drawn = Some(draw(frame.buffer_mut(), area, state, now, colour));
            })
            .map_err(|e| unusable(&e))?;
        if let Some(drawn) = drawn {
            (state.page, state.cramped) = (drawn.page, drawn.cramped);
        }
        Ok(())
    }

    fn anew(&mut self, state: &mut State) -> Result<(), Failure> {
        self.terminal = empty().map_err(|e| unusable(&e))?;
        self.draw(state)
    }
}

/// An empty screen, as large as the terminal is now. ratatui's own ways to clear and to follow the size
/// ask the terminal where its cursor is, and the answer would come to the thread that reads the keys.
fn empty() -> std::io::Result<Terminal<CrosstermBackend<std::io::Stdout>>> {
    let (width, height) = crossterm::terminal::size()?;
    execute!(std::io::stdout(), Clear(ClearType::All))?;
    let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
    let backend = CrosstermBackend::new(std::io::stdout());
    Terminal::with_options(backend, TerminalOptions { viewport })
}

/// Takes turns of waiting and drawing until the user leaves.
fn turn(
    shown: &mut Shown,
    state: &mut State,
    node: &Arc<dyn Node>,
    (wake, woken): (&Sender<Wake>, &Receiver<Wake>),
    look_now: &Sender<()>,
) -> Result<u8, Failure> {
    // Whether the terminal is left to the shell.
    let mut away = false;
    // The Docker CLI. One that is killed closes no socket before version 24.
    let parent = nix::unistd::getppid();
    shown.draw(state)?;
    loop {
        let wait = if away { IN_BACKGROUND } else { GROWN_OLD };
        let mut news = true;
        let effect = match woken.recv_timeout(wait) {
            Ok(Wake::Key(key)) => {
                fault("top:key");
                state.key(key)
            }
            Ok(Wake::Resized | Wake::Signal(Signal::SIGWINCH)) => Effect::Repaint,
            Ok(Wake::NoKeys) | Err(RecvTimeoutError::Disconnected) => Effect::Quit,
            Ok(Wake::Signal(Signal::SIGTSTP)) => Effect::Suspend,
            Ok(Wake::Signal(Signal::SIGCONT)) => {
                // Whoever stopped us without asking has left the terminal as we had it, or not.
                screen::give_back();
                away = true;
                Effect::None
            }
            Ok(Wake::Signal(Signal::SIGUSR1 | Signal::SIGUSR2)) => Effect::None,
            Ok(Wake::Signal(_)) => return Ok(INTERRUPTED_CODE),
            Ok(Wake::Looked(outcome)) => {
                state.looked(outcome);
                Effect::None
            }
            Ok(Wake::Told(text, bad)) => {
                state.tell(&text, bad);
                Effect::None
            }
            Ok(Wake::Acted(outcome)) => {
                state.acted(&outcome);
                Effect::Refresh
            }
            Err(RecvTimeoutError::Timeout) => {
                // Nothing but ages: they are drawn with the next look, unless none comes.
                news = state.is_stale(Timestamp::now());
                Effect::None
            }
        };
        match effect {
            Effect::None => {}
            Effect::Quit => return Ok(0),
            // In the background the terminal is not ours to write on.
            Effect::Repaint if away => {}
            Effect::Repaint => shown.anew(state)?,
            Effect::Refresh => drop(look_now.send(())),
            Effect::Suspend if !screen::has_shell() => {
                state.tell("there is no shell to go to: q leaves", true);
            }
            Effect::Suspend => {
                away = true;
                screen::suspend();
            }
            Effect::Act(act) => begin(node, act, wake),
        }
        if nix::unistd::getppid() != parent {
            return Ok(INTERRUPTED_CODE);
        }
        if away && screen::in_foreground() {
            screen::take().map_err(|e| unusable(&e))?;
            away = false;
            let _ = look_now.send(());
            shown.anew(state)?;
        } else if !away {
            if !screen::is_taken() {
                // A thread of ours failed, and has said why.
                return Err(Failure::new("top cannot go on"));
            }
            if news {
                shown.draw(state)?;
            }
        }
    }
}

/// Does it in a thread of its own.
fn begin(node: &Arc<dyn Node>, act: Act, wake: &Sender<Wake>) {
    let (node, wake) = (Arc::clone(node), wake.clone());
    // From here on an interrupt must not end us in the middle.
    signals::changing();
    std::thread::spawn(move || {
        let mut tell = |text: &str, bad| drop(wake.send(Wake::Told(text.to_owned(), bad)));
        let outcome = node.act(&act, &mut tell);
        let _ = wake.send(Wake::Acted(outcome));
    });
}

/// Looks every so often, and whenever it is told to; a look that takes long holds up the next one only.
fn poll(node: &Arc<dyn Node>, every: Duration, wake: &Sender<Wake>) -> Sender<()> {
    let (ask, asked) = channel();
    let (node, wake) = (Arc::clone(node), wake.clone());
    std::thread::spawn(move || {
        loop {
            let now = match asked.recv_timeout(every) {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) => true,
            };
            // Asked several times meanwhile: one look answers all.
            while asked.try_recv().is_ok() {}
            fault("top:look");
            let seen = if now { node.look_now() } else { node.look() };
            if wake.send(Wake::Looked(seen)).is_err() {
                return;
            }
        }
    });
    ask
}

/// Where tests have the program fail. Compiled out of releases.
#[cfg(feature = "faults")]
#[allow(clippy::panic, reason = "that is what is tested")]
fn fault(point: &str) {
    if std::env::var("GPUCTL_KILL_AT").is_ok_and(|at| at == point) {
        panic!("as the test wants at {point}");
    }
}

/// Where tests have the program fail: nothing in a release.
#[cfg(not(feature = "faults"))]
#[inline]
fn fault(_: &str) {}

fn read_keys(wake: &Sender<Wake>) {
    let wake = wake.clone();
    std::thread::spawn(move || {
        loop {
            let message = match crossterm::event::read() {
                Ok(Event::Key(key)) => Wake::Key(key),
                Ok(Event::Resize(..)) => Wake::Resized,
                Ok(_) => continue,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => Wake::NoKeys,
            };
            let over = matches!(message, Wake::NoKeys);
            if wake.send(message).is_err() || over {
                return;
            }
        }
    });
}
