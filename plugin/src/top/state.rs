//! What is on the screen, and what a key does to it. Pure: no terminal, no clock, no node.

use std::collections::BTreeSet;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use gpuctl_ledger::model::{GpuRequest, Timestamp, Unit};

use super::rows::{Sort, shown};
use crate::engine::api::{Failure, TopRow, TopView};
use crate::ui::visible;

/// The longest filter or number of GPUs that can be typed, in characters.
const LONGEST: usize = 64;
/// How long a look may take before it is said that none comes.
const STALE: Duration = Duration::from_secs(10);
/// How many messages are kept.
const MESSAGES: usize = 6;

/// What the loop is to do after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but draw.
    None,
    /// Leave.
    Quit,
    /// Leave the terminal to the shell until we are called back.
    Suspend,
    /// Draw all of it anew: somebody else wrote on the screen.
    Repaint,
    /// Look at the node now.
    Refresh,
    /// Act.
    Act(Act),
}

/// A change that the user has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Stop a container.
    Stop {
        /// Its name in Docker.
        name: String,
        /// Whether it is one of ours; else Docker is asked.
        managed: bool,
    },
    /// Give a managed container so many GPUs.
    Scale {
        /// Its name.
        name: String,
        /// What it gets.
        gpus: GpuRequest,
    },
}

impl Act {
    /// What goes on while it is done.
    pub fn doing(&self) -> String {
        match self {
            Self::Stop { name, .. } => format!("stopping {name}"),
            Self::Scale { name, gpus } => format!("scaling {name} to {}", gpus_words(gpus)),
        }
    }
}

/// What keys mean now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// They move about.
    #[default]
    Normal,
    /// They write the filter.
    Filter,
    /// They write how many GPUs the container gets.
    Scale {
        /// The container.
        name: String,
        /// What it gets when it starts, as it is now.
        wants: String,
        /// What has been typed.
        typed: String,
    },
    /// y does it, anything else does not.
    Confirm {
        /// What is asked.
        question: String,
        /// What is done.
        act: Act,
    },
    /// The keys are shown.
    Help,
}

/// How a message reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// One line.
    pub text: String,
    /// Whether something went wrong.
    pub bad: bool,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The last look that there was an answer to.
    pub view: Option<TopView>,
    /// Why there was none to the last one.
    pub failure: Option<Failure>,
    /// What keys mean.
    pub mode: Mode,
    /// What is shown, and in which order.
    pub sort: Sort,
    /// The largest first.
    pub reverse: bool,
    /// Words that a row must have.
    pub filter: String,
    /// The row that keys are about.
    pub selected: Option<Unit>,
    /// Only the processes on that row's GPU are shown.
    pub only_selected: bool,
    /// Newest last.
    pub messages: Vec<Message>,
    /// The change under way.
    pub acting: Option<String>,
    /// How many rows fit on a page; the drawing says so.
    pub page: usize,
    /// Whether the screen had room only to say that it is too small; the drawing says so.
    pub cramped: bool,
    /// The time between two looks.
    pub every: Duration,
}

impl State {
    /// The rows as they are shown.
    pub fn rows(&self) -> Vec<&TopRow> {
        self.view
            .as_ref()
            .map(|v| shown(v, self.sort, self.reverse, &self.filter))
            .unwrap_or_default()
    }

    /// The place of the selected row among those that are shown; the first where it is not shown.
    pub fn place(&self) -> usize {
        let at = |rows: &[&TopRow]| {
            rows.iter().position(|r| Some(&r.gpu.uuid) == self.selected.as_ref())
        };
        at(&self.rows()).unwrap_or(0)
    }

    /// The row that keys are about.
    pub fn current(&self) -> Option<&TopRow> {
        self.rows().get(self.place()).copied()
    }

    /// An answer came, or none.
    pub fn looked(&mut self, outcome: Result<TopView, Failure>) {
        match outcome {
            Ok(view) => {
                self.view = Some(view);
                self.failure = None;
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// Says something at the bottom.
    pub fn tell(&mut self, text: &str, bad: bool) {
        self.messages.push(Message { text: visible(text), bad });
        let over = self.messages.len().saturating_sub(MESSAGES);
        self.messages.drain(..over);
    }

    /// A change has come to its end.
    pub fn acted(&mut self, outcome: &Result<String, Failure>) {
        self.acting = None;
        match outcome {
            Ok(text) => self.tell(text, false),
            Err(failure) => {
                self.tell(&failure.message, true);
                for line in &failure.details {
                    self.tell(line, true);
                }
                if let Some(hint) = &failure.hint {
                    self.tell(&format!("hint: {hint}"), true);
                }
            }
        }
    }

    /// Whether what is shown is older than it is while answers come.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let after = STALE + self.every * 2;
        self.view.as_ref().is_some_and(|v| u128::from(now.millis_since(v.at)) > after.as_millis())
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Effect::Quit,
                KeyCode::Char('z') => Effect::Suspend,
                KeyCode::Char('l') => Effect::Repaint,
                KeyCode::Char('u') => self.rub_out(),
                _ => Effect::None,
            };
        }
        if key.modifiers.contains(KeyModifiers::ALT) && key.code != KeyCode::Esc {
            // Escape and a key so soon after it are told as one.
            self.plain(KeyCode::Esc);
        }
        self.plain(key.code)
    }

