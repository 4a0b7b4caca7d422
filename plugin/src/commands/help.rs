//! Help as Docker writes its own: what a command is for, its aliases, its flags, examples.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};
use unicode_width::UnicodeWidthStr as _;

use super::filters;
use crate::ui;

/// Wider than this nothing is easier to read.
const WIDEST: usize = 110;
/// As wide as a terminal that does not say how wide it is.
const USUAL: usize = 80;
/// What a flag is for is not broken to less than this, but put below it, with so many spaces before it.
const LEAST: usize = 30;
const BELOW: usize = 10;

/// Commands by what they are for; the rest stand under "Commands".
const GROUPS: [(&str, &[&str]); 4] = [
    ("Common Commands", &["run", "ps", "gpus", "scale", "stop", "start", "rm", "exec", "logs"]),
    ("Versions", &["update", "history", "diff", "rollback", "snapshot", "clone", "prune"]),
    ("Management Commands", &["volume"]),
    ("Host", &["top", "setup", "doctor", "events", "ports", "version", "serve"]),
];

/// Examples by the words of the command: what is typed, and what that does.
const EXAMPLES: [(&str, &[&str]); 41] = [
    ("top", &["docker gpuctl top"]),
    ("serve", &["docker gpuctl serve", "docker gpuctl serve --socket /run/gpuctl/test.sock"]),
    (
        "",
        &[
            "docker gpuctl run -d --name train --gpus 2 my/image python train.py",
            "docker gpuctl scale train --gpus 4",
            "docker gpuctl ps",
        ],
    ),
    ("start", &["docker gpuctl start train", "docker gpuctl start -ai notebook"]),
    ("exec", &["docker gpuctl exec -it train bash"]),
    ("logs", &["docker gpuctl logs -f --tail 100 train"]),
    ("pause", &["docker gpuctl pause train"]),
    ("unpause", &["docker gpuctl unpause train"]),
    ("version", &["docker gpuctl version", "docker gpuctl version --format json"]),
    ("stop", &["docker gpuctl stop train", "docker gpuctl stop -t 60 train notebook"]),
    ("restart", &["docker gpuctl restart train", "docker gpuctl restart -s INT -t 60 train"]),
    ("rm", &["docker gpuctl rm train", "docker gpuctl rm -f --history train"]),
    (
        "ps",
        &[
            "docker gpuctl ps -a --filter owner=ann",
            "docker gpuctl ps --format 'table {{.Name}}\\t{{.GPUs}}\\t{{.Status}}'",
            "docker gpuctl stop $(docker gpuctl ps -q --filter owner=ann)",
        ],
    ),
    (
        "gpus",
        &[
            "docker gpuctl gpus --filter free=true",
            "docker gpuctl gpus --format '{{.GPU}} {{.Holder}}'",
            "docker gpuctl gpus --links",
        ],
    ),
    (
        "scale",
        &[
            "docker gpuctl scale train --gpus 4",
            "docker gpuctl scale train --gpus device=0,3",
            "docker gpuctl scale train --gpus 0 --dry-run",
        ],
    ),
    (
        "update",
        &[
            "docker gpuctl update train --memory 64g --cpus 16",
            "docker gpuctl update train --env BATCH=32 --image my/image:2",
            "docker gpuctl update train --mount-add data:/data --publish auto:6006",
        ],
    ),
    ("rollback", &["docker gpuctl rollback train", "docker gpuctl rollback train 3 --files"]),
    ("history", &["docker gpuctl history train", "docker gpuctl history train --format json"]),
    ("diff", &["docker gpuctl diff train", "docker gpuctl diff train 2 5"]),
    (
        "inspect",
        &[
            "docker gpuctl inspect train",
            "docker gpuctl inspect -f '{{json .Docker.Config.Env}}' train",
        ],
    ),
    ("clone", &["docker gpuctl clone train twin --gpus 1"]),
    ("snapshot", &["docker gpuctl snapshot train"]),
    ("prune", &["docker gpuctl prune --dry-run", "docker gpuctl prune --keep 2 --older-than 30d"]),
    ("commit", &["docker gpuctl commit train my/image:trained"]),
    ("rename", &["docker gpuctl rename train trained"]),
    ("adopt", &["docker gpuctl adopt old-container --name train"]),
    ("ports", &["docker gpuctl ports", "docker gpuctl ports -f name=train --format '{{.Port}}'"]),
    (
        "events",
        &[
            "docker gpuctl events --since 1h",
            "docker gpuctl events -f decision=refused --format '{{.Name}}: {{.Reason}}'",
        ],
    ),
    ("doctor", &["docker gpuctl doctor", "sudo docker gpuctl doctor --fix"]),
    (
        "setup",
        &[
            "sudo docker gpuctl setup --dry-run",
            "sudo docker gpuctl setup",
            "sudo docker gpuctl setup --strict",
        ],
    ),
    (
        "volume",
        &[
            "docker gpuctl volume create data --size 100GB",
            "docker gpuctl volume resize data 200GB",
        ],
    ),
    ("volume inspect", &["docker gpuctl volume inspect data"]),
    ("volume history", &["docker gpuctl volume history data"]),
    ("volume rollback", &["docker gpuctl volume rollback data 1"]),
    ("volume rm", &["docker gpuctl volume rm data", "docker gpuctl volume rm --history data"]),
    ("volume prune", &["docker gpuctl volume prune --dry-run"]),
    ("volume backends", &["docker gpuctl volume backends"]),
    ("volume adopt", &["docker gpuctl volume adopt old-volume --name data"]),
    ("volume create", &["docker gpuctl volume create data --size 100GB"]),
    (
        "volume resize",
        &[
            "docker gpuctl volume resize data 200GB",
            "docker gpuctl volume resize data 200GB --roll",
        ],
    ),
    (
        "volume ls",
        &[
            "docker gpuctl volume ls --filter dangling=true",
            "docker gpuctl volume ls --format '{{.Name}} {{.Used}}'",
        ],
    ),
];

