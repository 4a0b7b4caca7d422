//! The state as it is drawn, at any size. Pure: into ratatui's buffer, which writes what has changed.

use gpuctl_ledger::model::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::rows::{Column, columns, of_whom, span};
use super::state::{Mode, State};
use crate::engine::api::{TopProcess, TopRow};
use crate::ui::visible;

/// Below this nothing useful fits.
const LEAST: (u16, u16) = (24, 6);
/// Columns of the table of processes: GPU, pid, memory, whose; the rest is the program's name.
const PROCESS: [(&str, u16); 4] = [("GPU", 5), ("PID", 8), ("MEMORY", 9), ("OF", 20)];
/// What the keys do.
const HELP: [&str; 16] = [
    "Up Down PgUp PgDn Home End   choose a GPU (or k j g G)",
    "< >                          order by another column (or O o)",
    "r                            the other way round",
    "/                            show only rows with these words; Esc: all",
    "p                            only the chosen GPU's processes, or all",
    "s                            stop the container that holds the chosen GPU",
    "c                            give it more GPUs, or fewer",
    "Space                        look now",
    "Ctrl-L                       draw all anew",
    "Ctrl-Z                       leave for a while; fg comes back",
    "q                            leave (or Ctrl-C)",
    "",
    "FOR     how long it has been held",
    "HEALTH  claimed: its container starts; reserved: it comes back by itself",
    "",
    "Any key goes back.",
];

/// What the drawing found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// How many rows of GPUs fit.
    pub page: usize,
    /// Whether there was room only to say that there is none.
    pub cramped: bool,
}

struct Pen<'a> {
    to: &'a mut Buffer,
    area: Rect,
    colour: bool,
}

impl Pen<'_> {
    /// Writes a line that begins at `x`; what does not fit is left out.
    fn put(&mut self, x: u16, y: u16, text: &str, width: u16, style: Style) {
        if y >= self.area.height || x >= self.area.width {
            return;
        }
        let room = width.min(self.area.width - x);
        self.to.set_stringn(self.area.x + x, self.area.y + y, text, usize::from(room), style);
    }

    /// A line over the whole width.
    fn line(&mut self, y: u16, text: &str, style: Style) {
        if y < self.area.height {
            let row = Rect { y: self.area.y + y, height: 1, ..self.area };
            self.to.set_style(row, style);
        }
        self.put(0, y, text, u16::MAX, style);
    }

    fn tinted(&self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }
}

/// Draws the state.
pub fn draw(to: &mut Buffer, area: Rect, state: &State, now: Timestamp, colour: bool) -> Drawn {
    let mut pen = Pen { to, area, colour };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        pen.put(0, 0, "too small: q leaves", u16::MAX, Style::new());
        return Drawn { page: 1, cramped: true };
    }
    pen.line(0, &title(state), Style::new().add_modifier(Modifier::REVERSED));
    let mut top = 1;
    if let Some(text) = notice(state, now) {
        let style = pen.tinted(Style::new().add_modifier(Modifier::BOLD), Color::Yellow);
        pen.line(top, &text, style);
        top += 1;
    }
    let bottom = footer(&mut pen, state);
    let body = Rect { y: area.y + top, height: bottom.saturating_sub(top), ..area };
    if state.mode == Mode::Help {
        for (y, text) in (top..bottom).zip(HELP) {
            pen.put(1, y, text, u16::MAX, Style::new());
        }
        return Drawn { page: usize::from(body.height), cramped: false };
    }
    let rows = state.rows();
    let processes = processes(state, &rows);
    let (gpus, shown) = split(body.height, rows.len(), processes.len());
    gpu_table(&mut pen, state, &rows, (top, gpus), now);
    let begin = top + 1 + gpus + 1;
    process_table(&mut pen, &processes, begin, shown, state.only_selected);
    Drawn { page: usize::from(gpus).max(1), cramped: false }
}

/// How many rows of GPUs and of processes there is room for, besides a header for each and a line
/// between.
fn split(height: u16, gpus: usize, processes: usize) -> (u16, u16) {
    let some = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let (gpus, processes) = (some(gpus), some(processes));
    let room = height.saturating_sub(1);
    if processes == 0 || height < 8 {
        return (gpus.min(room), 0);
    }
    // The processes have what the GPUs leave, and a third in any case.
    let wanted = processes.saturating_add(2);
    let given = wanted.min(room.saturating_sub(gpus).max((height / 3).max(3)));
    (gpus.min(room - given), given - 2)
}

