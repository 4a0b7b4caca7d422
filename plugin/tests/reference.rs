//! docs/reference, made from the program: what each command says of itself, and every setting. A page
//! that is not what the program says fails here; `tests/reference` makes them anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests too"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the pages of commands are, below the repository.
const COMMANDS: &str = "docs/reference/commands";
/// The page of settings.
const CONFIG: &str = "docs/reference/config.md";
/// The first line of each.
const MADE: &str = "<!-- Made by tests/reference from the program. Changes here are lost. -->\n\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What the program prints, in a terminal of no width and without colour.
fn said(words: &[&str]) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_docker-gpuctl"));
    // Without the Docker CLI, whose own help is another with each version.
    program.args(words).env("PATH", "/nonexistent");
    program.env("NO_COLOR", "1").env("LANG", "C.UTF-8").env_remove("COLUMNS");
    for other in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CLI_PLUGIN_SOCKET", "GPUCTL_CONFIG"] {
        program.env_remove(other);
    }
    let got = program.output().expect("the program starts");
    let text = String::from_utf8(got.stdout).expect("UTF-8");
    let lines = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    (got.status.success() && !lines.trim().is_empty()).then(|| lines.trim_end().to_owned())
}

/// The commands, with what they are for: what completion offers.
fn commands() -> Vec<(String, String)> {
    let text = said(&["__complete", "gpuctl", ""]).expect("completion");
    let pairs = text.lines().filter_map(|l| l.split_once('\t'));
    let pairs = pairs.filter(|(name, _)| *name != "help");
    pairs.map(|(name, about)| (name.to_owned(), about.to_owned())).collect()
}

/// The commands below one, by its own help: `  name   what it does`, where that is one.
fn below(command: &str, help: &str) -> Vec<String> {
    let names = help.lines().filter_map(|l| {
        let (name, about) = l.strip_prefix("  ")?.split_once("  ")?;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        (plain && !name.starts_with('-') && !about.trim().is_empty() && name != "help")
            .then_some(name)
    });
    let is_one =
        |name: &&str| said(&["gpuctl", command, name, "--help"]).is_some_and(|h| h != help);
    names.filter(is_one).map(str::to_owned).collect()
}

/// Every page of commands: the name of its file, and its text.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let mut index = format!(
        "{MADE}# Commands\n\n`docker gpuctl COMMAND --help` says the same.\n\n| command | |\n|---|---|\n"
    );
    for (name, about) in commands() {
        let _ = writeln!(index, "| [{name}]({name}.md) | {} |", about.replace('|', "\\|"));
        let help = said(&["gpuctl", &name, "--help"]).unwrap_or_else(|| {
            assert!(["exec", "logs"].contains(&name.as_str()), "no help of {name}");
            format!("{about}\n\nTakes every option of docker {name} (docker {name} --help), and NAME for the container.")
        });
        let mut page = format!("{MADE}# docker gpuctl {name}\n\n```text\n{help}\n```\n");
        for sub in below(&name, &help) {
            let help = said(&["gpuctl", &name, &sub, "--help"]).unwrap_or_default();
            let _ = write!(page, "\n## docker gpuctl {name} {sub}\n\n```text\n{help}\n```\n");
        }
        pages.insert(format!("{name}.md"), page);
    }
    pages.insert("README.md".into(), index);
    pages
}

/// The settings, from the example that another test holds against the code.
fn config() -> String {
    let page = std::fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let (_, rest) = page.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let mut out = format!(
        "{MADE}# Settings\n\n/etc/gpuctl/config.toml. [Configuration](../configuration.md) shows them as a file, and says \
         more.\n"
    );
    let mut table = String::new();
    let mut said = String::new();
    for line in example.lines() {
        let bare = line.trim_start_matches("# ").trim();
        if bare.is_empty() {
            said.clear();
            continue;
        }
        if let Some(name) = bare.strip_prefix('[') {
            table = name.split(']').next().unwrap_or_default().trim_start_matches('[').to_owned();
            let _ = write!(out, "\n## {}\n\n{}", table, if said.is_empty() { "" } else { "@" });
            out = out.replace('@', &format!("{}\n\n", said.trim()));
            out += "| key | default | |\n|---|---|---|\n";
            said.clear();
            continue;
        }
        let key = bare
            .split_once(" = ")
            .filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        let Some((key, rest)) = key else {
            // Words: of the table or key to come, or the last key's, gone on.
            let words = line.trim().trim_start_matches("# ");
            if line.starts_with(' ') {
                out.truncate(out.trim_end().trim_end_matches('|').trim_end().len());
                let _ = writeln!(out, " {} |", words.replace('|', "\\|"));
            } else {
                said = format!("{said} {words}").trim().to_owned();
            }
            continue;
        };
        if table.is_empty() && !out.contains("| key |") {
            out += "\n| key | default | |\n|---|---|---|\n";
        }
        let (value, about) = comment(rest);
        // What is commented out has no default; what is written is an example.
        let value = match line.starts_with('#') {
            true => format!("none; as `{value}`"),
            false => format!("`{value}`"),
        };
        let about = format!("{said} {about}");
        let _ = writeln!(
            out,
            "| `{key}` | {} | {} |",
            value.replace('|', "\\|"),
            about.trim().replace('|', "\\|")
        );
        said.clear();
    }
    out
}

/// A value, and what is said of it behind a `#` that is in no string.
fn comment(text: &str) -> (&str, &str) {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => inside = !inside,
            '#' if !inside => {
                let (value, about) = text.split_at(at);
                return (value.trim(), about.trim_start_matches('#').trim());
            }
            _ => {}
        }
    }
    (text.trim(), "")
}

/// Makes a page what it is to be, where that is wanted; else says that it is not.
fn hold(page: &str, text: &str) -> Option<String> {
    let path = repository().join(page);
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    if now == text {
        return None;
    }
    if std::env::var_os("GPUCTL_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return None;
    }
    let differs = now.lines().zip(text.lines()).find(|(a, b)| a != b);
    let (a, b) = differs.unwrap_or(("(its end)", "(more, or less)"));
    Some(format!("{page} says\n  {a}\nand the program says\n  {b}"))
}

#[test]
fn pages_are_what_the_program_says() {
    let pages = pages();
    assert!(pages.len() > 20, "{:?}", pages.keys());
    let mut stale: Vec<String> =
        pages.iter().filter_map(|(name, text)| hold(&format!("{COMMANDS}/{name}"), text)).collect();
    stale.extend(hold(CONFIG, &config()));
    // What is there and no command any more.
    for entry in std::fs::read_dir(repository().join(COMMANDS)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if pages.contains_key(&name) {
            continue;
        }
        if std::env::var_os("GPUCTL_WRITE_DOCS").is_some() {
            std::fs::remove_file(entry.path()).unwrap();
        } else {
            stale.push(format!("{COMMANDS}/{name} is of no command"));
        }
    }
    assert!(stale.is_empty(), "{}\n\nmake them anew: ./tests/reference", stale.join("\n"));
}

#[test]
fn commands_below_are_found_and_flags_are_none() {
    let help = said(&["gpuctl", "volume", "--help"]).unwrap();
    let found = below("volume", &help);
    assert!(found.iter().any(|n| n == "resize") && found.len() > 5, "{found:?}");
    let help = said(&["gpuctl", "ps", "--help"]).unwrap();
    assert!(below("ps", &help).is_empty());
}

#[test]
fn a_comment_is_no_part_of_a_value() {
    assert_eq!(comment("\"a#b\"   # c"), ("\"a#b\"", "c"));
    assert_eq!(comment("[1, 2]"), ("[1, 2]", ""));
}