/// The command with help as Docker's.
pub(super) fn dressed(root: Command) -> Command {
    dress(root, "")
}

fn dress(command: Command, path: &str) -> Command {
    let bin =
        if path.is_empty() { "docker gpuctl".to_owned() } else { format!("docker gpuctl {path}") };
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let more = [rest_of_about(&command), aliases(&command, &bin)];
    let more: Vec<String> = more.into_iter().filter(|text| !text.is_empty()).collect();
    let has_commands = !names.is_empty();
    let mut command = command
        .disable_help_subcommand(!path.is_empty())
        .help_template("Usage:  {usage}\n\n{about}\n\n{before-help}{all-args}{after-help}")
        .max_term_width(WIDEST)
        .after_help(after(path, has_commands))
        // --help is as long as -h: Docker's is.
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::HelpShort)
                .help("Print help"),
        );
    if !more.is_empty() {
        command = command.before_help(more.join("\n\n"));
    }
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command = command.mut_subcommand(name, |sub| dress(sub, &inner));
    }
    command
}

/// What is said of a command beyond its first line.
fn rest_of_about(command: &Command) -> String {
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let first = command.get_about().map(ToString::to_string).unwrap_or_default();
    long.strip_prefix(&first).unwrap_or_default().trim().to_owned()
}

/// Docker's section of that name; nothing where there are none.
fn aliases(command: &Command, bin: &str) -> String {
    let mut others = command.get_all_aliases().peekable();
    if others.peek().is_none() {
        return String::new();
    }
    let before = bin.rsplit_once(' ').map_or(bin, |(before, _)| before);
    let all: Vec<String> = others.map(|alias| format!("{before} {alias}")).collect();
    format!("Aliases:\n  {bin}, {}", all.join(", "))
}

/// Filters, examples, and where to read on.
pub(super) fn after(path: &str, has_commands: bool) -> String {
    let mut text = String::new();
    let words: Vec<&str> = path.split(' ').collect();
    let known = filters::of_command(&words);
    if !known.is_empty() {
        let widest = known.iter().map(|known| known.key.len()).max().unwrap_or(0);
        text.push_str("Filters:\n");
        for filters::Known { key, about, .. } in known {
            let _ = writeln!(text, "  {key:<widest$}   {about}");
        }
    }
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == path) {
        text.push_str(if text.is_empty() { "Examples:\n" } else { "\nExamples:\n" });
        for example in *examples {
            let _ = writeln!(text, "  {example}");
        }
    }
    if has_commands {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(
            text,
            "{gap}Run 'docker gpuctl {path} COMMAND --help' for more information on a command."
        );
    }
    text
}

