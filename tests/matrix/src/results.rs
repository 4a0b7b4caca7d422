//! The lines that runs write: one JSON object a cell.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cell::Cell;

/// One cell as it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The row's id.
    pub row: String,
    /// The column's name.
    pub column: String,
    /// What happened.
    pub cell: Cell,
    /// What was seen, for people.
    #[serde(default)]
    pub detail: String,
    /// How long it took, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// [`crate::hash`] of the sources that it was tried with.
    #[serde(default)]
    pub hash: String,
}

/// Reads lines; a file that is not there has none. The last of a row and column counts.
///
/// # Errors
/// When the file cannot be read or a line is none.
pub fn read(path: &Path) -> Result<Vec<Line>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let line: Line = serde_json::from_str(line)
            .map_err(|e| format!("{} has a line that is none: {e}: {line}", path.display()))?;
        lines.retain(|l| (&l.row, &l.column) != (&line.row, &line.column));
        lines.push(line);
    }
    Ok(lines)
}

/// Adds one at the end.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, line: &Line) -> Result<(), String> {
    let mut text = serde_json::to_string(line).map_err(|e| e.to_string())?;
    text.push('\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_cell_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        assert_eq!(read(&path).unwrap(), []);
        let line = |cell| Line {
            row: "r".into(),
            column: "c".into(),
            cell,
            detail: String::new(),
            seconds: 0.5,
            hash: "h".into(),
        };
        append(&path, &line(Cell::NotCaught)).unwrap();
        append(&path, &line(Cell::NotApplicable("no systemd".into()))).unwrap();
        assert_eq!(read(&path).unwrap(), [line(Cell::NotApplicable("no systemd".into()))]);
        fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).is_err());
    }
}
