//! The table: what, baseline, ours, the difference, the aim, and whether it is met.

use crate::stats::Sample;

/// What a figure is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    /// At most so many milliseconds more than the baseline.
    More(f64),
    /// At most so many times the baseline.
    Times(f64),
    /// Below so many MiB.
    Below(f64),
    /// Only to be seen.
    None,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    cells: [String; 7],
    met: Option<bool>,
}

fn time(sample: &Sample) -> String {
    format!("{:.1} ({:.1})", sample.median(), sample.p90())
}

impl Row {
    /// Times side by side; medians count.
    pub(crate) fn compare(what: &str, baseline: &Sample, ours: &Sample, aim: Aim) -> Self {
        let (before, after) = (baseline.median(), ours.median());
        let (more, times) = (after - before, after / before);
        let (difference, shown, met) = match aim {
            Aim::More(most) => {
                (format!("{more:+.1} ms"), format!("<= +{most:.0} ms"), Some(more <= most))
            }
            Aim::Times(most) => {
                (format!("{times:.2} x"), format!("<= {most:.1} x"), Some(times <= most))
            }
            _ => (format!("{more:+.1} ms, {times:.2} x"), String::new(), None),
        };
        let n = format!("{}", ours.n().min(baseline.n()));
        Self::new([what.into(), time(baseline), time(ours), n, difference, shown], met)
    }

    /// A time that has no counterpart.
    pub(crate) fn alone(what: &str, ours: &Sample) -> Self {
        let n = format!("{}", ours.n());
        Self::new([what.into(), String::new(), time(ours), n, String::new(), String::new()], None)
    }

    /// A size in bytes.
    pub(crate) fn size(what: &str, bytes: u64, aim: Aim) -> Self {
        let mib = bytes as f64 / 1_048_576.0;
        let (shown, met) = match aim {
            Aim::Below(most) => (format!("< {most:.0} MiB"), Some(mib < most)),
            _ => (String::new(), None),
        };
        let cells = [
            what.into(),
            String::new(),
            format!("{mib:.1} MiB"),
            String::new(),
            String::new(),
            shown,
        ];
        Self::new(cells, met)
    }

    /// What was not measured, and why.
    pub(crate) fn skipped(what: &str, why: &str) -> Self {
        let blank = String::new;
        Self::new(
            [what.into(), blank(), format!("skipped: {why}"), blank(), blank(), blank()],
            None,
        )
    }

    fn new(cells: [String; 6], met: Option<bool>) -> Self {
        let [what, baseline, ours, n, difference, aim] = cells;
        let word = match met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        Self { cells: [what, baseline, ours, n, difference, aim, word.into()], met }
    }

    /// Whether an aim was missed.
    pub(crate) fn missed(&self) -> bool {
        self.met == Some(false)
    }
}

const HEAD: [&str; 7] = ["", "baseline", "ours", "n", "difference", "aim", "met"];

/// The rows under a headline, in columns.
pub(crate) fn render(title: &str, rows: &[Row]) -> String {
    let head = HEAD.map(str::to_owned);
    // A reason is no figure: it may run over the columns.
    let counts = |row: &&Row| !row.cells[2].starts_with("skipped");
    let width = |column: usize| {
        let cells = rows.iter().filter(counts).map(|r| &r.cells);
        let what = rows.iter().map(|r| r.cells[0].chars().count()).max().unwrap_or(0);
        let widest = cells.chain([&head]).filter_map(|c| c.get(column)).map(|c| c.chars().count());
        widest.max().unwrap_or(0).max(if column == 0 { what } else { 0 })
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |cells: &[String; 7]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
            if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = format!("{title}\n{}\n", line(&head));
    for row in rows {
        text.push_str(&line(&row.cells));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ms(times: &[u64]) -> Sample {
        let mut sample = Sample::default();
        times.iter().for_each(|t| sample.add(Duration::from_millis(*t)));
        sample
    }

    #[test]
    fn an_aim_is_met_or_not() {
        let of = |aim| Row::compare("x", &ms(&[10]), &ms(&[13]), aim);
        assert!(!of(Aim::More(3.0)).missed() && of(Aim::More(2.0)).missed());
        assert!(!of(Aim::Times(1.5)).missed() && of(Aim::Times(1.2)).missed());
        assert!(!of(Aim::None).missed());
        assert!(Row::size("x", 16 << 20, Aim::Below(16.0)).missed());
        assert!(!Row::size("x", 15 << 20, Aim::Below(16.0)).missed());
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [
            Row::compare("long name", &ms(&[10]), &ms(&[13]), Aim::More(3.0)),
            Row::skipped("y", "no room"),
        ];
        let text = render("t", &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].find("ours").unwrap() + 4, lines[2].find("13.0 (13.0)").unwrap() + 11);
        assert!(lines[2].ends_with("yes") && lines[3].contains("skipped: no room"));
    }
}
