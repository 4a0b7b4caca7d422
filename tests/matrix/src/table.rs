//! docs/matrix.md: made of results, and read back.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cell::Cell;
use crate::column::Column;
use crate::results::Line;
use crate::rows;

/// What a cell reads where nothing was tried.
const NOT_TRIED: &str = "not tried";
/// Before the hash.
const HASH: &str = "<!-- sources: ";
/// Before what was seen besides.
const SEEN: &str = "\n## What was seen\n\n";

/// The page. Only results of these sources count.
pub fn page(lines: &[Line], hash: &str) -> String {
    let cells: BTreeMap<(&str, &str), &Line> = lines
        .iter()
        .filter(|l| l.hash == hash)
        .map(|l| ((l.column.as_str(), l.row.as_str()), l))
        .collect();
    let mut reasons: Vec<String> = Vec::new();
    let mut tables = String::new();
    for (title, columns) in tables_of_columns() {
        let _ = writeln!(tables, "\n## {title}\n");
        let names: Vec<&str> = columns.iter().map(Column::engine_name).collect();
        let _ = writeln!(tables, "| id | way | {} |", names.join(" | "));
        let _ = writeln!(tables, "|---|---|{}", "---|".repeat(columns.len()));
        for row in rows::all() {
            let shown = columns.iter().map(|column| {
                let name = column.to_string();
                match cells.get(&(name.as_str(), row.id)).map(|l| &l.cell) {
                    None => NOT_TRIED.into(),
                    Some(Cell::NotApplicable(why)) => {
                        let known = reasons.iter().position(|r| r == why);
                        let at = known.unwrap_or_else(|| {
                            reasons.push(why.clone());
                            reasons.len() - 1
                        });
                        format!("not applicable ({})", at + 1)
                    }
                    Some(Cell::NotCaught) => "**not caught**".into(),
                    Some(cell) => cell.to_string(),
                }
            });
            let shown = shown.collect::<Vec<String>>().join(" | ");
            let _ = writeln!(tables, "| {} | {} | {shown} |", row.id, row.what);
        }
    }
    let mut page = format!("{INTRODUCTION}\n{HASH}{hash} -->\n{tables}");
    if !reasons.is_empty() {
        page.push_str("\n## Not applicable\n\n");
        for (at, why) in reasons.iter().enumerate() {
            let _ = writeln!(page, "{}. {why}", at + 1);
        }
    }
    page.push_str(&remarks(&cells));
    page
}

/// The columns of each table, and its title: one for each level and kind of cgroup.
fn tables_of_columns() -> Vec<(String, Vec<Column>)> {
    let mut tables: Vec<(String, Vec<Column>)> = Vec::new();
    for column in Column::all() {
        let level = if column.strict { "Strict" } else { "Cooperative" };
        let title = format!("{level}, {}", column.cgroup_in_words());
        match tables.last_mut() {
            Some((last, columns)) if *last == title => columns.push(column),
            _ => tables.push((title, vec![column])),
        }
    }
    tables
}

const INTRODUCTION: &str = "\
# Every way to a GPU

`tests/run --full` writes this page; [how](adr/0012-the-matrix.md). Each cell is what happened when it was
tried with a real container that tries to open the device nodes, while another container held GPUs:

- leased: it runs, and opens exactly the GPUs that it holds a lease on
- refused: it was not started; the message is ours
- no access: it runs, and opens no GPU
- **not caught**: it runs, and opens a GPU that it holds no lease on. [Security](security.md) lists these
- not applicable: it cannot be tried there; the reasons are below the tables
- not tried: no run of that column with these sources; its Engine or its machine could not be had, or the run
  was broken off

20.10, 26.1 and 28.5 are Debian's Engines, 28.5 with each of its two image stores; 29-fixtures is what Engine 29
handed to a runtime when it was recorded.

All containers are real; not every column has a machine of its own. With cgroupfs, where the machine has version 1
of cgroups, it runs where version 2 alone is mounted. With systemd, 26.1 strict runs in a booted Debian, whose
first process is systemd; the other columns run on the machine, under a manager of systemd of their own that has
a part of the machine's cgroups for the whole (`tests/matrix/under-systemd`), and in the booted Debian where that
cannot be had.

A way that names a GPU was tried twice: with one that another container holds, and with a free one. The cell
is of the free one; had the other been opened, it would say \"not caught\".
";

/// What was seen besides, where it says more than the cell does: each thing once, with the first
/// column that it was seen in.
fn remarks(cells: &BTreeMap<(&str, &str), &Line>) -> String {
    let mut text = String::new();
    for row in rows::all() {
        let mut said: Vec<String> = Vec::new();
        for column in Column::all() {
            let name = column.to_string();
            let Some(line) = cells.get(&(name.as_str(), row.id)) else { continue };
            let detail = without_times(&without_devices(&line.detail));
            if !detail.is_empty() && !said.contains(&detail) {
                let _ = writeln!(text, "- {}, {name}: {}", row.id, escaped(&detail));
                said.push(detail);
            }
        }
    }
    if text.is_empty() { text } else { format!("{SEEN}{text}") }
}

/// Which devices it were is in the results; that a GPU of another's was tried is said above.
fn without_devices(detail: &str) -> String {
    let mine = |part: &&str| {
        !part.is_empty()
            && !part.starts_with("opens ")
            && *part != "of a GPU that another holds: refused"
            && !part.contains("another container holds")
    };
    detail.split("; ").filter(mine).collect::<Vec<_>>().join("; ")
}

