//! Two texts, line by line, as people read it. Pure.

/// Lines of context around a change.
const CONTEXT: usize = 2;
/// Longer texts are shown as replaced as a whole: comparing takes the product of their lines.
const MOST_LINES: usize = 2000;

/// The lines that go (`-`), that come (`+`), and a few around them; nothing where both are the same.
pub(super) fn diff(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old == new {
        return Vec::new();
    }
    let marked = if old.len() > MOST_LINES || new.len() > MOST_LINES {
        let gone = old.iter().map(|l| ('-', *l));
        gone.chain(new.iter().map(|l| ('+', *l))).collect()
    } else {
        compare(&old, &new)
    };
    let near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        marked.iter().skip(from).take(at - from + CONTEXT + 1).any(|(mark, _)| *mark != ' ')
    };
    let mut shown = Vec::new();
    let mut skipped = false;
    for (at, (mark, line)) in marked.iter().enumerate() {
        if near(at) {
            if skipped && !shown.is_empty() {
                shown.push("  ...".to_owned());
            }
            shown.push(format!("{mark} {line}").trim_end().to_owned());
        }
        skipped = !near(at);
    }
    shown
}

/// The longest common subsequence, backwards.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    let mut longest = vec![0usize; (old.len() + 1) * width];
    let at = |table: &[usize], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, line) in old.iter().enumerate().rev() {
        for (j, other) in new.iter().enumerate().rev() {
            let value = if line == other {
                at(&longest, i + 1, j + 1) + 1
            } else {
                at(&longest, i + 1, j).max(at(&longest, i, j + 1))
            };
            if let Some(cell) = longest.get_mut(i * width + j) {
                *cell = value;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut marked = Vec::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(line), Some(other)) if line == other => {
                marked.push((' ', *line));
                (i, j) = (i + 1, j + 1);
            }
            (Some(line), other)
                if other.is_none() || at(&longest, i + 1, j) >= at(&longest, i, j + 1) =>
            {
                marked.push(('-', *line));
                i += 1;
            }
            (_, Some(line)) => {
                marked.push(('+', *line));
                j += 1;
            }
            _ => return marked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_marked_with_a_little_around_them() {
        assert!(diff("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(diff("", "a\nb\n"), ["+ a", "+ b"]);
        assert_eq!(diff("a\nb\nc\n", "a\nx\nc\n"), ["  a", "- b", "+ x", "  c"]);
        let long = |mid: &str| format!("1\n2\n3\n4\n{mid}\n5\n6\n7\n8\n9\nend {mid}\n");
        let shown = diff(&long("x"), &long("y"));
        assert_eq!(
            shown,
            ["  3", "  4", "- x", "+ y", "  5", "  6", "  ...", "  8", "  9", "- end x", "+ end y"]
        );
    }
}
