//! Tables as Docker prints them.

/// Between columns.
const GAP: usize = 3;

/// Columns with a header in capitals, as wide as their widest cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| visible(c)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            all().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for row in all() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<w$}", w = width + GAP));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
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
    fn nothing_steers_the_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\r\n\u{202e}c\td"), "a?[2Jb???c?d");
        assert_eq!(visible("größe 日本"), "größe 日本");
    }
}