/// Help that clap made, with names of values as Docker writes them: `--filter filter`, `NAME`.
pub(super) fn as_dockers(text: &str) -> String {
    let line = |line: &str| {
        let is_usage = line.starts_with("Usage:");
        let is_flag = line.trim_start().starts_with('-');
        if !(is_usage || is_flag || line.starts_with("  <") || line.starts_with("  [")) {
            return line.to_owned();
        }
        let mut shown = String::new();
        let mut rest = line;
        while let Some((before, name, after)) = value(rest) {
            shown.push_str(before);
            match is_flag {
                true => shown.push_str(&name.to_lowercase()),
                false => shown.push_str(name),
            }
            // What comes after stays where it is, but in the line of usage.
            rest = after;
            if !is_usage {
                let dots = rest.strip_prefix("...").map_or("", |_| "...");
                shown.push_str(dots);
                shown.push_str("  ");
                rest = rest.get(dots.len()..).unwrap_or_default();
            }
        }
        shown.push_str(rest);
        shown.trim_end().to_owned()
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.push(String::new());
    lines.join("\n")
}

/// One line of clap's about wrong usage, with names as in [`as_dockers`].
pub(super) fn plain(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line.trim();
    while let Some((before, name, after)) = value(rest) {
        shown.push_str(before);
        shown.push_str(name);
        rest = after;
    }
    shown + rest
}

/// The first `<NAME>` of a line: what is before it, its name, what is after.
fn value(line: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = line.split_once('<')?;
    let (name, after) = rest.split_once('>')?;
    let plain = |c: char| c.is_ascii_uppercase() || "_=:@".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some((before, name, after))
}

/// A written help on a screen: lines that do not fit are broken between words, those of a flag below its text.
pub(super) fn fitted(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| text.lines().any(|line| line.width() > *width)) else {
        return text.to_owned();
    };
    let mut lines = Vec::new();
    let mut flag: Option<(&str, usize, String)> = None;
    let flush = |flag: Option<(&str, usize, String)>, lines: &mut Vec<String>| {
        let Some((head, at, about)) = flag else { return };
        let room = width.saturating_sub(at);
        let (mut head, at, room) = if room < LEAST {
            lines.push(head.to_owned());
            (String::new(), BELOW, width.saturating_sub(BELOW))
        } else {
            (head.to_owned(), at, room)
        };
        for line in ui::wrapped(&about, room) {
            lines.push(format!("{head:<at$}{line}"));
            head.clear();
        }
    };
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let split = line.trim_start().starts_with('-').then(|| line.trim_start().split_once("   "));
        match (split.flatten(), &mut flag) {
            (Some((head, about)), _) => {
                flush(flag.take(), &mut lines);
                let about = about.trim_start();
                let head = line.get(..indent + head.len()).unwrap_or_default();
                flag = Some((head, line.len() - about.len(), about.to_owned()));
            }
            (None, Some((_, at, about))) if indent == *at => {
                about.push(' ');
                about.push_str(line.trim_start());
            }
            _ => {
                flush(flag.take(), &mut lines);
                match indent {
                    0 => lines.extend(ui::wrapped(line, width)),
                    // An example is copied as it is.
                    _ => lines.push(line.to_owned()),
                }
            }
        }
    }
    flush(flag, &mut lines);
    lines.push(String::new());
    lines.join("\n")
}

/// What `docker gpuctl` says by itself.
pub(super) fn root(command: &Command) -> String {
    let width = ui::Screen::stdout().width.unwrap_or(USUAL).min(WIDEST);
    root_text(command, width)
}

