//! Tables as Docker prints them.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::screen::{Screen, Tint};

/// Between columns.
const GAP: usize = 3;
/// What is left of a cell that is cut, at the least.
const LEAST: usize = 6;

/// Columns with a header in capitals, as wide as their widest cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns whose cells may be cut where the screen is too narrow.
    cut: Vec<usize>,
    /// And those that are only when that is not enough.
    cut_last: Vec<usize>,
    /// Colours by row and column.
    tints: Vec<(usize, usize, Tint)>,
}

impl Table {
    /// An empty table.
    pub fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|h| visible(h)).collect();
        Self { header, ..Self::default() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| visible(c)).collect());
    }

    /// Lets a column's cells be cut.
    pub fn may_cut(&mut self, column: usize) {
        self.cut.push(column);
    }

    /// Lets a column's cells be cut, when cutting the others is not enough.
    pub fn may_cut_last(&mut self, column: usize) {
        self.cut_last.push(column);
    }

    /// Gives a cell of the last row a colour.
    pub fn tint(&mut self, column: usize, tint: Tint) {
        self.tints.push((self.rows.len().saturating_sub(1), column, tint));
    }

    fn all(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).chain(&self.rows)
    }

    /// How wide it is where nothing is cut.
    pub fn width(&self) -> usize {
        let widths = self.widths(None);
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    /// How wide each column is on a screen: where all do not fit, the widest of those that may be cut
    /// are.
    fn widths(&self, screen: Option<usize>) -> Vec<usize> {
        let widest = |column: usize| {
            self.all().filter_map(|r| r.get(column)).map(|c| c.width()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.header.len()).map(widest).collect();
        let Some(screen) = screen else { return widths };
        let gaps = GAP * widths.len().saturating_sub(1);
        loop {
            let over = (widths.iter().sum::<usize>() + gaps).saturating_sub(screen);
            let wide = |c: &usize| widths.get(*c).copied().unwrap_or(0);
            let widest_of = |columns: &[usize]| {
                columns.iter().copied().filter(|c| wide(c) > LEAST).max_by_key(wide)
            };
            let cut = widest_of(&self.cut).or_else(|| widest_of(&self.cut_last));
            let Some(column) = cut.filter(|_| over > 0) else { return widths };
            if let Some(width) = widths.get_mut(column) {
                *width -= 1;
            }
        }
    }

    /// The text, for a screen.
    pub fn render(&self, screen: Screen) -> String {
        let widths = self.widths(screen.width);
        let mut text = String::new();
        for (at, row) in self.all().enumerate() {
            let tint = |column| {
                let here = |(r, c, _): &&(usize, usize, Tint)| r + 1 == at && *c == column;
                self.tints.iter().find(here).map(|(.., tint)| *tint)
            };
            let mut line = String::new();
            // Spaces go before a cell that there is, so a line ends with its text.
            let mut spaces = 0;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = shortened(cell, *width);
                if !cell.is_empty() {
                    line.extend(std::iter::repeat_n(' ', spaces));
                    spaces = 0;
                    line.push_str(&match tint(column) {
                        Some(tint) => tint.paint(&cell, screen.colour),
                        None => cell.clone(),
                    });
                }
                spaces += width.saturating_sub(cell.width()) + GAP;
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(Screen::default()))
    }
}

/// The text in at most so many columns; what is left out is marked.
pub fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    let kept: String = text.chars().take_while(fits).collect();
    format!("{}…", kept.trim_end())
}

/// The text in lines of at most so many columns, broken between words; a longer word stays whole.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The text with every control character made visible as `?`, and of a bounded length.
pub fn visible(text: &str) -> String {
    const LONGEST: usize = 16 * 1024;
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(LONGEST).map(|c| if hidden(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_three_spaces_apart_and_lines_end_with_their_text() {
        let mut table = Table::new(&["NAME", "GPUS", "PORTS"]);
        table.row(vec!["train".into(), "2".into(), String::new()]);
        table.row(vec!["x".into(), "10".into(), "80/tcp".into()]);
        assert_eq!(table.to_string(), "NAME    GPUS   PORTS\ntrain   2\nx       10     80/tcp\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(&["NAME", "GPUS"]);
        table.row(vec!["日本".into(), "2".into()]);
        table.row(vec!["größe".into(), "3".into()]);
        table.row(vec!["e\u{301}te".into(), "4".into()]);
        assert_eq!(table.to_string(), "NAME    GPUS\n日本    2\ngröße   3\ne\u{301}te     4\n");
        assert_eq!(shortened("日本語です", 7), "日本語…");
        assert_eq!(shortened("日本語です", 6), "日本…");
        assert_eq!(shortened("abc", 3), "abc");
    }

    #[test]
    fn what_may_be_cut_is_cut_to_the_screen_and_only_there() {
        let mut table = Table::new(&["NAME", "MODEL", "STATUS"]);
        let name = "a-name-that-is-never-cut";
        table.row(vec![name.into(), "M".repeat(40), "S".repeat(30)]);
        table.may_cut(1);
        table.may_cut(2);
        let fits = table.render(Screen { width: Some(80), colour: false });
        assert!(fits.lines().all(|line| line.width() <= 80), "{fits}");
        assert!(fits.contains(name) && fits.matches('…').count() == 2, "{fits}");
        assert!(!table.to_string().contains('…'));
        // What cannot be cut any more goes over the edge.
        let narrow = table.render(Screen { width: Some(20), colour: false });
        assert!(narrow.contains(name), "{narrow}");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec!["ok".into(), "x".into()]);
        table.tint(0, Tint::Good);
        table.row(vec!["problem".into(), "y".into()]);
        assert_eq!(table.to_string(), "A         B\nok        x\nproblem   y\n");
        let text = table.render(Screen { width: None, colour: true });
        assert_eq!(text, "A         B\n\u{1b}[32mok\u{1b}[0m        x\nproblem   y\n");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("a-very-long-word b", 4), ["a-very-long-word", "b"]);
        assert_eq!(wrapped("", 4), [""]);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\r\n\u{202e}c\td"), "a?[2Jb???c?d");
        assert_eq!(visible("größe 日本"), "größe 日本");
    }
}