/// A time of day is another in each column and run.
fn without_times(detail: &str) -> String {
    let words = detail.split(' ').map(|word| {
        let time = word.trim_end_matches([';', ',']);
        let digits = time.bytes().filter(u8::is_ascii_digit).count();
        if time.len() == 5 && digits == 4 && time.as_bytes().get(2) == Some(&b':') {
            word.replace(time, "HH:MM")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('<', "\\<").replace('*', "\\*").replace('|', "\\|")
}

/// What [`escaped`] was made of.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        plain.extend(if char == '\\' { rest.next() } else { Some(char) });
    }
    plain
}

/// The hash that a page names.
pub fn hash_of(page: &str) -> Option<&str> {
    page.lines().find_map(|l| l.strip_prefix(HASH)?.strip_suffix(" -->"))
}

/// The cells of a page, by column and row; those that were not tried are left out.
///
/// # Errors
/// When a cell is none.
pub fn cells_of(page: &str) -> Result<BTreeMap<(String, String), Cell>, String> {
    let reasons: Vec<&str> = page
        .split_once("## Not applicable")
        .map_or("", |(_, rest)| rest.split_once("\n## ").map_or(rest, |(list, _)| list))
        .lines()
        .filter_map(|l| l.split_once(". ").map(|(_, why)| why))
        .collect();
    let mut cells = BTreeMap::new();
    let mut columns: Vec<Column> = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let table = tables_of_columns().into_iter().find(|(known, _)| known == title);
            columns = table.map(|(_, columns)| columns).unwrap_or_default();
            continue;
        }
        let words: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some((id, rest)) = words.split_first() else { continue };
        if !line.starts_with("| ") || *id == "id" || columns.is_empty() {
            continue;
        }
        let shown = rest.get(1..).unwrap_or_default();
        if shown.len() != columns.len() {
            return Err(format!("{} columns are expected in {line:?}", columns.len()));
        }
        for (column, text) in columns.iter().zip(shown) {
            if *text == NOT_TRIED {
                continue;
            }
            let number = text.strip_prefix("not applicable (").and_then(|t| t.strip_suffix(')'));
            let cell = match number.map(str::parse::<usize>) {
                None => Cell::try_from(text.trim_matches('*').to_owned())?,
                Some(Ok(n)) if n > 0 && n <= reasons.len() => {
                    Cell::NotApplicable(reasons[n - 1].to_owned())
                }
                Some(_) => return Err(format!("no reason of that number: {text:?}")),
            };
            cells.insert((column.to_string(), (*id).to_owned()), cell);
        }
    }
    Ok(cells)
}

/// A page's cells as results, where it is of these sources: a machine that cannot have a column need not
/// take away what another one saw.
///
/// # Errors
/// When a cell is none.
pub fn lines_of(page: &str, hash: &str) -> Result<Vec<Line>, String> {
    if hash_of(page) != Some(hash) {
        return Ok(Vec::new());
    }
    let seen = page.split_once(SEEN).map_or("", |(_, list)| list);
    let details: BTreeMap<(&str, &str), &str> = seen
        .lines()
        .filter_map(|l| {
            let (row, rest) = l.strip_prefix("- ")?.split_once(", ")?;
            let (column, detail) = rest.split_once(": ")?;
            Some(((column, row), detail))
        })
        .collect();
    let line = |((column, row), cell): ((String, String), Cell)| Line {
        detail: details
            .get(&(column.as_str(), row.as_str()))
            .map_or_else(String::new, |d| plain(d)),
        row,
        column,
        cell,
        seconds: 0.0,
        hash: hash.into(),
    };
    Ok(cells_of(page)?.into_iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(column: &str, row: &str, cell: Cell) -> Line {
        Line {
            row: row.into(),
            column: column.into(),
            cell,
            detail: "opens 195:1; GPU 0 a|b since 01:02; hint".into(),
            seconds: 1.0,
            hash: "abc".into(),
        }
    }

    #[test]
    fn a_page_is_read_as_it_is_written() {
        let lines = [
            line("20.10/cooperative/v1", "runtime-runc", Cell::NotCaught),
            line("26.1/strict/v1", "gpus-count", Cell::Leased),
            line("26.1/strict/v2-systemd", "gpus-count", Cell::Refused),
            line("20.10/strict/v1", "daemon-reload", Cell::NotApplicable("no systemd".into())),
            line("20.10/strict/v1", "cdi-device", Cell::NotApplicable("no CDI".into())),
        ];
        let text = page(&lines, "abc");
        assert_eq!(hash_of(&text), Some("abc"));
        let cells = cells_of(&text).unwrap();
        assert_eq!(cells.len(), lines.len(), "{text}");
        for line in &lines {
            let at = (line.column.clone(), line.row.clone());
            assert_eq!(cells.get(&at), Some(&line.cell));
        }
        // Written again of itself it is the same; of other sources it says nothing.
        assert_eq!(page(&lines_of(&text, "abc").unwrap(), "abc"), text);
        assert_eq!(lines_of(&text, "other").unwrap(), []);
        // Results of other sources are none.
        assert!(cells_of(&page(&lines, "other")).unwrap().is_empty());
        assert!(
            text.contains("GPU 0 a\\|b since HH:MM; hint") && !text.contains("195:1"),
            "{text}"
        );
    }
}
