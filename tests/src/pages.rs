//! Pages of the documentation as stories: their fenced blocks, what is typed in them, and whether what
//! came out is what the page shows.
//!
//! - A block ```` ```console ```` is run. `$ docker gpuctl ps` is a command, `ann$ ...` one of another
//!   user or host, what follows is its output, and `(exit 1)` as its last line the exit code; without
//!   that line it is 0. A command without output shown may print what it likes. `# ...` is a heading.
//! - `...` in a line stands for any text, as a line of its own for any lines. Ids, ages, times and
//!   ports of 20000 to 29999 are alike, and so are spaces, however many.
//!   `GPUCTL_WRITE_DOCS=1` puts what came into the page where it is not what is shown: `?` is filled in.
//! - `<!-- file NAME -->` before a block: it is written to that file of the story's folder.
//! - `<!-- apart: NAME -->` before a block ```` ```console ````: it is no part of the page's story, and run
//!   by the test of that name, which sets the stage for it.
//! - `<!-- not run: REASON -->` before a block: it is not run. ```` ```text ```` has no commands.
//! - `<!-- happens: WORDS -->`: what the test does to the host there.
//! - A block ```` ```toml ```` is a config, and must be one that the product takes.

use std::fmt::Write as _;

/// A page's block that is something to a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Commands to be run, one after the other.
    Story(Vec<Step>),
    /// A file to be written first.
    File {
        /// Its name in the story's folder.
        name: String,
        /// Its content.
        text: String,
    },
    /// A config, to be read by the product.
    Config {
        /// The line of the page.
        line: usize,
        /// Its content.
        text: String,
    },
    /// Commands that another test runs than the page's own.
    Apart {
        /// Its name.
        name: String,
        /// Them.
        steps: Vec<Step>,
    },
    /// What is not run, and why.
    NotRun(String),
    /// What happens to the host before the next command: the test does it.
    Happens(String),
}

/// One command of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line of the page.
    pub line: usize,
    /// Who types it, or where: what stands before the `$`.
    pub who: String,
    /// What is typed.
    pub command: String,
    /// The line after the command's last.
    pub after: usize,
    /// How many lines of output are there, an exit code's among them.
    pub lines: usize,
    /// What is shown of its output; nothing: all is fine.
    pub shown: Vec<String>,
    /// Its exit code.
    pub code: i32,
}

/// Reads a page's blocks.
///
/// # Errors
/// With the line, when a block says neither that it runs nor why it does not.
pub fn read(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = vec![];
    let mut note = None;
    let mut lines = text.lines().enumerate().map(|(n, l)| (n + 1, l));
    while let Some((at, line)) = lines.next() {
        if let Some(inner) = comment(line) {
            match inner.strip_prefix("happens:") {
                Some(what) => blocks.push(Block::Happens(what.trim().to_owned())),
                None => note = Some(inner.to_owned()),
            }
            continue;
        }
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            if line.starts_with("    ") {
                return Err(format!("line {at}: code is fenced, not indented: {line}"));
            }
            if !line.trim().is_empty() {
                note = None;
            }
            continue;
        };
        let margin = line.len() - line.trim_start().len();
        let mut inside = vec![];
        loop {
            let Some((n, line)) = lines.next() else {
                return Err(format!("line {at}: the block has no end"));
            };
            if line.trim() == "```" {
                break;
            }
            inside.push((n, line.get(margin..).unwrap_or_default().to_owned()));
        }
        let text = || inside.iter().fold(String::new(), |all, (_, l)| all + l + "\n");
        let said = note.take().unwrap_or_default();
        if let Some(why) = said.strip_prefix("not run:") {
            if why.trim().len() < 10 {
                return Err(format!("line {at}: the reason is too short to be one"));
            }
            blocks.push(Block::NotRun(why.trim().to_owned()));
        } else if let Some(name) = said.strip_prefix("file ") {
            blocks.push(Block::File { name: name.trim().to_owned(), text: text() });
        } else if let Some(name) = said.strip_prefix("apart:") {
            if kind.trim() != "console" {
                return Err(format!("line {at}: what is run apart is a block ```console"));
            }
            blocks.push(Block::Apart { name: name.trim().to_owned(), steps: steps(&inside)? });
        } else {
            match kind.trim() {
                "console" => blocks.push(Block::Story(steps(&inside)?)),
                "toml" => blocks.push(Block::Config { line: at, text: text() }),
                "text" if inside.iter().all(|(_, l)| prompt(l).is_none()) => {}
                other => {
                    return Err(format!(
                        "line {at}: a block \"{other}\" is neither run nor says why not: \
                         ```console, or <!-- not run: REASON --> before it"
                    ));
                }
            }
        }
    }
    Ok(blocks)
}