    fn plain(&mut self, code: KeyCode) -> Effect {
        match std::mem::take(&mut self.mode) {
            Mode::Normal => self.normal(code),
            Mode::Filter => self.filtering(code),
            Mode::Scale { name, wants, typed } => self.scaling(code, name, wants, typed),
            Mode::Confirm { act, .. } => match code {
                // Only what was read is answered.
                KeyCode::Char('y' | 'Y') if !self.cramped => {
                    self.acting = Some(act.doing());
                    Effect::Act(act)
                }
                _ => {
                    self.tell("nothing was changed", false);
                    Effect::None
                }
            },
            Mode::Help => Effect::None,
        }
    }

    fn rub_out(&mut self) -> Effect {
        match &mut self.mode {
            Mode::Filter => self.filter.clear(),
            Mode::Scale { typed, .. } => typed.clear(),
            _ => {}
        }
        Effect::None
    }

    fn normal(&mut self, code: KeyCode) -> Effect {
        match code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc => {
                self.filter.clear();
                self.messages.clear();
            }
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(0_isize.saturating_sub_unsigned(self.page.max(1))),
            KeyCode::PageDown => self.step(0_isize.saturating_add_unsigned(self.page.max(1))),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Char('o' | '>') | KeyCode::Right => self.order_by(self.sort.next()),
            KeyCode::Char('O' | '<') | KeyCode::Left => self.order_by(self.sort.before()),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('/') => {
                self.filter.clear();
                self.mode = Mode::Filter;
            }
            KeyCode::Char('p') => self.only_selected = !self.only_selected,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char(' ') => return Effect::Refresh,
            KeyCode::Char('s') => self.ask_stop(),
            KeyCode::Char('c') => self.ask_scale(),
            _ => {}
        }
        Effect::None
    }

    fn order_by(&mut self, sort: Sort) {
        self.sort = sort;
        // The busiest, the hottest, the oldest first; places and names from the beginning.
        self.reverse = sort.is_largest_first();
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let to = self.place().saturating_add_signed(by).min(last);
        self.selected = rows.get(to).map(|row| row.gpu.uuid.clone());
    }

    fn filtering(&mut self, code: KeyCode) -> Effect {
        match code {
            KeyCode::Enter => return Effect::None,
            KeyCode::Esc => {
                self.filter.clear();
                return Effect::None;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < LONGEST => {
                self.filter.push(c);
            }
            _ => {}
        }
        self.mode = Mode::Filter;
        Effect::None
    }

    /// Whether another change can be begun, and whose container the row is.
    fn held(&mut self) -> Option<Held> {
        if let Some(doing) = self.acting.clone() {
            self.tell(&format!("one change at a time: {doing}"), true);
            return None;
        }
        let row = self.current()?.clone();
        let place = row.gpu.place();
        let Some(name) = row.gpu.holder.clone() else {
            self.tell(&format!("nobody holds GPU {place}"), true);
            return None;
        };
        let rows = self.view.iter().flat_map(|v| &v.rows);
        let of_it = rows.filter(|r| r.gpu.holder.as_ref() == Some(&name));
        let places: BTreeSet<_> = of_it.map(|r| (r.gpu.index, r.gpu.place().to_string())).collect();
        let places = places.into_iter().map(|(_, place)| place).collect();
        Some(Held { row, name, places })
    }

    fn ask_stop(&mut self) {
        let Some(Held { row, name, places }) = self.held() else { return };
        let owner = row.gpu.owner.as_ref().map(|o| format!(" of {o}")).unwrap_or_default();
        let of = if places.len() == 1 { "GPU" } else { "GPUs" };
        let list = places.join(",");
        self.mode = Mode::Confirm {
            question: visible(&format!("Stop {name}{owner}, which holds {of} {list}?")),
            act: Act::Stop { managed: row.managed.is_some(), name },
        };
    }

    fn ask_scale(&mut self) {
        let Some(Held { row, name, places }) = self.held() else { return };
        let Some(managed) = row.managed else {
            self.tell(
                &format!("{name} was made by docker run, and keeps its GPUs as they are"),
                true,
            );
            self.tell(
                &format!("hint: docker gpuctl adopt {name} makes it one that can be scaled"),
                true,
            );
            return;
        };
        let wants = row.wants.map_or_else(|| places.len().to_string(), |w| w.to_string());
        self.mode = Mode::Scale { name: managed.to_string(), wants, typed: String::new() };
    }

    fn scaling(&mut self, code: KeyCode, name: String, wants: String, mut typed: String) -> Effect {
        match code {
            KeyCode::Esc => {
                self.tell("nothing was changed", false);
                return Effect::None;
            }
            KeyCode::Enter => {
                match typed.parse::<GpuRequest>() {
                    Ok(gpus) => {
                        let to = gpus_words(&gpus);
                        let question = visible(&format!(
                            "Scale {name} from {wants} to {to}? Its processes restart."
                        ));
                        let act = Act::Scale { name, gpus };
                        self.mode = Mode::Confirm { question, act };
                    }
                    Err(why) => {
                        self.tell(&format!("{typed:?}: {why}"), true);
                        self.mode = Mode::Scale { name, wants, typed };
                    }
                }
                return Effect::None;
            }
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Char(c) if !c.is_control() && typed.chars().count() < LONGEST => typed.push(c),
            _ => {}
        }
        self.mode = Mode::Scale { name, wants, typed };
        Effect::None
    }
}

/// The container that holds the row's GPU.
struct Held {
    row: TopRow,
    /// In Docker.
    name: String,
    /// All that it holds.
    places: Vec<String>,
}

/// `2 GPUs`, or the request as it is written.
fn gpus_words(gpus: &GpuRequest) -> String {
    match gpus {
        GpuRequest::None => "0 GPUs".into(),
        GpuRequest::Count(1) => "1 GPU".into(),
        GpuRequest::Count(n) => format!("{n} GPUs"),
        other => other.to_string(),
    }
}