fn root_text(command: &Command, width: usize) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("Usage:  docker gpuctl COMMAND\n\n{about}\n");
    let shown: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    let widest = shown.iter().map(|c| c.get_name().len()).max().unwrap_or(0);
    let mut group = |title: &str, commands: &[&Command]| {
        if commands.is_empty() {
            return;
        }
        let _ = writeln!(text, "\n{title}:");
        for command in commands {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let mut name = command.get_name();
            for line in ui::wrapped(&about, width.saturating_sub(widest + 5)) {
                let _ = writeln!(text, "  {name:<widest$}   {line}");
                name = "";
            }
        }
    };
    for (title, names) in GROUPS {
        let of = |name: &&str| shown.iter().find(|c| c.get_name() == *name).copied();
        group(title, &names.iter().filter_map(of).collect::<Vec<_>>());
    }
    let grouped = |c: &&Command| GROUPS.iter().any(|(_, names)| names.contains(&c.get_name()));
    let rest: Vec<&Command> = shown.iter().filter(|c| !grouped(c)).copied().collect();
    group("Commands", &rest);
    text.push_str("\nOptions:\n  -h, --help      Print help\n  -V, --version   Print version\n");
    let _ = write!(text, "\n{}", after("", false));
    text.push_str("\nRun 'docker gpuctl COMMAND --help' for more information on a command.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Words;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_stands_once_and_fits_the_screen() {
        let root = Words::command();
        for width in [80, 100, 110] {
            let text = root_text(&root, width);
            for command in root.get_subcommands().filter(|c| !c.is_hide_set()) {
                let line = format!("  {} ", command.get_name());
                let times = text.lines().filter(|l| l.starts_with(&line)).count();
                assert_eq!(times, 1, "{line}\n{text}");
            }
            let fits = |line: &&str| line.width() <= width || line.starts_with("  docker");
            assert!(text.lines().all(|line| fits(&line)), "{width}: {text}");
        }
        for (_, names) in GROUPS {
            for name in names {
                assert!(root.find_subcommand(name).is_some(), "{name} is no command");
            }
        }
    }

    #[test]
    fn written_helps_fit_the_screen_and_lose_no_word() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for text in [crate::commands::run::HELP, crate::commands::create::HELP] {
            assert_eq!(fitted(text, None), text);
            assert_eq!(fitted(text, Some(120)), text);
            for width in [60, 80, 100] {
                let shown = fitted(text, Some(width));
                let is_copied = |line: &str| line.trim_start().starts_with("docker gpuctl");
                let long = shown.lines().find(|line| line.width() > width && !is_copied(line));
                assert_eq!(long, None, "{width}: {shown}");
                assert_eq!(words(&shown), words(text), "{shown}");
            }
        }
    }

    #[test]
    fn examples_are_of_commands_that_are_and_are_read_by_them() {
        for (path, examples) in EXAMPLES {
            for example in examples {
                // What a shell makes of it.
                let plain = example.replace("$(docker gpuctl ps -q --filter owner=ann)", "x");
                let mut words: Vec<String> = Vec::new();
                for (n, part) in plain.split('\'').enumerate() {
                    match n % 2 {
                        0 => words.extend(part.split_whitespace().map(str::to_owned)),
                        _ => words.push(part.to_owned()),
                    }
                }
                let start = words.iter().position(|word| word == "docker").expect(example);
                let words: Vec<String> = words.split_off(start + 2);
                assert!(
                    path.is_empty() || words.join(" ").starts_with(path) || example.contains("$("),
                    "{example}"
                );
                let all = std::iter::once("docker gpuctl".to_owned()).chain(words);
                let read = dressed(Words::command()).try_get_matches_from(all);
                assert!(read.is_ok(), "{example}: {:?}", read.err().map(|e| e.to_string()));
            }
        }
    }

    #[test]
    fn help_reads_as_dockers() {
        let mut root = dressed(Words::command());
        root.build();
        let help = |name: &str| {
            let command = root.find_subcommand(name).expect(name);
            as_dockers(&command.clone().render_help().to_string())
        };
        let ps = help("ps");
        let head = "Usage:  docker gpuctl ps [OPTIONS]\n\nList containers with their GPUs\n\nOptions:\n  -a, --all ";
        assert!(ps.starts_with(head), "{ps}");
        assert!(ps.contains("\n  -f, --filter filter    Filter output"), "{ps}");
        assert!(ps.contains("\nFilters:\n  name") && ps.contains("\nExamples:\n  docker"), "{ps}");
        let update = help("update");
        assert!(update.starts_with("Usage:  docker gpuctl update [OPTIONS] NAME\n"), "{update}");
        let aliases =
            "\n\nAliases:\n  docker gpuctl update, docker gpuctl patch\n\nArguments:\n  NAME ";
        assert!(update.contains(aliases) && update.contains("The cheapest way"), "{update}");
        assert!(help("stop").contains("stop [OPTIONS] NAMES...\n"), "{}", help("stop"));
        assert!(help("unpause").contains("docker gpuctl unpause, docker gpuctl continue"));
    }
}