/// What an HTML comment of one line says.
fn comment(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim())
}

/// Who types, and what, where the line is a command.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (who, command) = line.split_once("$ ")?;
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    who.chars().all(name).then_some((who, command))
}

fn steps(lines: &[(usize, String)]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = vec![];
    let mut goes_on = false;
    let mut headed = false;
    for (n, line) in lines {
        let last = steps.last_mut();
        if let (true, Some(step)) = (goes_on, last) {
            let _ = write!(step.command, "\n{line}");
            step.after = n + 1;
            goes_on = line.ends_with('\\');
        } else if let Some((who, command)) = prompt(line) {
            goes_on = command.ends_with('\\');
            let (who, command) = (who.to_owned(), command.to_owned());
            let after = n + 1;
            steps.push(Step { line: *n, who, command, after, lines: 0, shown: vec![], code: 0 });
            headed = false;
        } else if line.starts_with("# ") {
            // What comes before it is the end of an output.
            headed = true;
        } else if headed && line.trim().is_empty() {
        } else if let Some(step) = steps.last_mut().filter(|_| !headed) {
            step.shown.push(line.clone());
        } else if !line.trim().is_empty() {
            return Err(format!("line {n}: output before any command: {line}"));
        }
    }
    for step in &mut steps {
        let trim = |shown: &mut Vec<String>| {
            while shown.last().is_some_and(|l| l.trim().is_empty()) {
                shown.pop();
            }
        };
        trim(&mut step.shown);
        step.lines = step.shown.len();
        let code =
            step.shown.last().and_then(|l| l.strip_prefix("(exit ")?.split([')', ':']).next());
        if let Some(code) = code {
            step.code =
                code.trim().parse().map_err(|_| format!("line {}: which exit code?", step.line))?;
            step.shown.pop();
            trim(&mut step.shown);
        }
    }
    if steps.is_empty() {
        return Err("a block ```console without a command".into());
    }
    Ok(steps)
}

/// A page with another output of one command: what came, and its exit code.
///
/// Only lines from the command on are changed: those of later steps move.
#[must_use]
pub fn with_output(page: &str, step: &Step, out: &str, code: i32) -> String {
    let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
    let mut new: Vec<String> = out.trim_end().lines().map(|l| l.trim_end().to_owned()).collect();
    if code != 0 {
        new.push(format!("(exit {code})"));
    }
    lines.splice(step.after - 1..step.after - 1 + step.lines, new);
    lines.join("\n") + "\n"
}

/// Whether an output is what a page shows; where not, how far it was.
///
/// # Errors
/// The first line that is shown and did not come.
pub fn compare(shown: &[String], got: &str) -> Result<(), String> {
    let mut got: Vec<String> = got.lines().map(alike).collect();
    while got.last().is_some_and(String::is_empty) {
        got.pop();
    }
    let shown: Vec<String> = shown.iter().map(|l| alike(l)).collect();
    let mut furthest = 0;
    if lines_match(&shown, &got, 0, &mut furthest) {
        return Ok(());
    }
    Err(match shown.get(furthest) {
        Some(line) => format!("shown, and did not come: {line}"),
        None => "more came than is shown".into(),
    })
}