fn title(state: &State) -> String {
    let Some(view) = &state.view else { return "docker gpuctl top".into() };
    let held = view.rows.iter().filter(|r| r.gpu.holder.is_some()).count();
    // A card that is cut into parts is none that somebody gets.
    let cut = |r: &&TopRow| {
        let parts = view.rows.iter().filter(|p| p.gpu.index == r.gpu.index);
        r.gpu.mig.is_none() && r.gpu.slot.is_none() && parts.count() > 1
    };
    let all = view.rows.len() - view.rows.iter().filter(cut).count();
    let mut text = format!("gpuctl top  {}  {held} of {all} held", visible(&view.node));
    let (by, way) =
        (format!("{:?}", state.sort).to_uppercase(), if state.reverse { "v" } else { "^" });
    text.push_str(&format!("  by {by} {way}"));
    if !state.filter.is_empty() && state.mode != Mode::Filter {
        text.push_str(&format!("  only {:?} ({})", state.filter, state.rows().len()));
    }
    if let Some(doing) = &state.acting {
        text.push_str(&format!("  {}...", visible(doing)));
    }
    text
}

fn notice(state: &State, now: Timestamp) -> Option<String> {
    let old = state.view.as_ref().map(|view| span(view.at, now));
    let text = match (&state.failure, &state.view) {
        (Some(failure), _) => {
            let hint = failure.hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
            format!("{}{hint}", failure.message)
        }
        (None, None) => return Some("looking at the GPUs...".into()),
        (None, Some(view)) => match (&view.silent, state.is_stale(now)) {
            (Some(why), _) => return Some(visible(why)),
            (None, true) => "no answer".into(),
            (None, false) => return None,
        },
    };
    let old = old.map(|age| format!("; shown as {age} ago")).unwrap_or_default();
    Some(visible(&format!("{text}{old}")))
}

/// The lines at the bottom; the number of the first of them.
fn footer(pen: &mut Pen<'_>, state: &State) -> u16 {
    let last = pen.area.height - 1;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let (text, style) = match &state.mode {
        Mode::Normal => (hints(pen.area.width), Style::new()),
        Mode::Filter => (format!("/{}_", state.filter), bold),
        Mode::Scale { name, wants, typed } => {
            (format!("GPUs for {name} (now {wants}): {typed}_"), bold)
        }
        Mode::Confirm { question, .. } => (format!("{question} y/N"), bold),
        Mode::Help => (String::new(), bold),
    };
    let lines = folded(&text, pen.area.width);
    let asked = u16::try_from(lines.len()).unwrap_or(1).min(last);
    let style = if state.mode == Mode::Normal { style } else { pen.tinted(style, Color::Cyan) };
    let begin = last + 1 - asked;
    for (y, line) in (begin..=last).zip(&lines) {
        pen.line(y, line, style);
    }
    // Of a small screen the messages take no more than a third.
    let most = usize::from((pen.area.height / 3).max(1));
    let folded: Vec<(String, bool)> = state
        .messages
        .iter()
        .flat_map(|m| folded(&m.text, pen.area.width).into_iter().map(|line| (line, m.bad)))
        .collect();
    let kept = folded.len().saturating_sub(most);
    let first = begin.saturating_sub(u16::try_from(folded.len() - kept).unwrap_or(0));
    for (y, (line, bad)) in (first..begin).zip(folded.iter().skip(kept)) {
        let style = if *bad { pen.tinted(bold, Color::Red) } else { Style::new() };
        pen.line(y, line, style);
    }
    first
}

/// The keys that there is room for.
fn hints(width: u16) -> String {
    const ALL: [&str; 6] = ["? help", "q leave", "/ filter", "<> order", "s stop", "c scale"];
    let mut text = String::new();
    for hint in ALL {
        let with = format!("{text}{}{hint}", if text.is_empty() { "" } else { "  " });
        if with.len() <= usize::from(width) {
            text = with;
        }
    }
    text
}

