//! What doctor shows: a line a check, and below it what mends it.

use super::list::View;
use super::screen::Tint;
use super::table::{visible, wrapped};
use crate::engine::api::{Check, Verdict};

/// Between columns.
const GAP: usize = 3;
/// No text is broken to less than this.
const LEAST: usize = 30;

/// The word for a verdict.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Problem => "PROBLEM",
        Verdict::Fixed => "fixed",
    }
}

fn tint(verdict: Verdict) -> Tint {
    match verdict {
        Verdict::Ok | Verdict::Fixed => Tint::Good,
        Verdict::Warning => Tint::Doubtful,
        Verdict::Problem => Tint::Bad,
    }
}

/// The lines.
pub(super) fn checks(rows: &[Check], view: &View) -> String {
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let name = widest(&mut rows.iter().map(|c| visible(&c.name).len()).chain(["CHECK".len()]));
    let state = "PROBLEM".len();
    let left = name + state + 2 * GAP;
    let room = view.screen.width.map(|width| width.saturating_sub(left).max(LEAST));
    let mut text = format!("{:<w$}{:<s$}DETAIL\n", "CHECK", "", w = name + GAP, s = state + GAP);
    let faint = Tint::Faint;
    for c in rows {
        let padded = format!("{:<state$}", word(c.verdict));
        let verdict = tint(c.verdict).paint(&padded, view.screen.colour);
        let head = format!("{:<w$}{verdict}{:GAP$}", visible(&c.name), "", w = name + GAP);
        let broken = |detail: &str| match room {
            Some(room) => wrapped(&visible(detail), room),
            None => vec![visible(detail)],
        };
        for (n, line) in broken(&c.detail).into_iter().enumerate() {
            let before = if n == 0 { head.clone() } else { " ".repeat(left) };
            text.push_str(format!("{before}{line}").trim_end());
            text.push('\n');
        }
        if let Some(fix) = c.fix.as_ref().filter(|_| c.verdict != Verdict::Ok) {
            for line in broken(&format!("fix: {fix}")) {
                text.push_str(&" ".repeat(left));
                text.push_str(&faint.paint(&line, view.screen.colour));
                text.push('\n');
            }
        }
    }
    text
}

/// How it stands, in one line.
pub fn summary(rows: &[Check]) -> String {
    let count = |verdict| rows.iter().filter(|c| c.verdict == verdict).count();
    let some = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    let fixed = match count(Verdict::Fixed) {
        0 => String::new(),
        n => format!(", {n} fixed just now"),
    };
    format!("{}, {}{fixed}", some(problems, "problem"), some(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Format;
    use crate::ui::screen::Screen;
    use gpuctl_ledger::model::Timestamp;
    use unicode_width::UnicodeWidthStr as _;

    fn check(name: &str, verdict: Verdict, detail: &str) -> Check {
        let fix = Some("systemctl start docker".to_owned());
        Check { name: name.into(), verdict, detail: detail.into(), fix }
    }

    fn shown(rows: &[Check], width: Option<usize>, colour: bool) -> String {
        let screen = Screen { width, colour };
        let format = Format::Table;
        checks(rows, &View { format, quiet: false, whole: false, now: Timestamp::EPOCH, screen })
    }

    #[test]
    fn what_mends_is_shown_only_where_something_is_wrong() {
        let ok = shown(&[check("engine", Verdict::Ok, "answers")], None, false);
        assert_eq!(ok, "CHECK              DETAIL\nengine   ok        answers\n");
        let bad = shown(&[check("engine", Verdict::Problem, "is away")], None, false);
        assert_eq!(
            bad,
            "CHECK              DETAIL\nengine   PROBLEM   is away\n                   fix: systemctl start docker\n"
        );
    }

    #[test]
    fn long_texts_are_broken_to_the_screen_and_nowhere_else() {
        let rows = [check("injection", Verdict::Problem, &"words and words ".repeat(12))];
        assert_eq!(shown(&rows, None, false).lines().count(), 3);
        let text = shown(&rows, Some(80), false);
        assert!(text.lines().count() > 4 && text.lines().all(|l| l.width() <= 80), "{text}");
        assert!(shown(&rows, None, true).contains("\u{1b}[31mPROBLEM\u{1b}[0m"));
    }

    #[test]
    fn the_sum_is_said() {
        let rows = [
            check("a", Verdict::Problem, ""),
            check("b", Verdict::Warning, ""),
            check("c", Verdict::Warning, ""),
            check("d", Verdict::Fixed, ""),
        ];
        assert_eq!(summary(&rows), "1 problem, 2 warnings, 1 fixed just now");
        assert_eq!(summary(&[]), "0 problems, 0 warnings");
    }
}