fn lines_match(shown: &[String], got: &[String], at: usize, furthest: &mut usize) -> bool {
    *furthest = at.max(*furthest);
    match (shown.split_first(), got.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => (0..=got.len())
            .any(|n| lines_match(rest, got.get(n..).unwrap_or_default(), at + 1, furthest)),
        (Some((first, rest)), Some((line, others))) => {
            matches(first, line) && lines_match(rest, others, at + 1, furthest)
        }
        _ => false,
    }
}

/// Whether a line is what another shows, in which `...` stands for any text.
fn matches(shown: &str, line: &str) -> bool {
    let mut parts = shown.split("...");
    let Some(mut left) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((end, middle)) = parts.split_last() else { return left.is_empty() };
    for part in middle {
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    left.ends_with(end)
}

/// A line without what is another each time: how many spaces, ids, ages, times of day.
fn alike(line: &str) -> String {
    let line = without_ports(line);
    let mut text = line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    for age in ["Less than a second", "About a minute", "About an hour"] {
        text = text.replace(age, "AGE");
    }
    let words: Vec<&str> = text.split(' ').collect();
    let mut all: Vec<&str> = vec![];
    let mut skip = false;
    for (i, now) in words.iter().enumerate() {
        if std::mem::take(&mut skip) {
            continue;
        }
        let unit = words.get(i + 1).map(|w| w.trim_end_matches('s'));
        if now.parse::<u32>().is_ok() && matches!(unit, Some("second" | "minute" | "hour")) {
            skip = true;
            all.push("AGE");
        } else {
            all.push(now);
        }
    }
    all.join(" ")
}

/// The line with `PORT` for each number that `-p auto` may choose: 20000 to 29999.
fn without_ports(line: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut left = line;
    while let Some(c) = left.chars().next() {
        let digits = left.bytes().take_while(u8::is_ascii_digit).count();
        // Five digits may begin an id.
        let ends = left.as_bytes().get(digits).is_none_or(|after| !after.is_ascii_alphanumeric());
        if digits == 5 && ends && c == '2' && !before.is_ascii_alphanumeric() && before != '.' {
            out += "PORT";
            before = '0';
            left = left.get(5..).unwrap_or_default();
        } else {
            out.push(c);
            before = c;
            left = left.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

fn word(word: &str) -> &str {
    let bare = word.trim_end_matches([';', ',', '.', ':']);
    let hex = |w: &str, n: usize| w.len() == n && w.bytes().all(|b| b.is_ascii_hexdigit());
    let clock = bare.len() == 5
        && bare
            .bytes()
            .enumerate()
            .all(|(i, b)| if i == 2 { b == b':' } else { b.is_ascii_digit() });
    let bytes = word.as_bytes();
    let when = bytes.len() > 18 && bytes.get(4) == Some(&b'-') && bytes.get(10) == Some(&b'T');
    match () {
        () if when && bytes.iter().take(4).all(u8::is_ascii_digit) => "WHEN",
        () if hex(bare, 64) || hex(bare, 12) => "ID",
        () if bare.strip_prefix("sha256:").is_some_and(|w| hex(w, 64)) => "sha256:ID",
        () if clock => "TIME",
        () => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(text: &str) -> Vec<Step> {
        match read(text).unwrap().remove(0) {
            Block::Story(steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_story_is_read_as_it_is_typed() {
        let steps = story(
            "text\n\n```console\n# One\n\n$ a b \\\n    c\nout 1\n\nout 2\n\n# Two\n\nann$ d\n(exit 125: refused)\n```\n",
        );
        let [one, two] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!((one.who.as_str(), one.command.as_str()), ("", "a b \\\n    c"));
        assert_eq!((one.shown.join("|").as_str(), one.code, one.line), ("out 1||out 2", 0, 6));
        assert_eq!((two.who.as_str(), two.shown.len(), two.code), ("ann", 0, 125));
    }

    #[test]
    fn what_is_not_run_says_why() {
        let block = "```sh\nreboot\n```\n";
        assert!(read(block).unwrap_err().contains("neither run"));
        assert!(read(&format!("<!-- not run: x -->\n{block}")).is_err());
        let said = read(&format!("<!-- not run: it ends this machine -->\n\n{block}")).unwrap();
        assert_eq!(said, [Block::NotRun("it ends this machine".into())]);
        assert!(read(&format!("<!-- not run: it ends this machine -->\ntext\n{block}")).is_err());
        assert!(read("```text\n$ not a picture\n```\n").is_err());
        assert!(read("text\n\n    indented\n").is_err());
        assert!(read("```console\n$ a\n").is_err());
    }

    #[test]
    fn files_and_configs_are_told_apart() {
        let read =
            read("<!-- file compose.yaml -->\n```yaml\na:\n  b\n```\n\n```toml\nx = 1\n```\n")
                .unwrap();
        let file = Block::File { name: "compose.yaml".into(), text: "a:\n  b\n".into() };
        assert_eq!(read, [file, Block::Config { line: 7, text: "x = 1\n".into() }]);
    }

    #[test]
    fn what_is_run_apart_is_told_from_the_story() {
        let page = "<!-- apart: install -->\n```console\n$ a\n```\n```console\n$ b\n```\n";
        let blocks = read(page).unwrap();
        let [Block::Apart { name, steps }, Block::Story(_)] = blocks.as_slice() else {
            panic!("{blocks:?}")
        };
        assert_eq!((name.as_str(), steps[0].command.as_str()), ("install", "a"));
        assert!(read("<!-- apart: x -->\n```sh\na\n```\n").is_err());
    }

    #[test]
    fn what_happens_has_its_place_in_the_story() {
        let page = "```console\n$ a\n```\n<!-- happens: etcd stops -->\n```console\n$ b\n```\n";
        let blocks = read(page).unwrap();
        assert_eq!(blocks.get(1), Some(&Block::Happens("etcd stops".into())));
        assert_eq!(blocks.len(), 3);
    }

    #[test]
    fn an_output_is_renewed_in_its_place() {
        let page = "x\n```console\n$ a \\\n b\nold\n\nold\n\n# H\n\n$ c\n```\ny\n";
        let steps = story(page);
        let new = with_output(page, &steps[0], "new\n", 3);
        assert_eq!(new, "x\n```console\n$ a \\\n b\nnew\n(exit 3)\n\n# H\n\n$ c\n```\ny\n");
        assert_eq!(with_output(page, &steps[1], "z\n", 0), page.replace("$ c\n", "$ c\nz\n"));
    }

    fn same(shown: &str, got: &str) -> bool {
        let shown: Vec<String> = shown.lines().map(str::to_owned).collect();
        compare(&shown, got).is_ok()
    }

    #[test]
    fn what_is_another_each_time_is_alike_and_nothing_else() {
        assert!(same("a   2 seconds ago  x", "a 1 second ago x\n"));
        assert!(same("up Less than a second", "up 4 minutes"));
        assert!(same("id 39b804690ef2", "id 0123456789ab"));
        assert!(same("id 39b804690ef2", "id 28666f433e10"));
        assert!(same("since 02:25; GPU", "since 23:11; GPU"));
        assert!(same("2026-11-25T10:58:15.082+00:00 a", "2027-01-02T03:04:05.678+00:00 a"));
        assert!(same("0.0.0.0:20956->22/tcp", "0.0.0.0:28499->22/tcp"));
        assert!(!same("port 22/tcp is 20956", "port 23/tcp is 20956"));
        assert!(!same("120956", "128499"));
        assert!(!same("a 2 GPUs", "a 3 GPUs"));
        assert!(!same("GPU 0", "GPU 1"));
        assert!(!same("a", "a\nb"));
        assert!(!same("a\nb", "a"));
    }

    #[test]
    fn dots_stand_for_what_is_left_out() {
        assert!(same("a ... z", "a b c z"));
        assert!(!same("a ... z", "a b c"));
        assert!(same("...", ""));
        assert!(same("a\n...\nz", "a\nb\nc\nz"));
        assert!(!same("a\n...\nz", "a\nb"));
        assert!(same("...x...", "axb"));
        assert!(!same("...x...", "ab"));
    }
}