/// A text in lines of at most so many characters, broken at spaces.
fn folded(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width).max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let at = lines.last().map_or(0, |l| l.chars().count());
        if at > 0 && at + 1 + word.len() > width {
            lines.push(String::new());
        } else if at > 0 {
            lines.last_mut().into_iter().for_each(|l| l.push(' '));
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.last_mut().into_iter().for_each(|l| l.extend(&word));
            lines.push(String::new());
            word = rest;
        }
        lines.last_mut().into_iter().for_each(|l| l.extend(&word));
    }
    lines
}

fn gpu_table(pen: &mut Pen<'_>, state: &State, rows: &[&TopRow], at: (u16, u16), now: Timestamp) {
    let (y, height) = at;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let columns = columns(pen.area.width.saturating_sub(1));
    let mut x = 1;
    for (column, width) in &columns {
        let sorted = column.sort() == Some(state.sort);
        let style = if sorted { bold.add_modifier(Modifier::UNDERLINED) } else { bold };
        pen.put(x, y, column.header(), *width, style);
        x += width + 1;
    }
    let place = state.place();
    let page = usize::from(height);
    let first = if place < page { 0 } else { place + 1 - page };
    if rows.is_empty() && state.view.is_some() {
        let text = if state.filter.is_empty() { "no GPUs" } else { "no GPU is like that" };
        pen.put(1, y + 1, text, u16::MAX, Style::new());
    }
    for (i, row) in rows.iter().enumerate().skip(first).take(page) {
        let line = y + 1 + u16::try_from(i - first).unwrap_or(u16::MAX);
        let style = row_style(pen, row);
        let style = if i == place { style.add_modifier(Modifier::REVERSED) } else { style };
        pen.line(line, if i == place { ">" } else { " " }, style);
        let mut x = 1;
        for (column, width) in &columns {
            pen.put(x, line, &cell(*column, row, now), *width, style);
            x += width + 1;
        }
    }
}

fn cell(column: Column, row: &TopRow, now: Timestamp) -> String {
    column.cell(row, now)
}

fn row_style(pen: &Pen<'_>, row: &TopRow) -> Style {
    let health = row.gpu.health.as_str();
    let well = health == "ok" || health.starts_with("cut into");
    match (well, &row.gpu.holder) {
        (false, _) => pen.tinted(Style::new(), Color::Red),
        (true, None) => Style::new().add_modifier(Modifier::DIM),
        (true, Some(_)) => Style::new(),
    }
}

/// The processes to show, each with the row that it is on.
fn processes<'a>(state: &State, rows: &[&'a TopRow]) -> Vec<(&'a TopRow, &'a TopProcess)> {
    let only = state.only_selected.then(|| state.place());
    let rows = rows.iter().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i));
    rows.flat_map(|(_, row)| row.processes.iter().map(|p| (*row, p))).collect()
}

fn process_table(
    pen: &mut Pen<'_>,
    all: &[(&TopRow, &TopProcess)],
    y: u16,
    height: u16,
    only_selected: bool,
) {
    if height == 0 {
        return;
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut x = 1;
    for (header, width) in PROCESS {
        pen.put(x, y, header, width, bold);
        x += width + 1;
    }
    let more = all.len().saturating_sub(usize::from(height));
    let mut header = "PROGRAM".to_owned();
    if more > 0 {
        header.push_str(&format!(" ({more} more)"));
    } else if only_selected {
        header.push_str(" (of this GPU)");
    }
    pen.put(x, y, &header, u16::MAX, bold);
    for (line, (row, process)) in (y + 1..=y + height).zip(all) {
        let memory = process.memory.map_or_else(|| "-".into(), crate::ui::mebibytes);
        let cells = [
            row.gpu.place().to_string(),
            process.pid.to_string(),
            memory,
            of_whom(row, process),
            visible(&process.program),
        ];
        let widths = PROCESS.iter().map(|(_, width)| *width).chain([u16::MAX]);
        let mut x = 1;
        for (text, width) in cells.iter().zip(widths) {
            pen.put(x, line, text, width, Style::new());
            x = x.saturating_add(width).saturating_add(1);
        }
    }
}
