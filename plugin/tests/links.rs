//! Links between the pages of the documentation: each leads to a file that is there, and to a heading of it.
#![allow(clippy::unwrap_used, reason = "the helpers of tests too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every page, wherever it lies.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "target" {
                pages(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// A page's lines outside of fenced blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = vec![];
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push(line);
        }
    }
    lines
}

/// A line without what stands in backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Where the links of a page lead.
fn links(text: &str) -> Vec<String> {
    let mut found = vec![];
    // A link may go over the end of a line.
    let all = prose(text).iter().map(|l| without_code(l)).collect::<Vec<_>>().join("\n");
    let mut left = all.as_str();
    while let Some(at) = left.find("](") {
        left = left.get(at + 2..).unwrap_or_default();
        let to = left.split([')', ' ']).next().unwrap_or_default();
        found.push(to.to_owned());
    }
    found
}

/// The names by which a page's headings are linked to, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in prose(text) {
        let own = line.split("<a id=\"").skip(1).filter_map(|part| part.split('"').next());
        names.extend(own.map(str::to_owned));
        let Some(title) = line.strip_prefix('#') else { continue };
        let title = title.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
        let name: String =
            title.replace("&lt;", "").replace("&gt;", "").chars().filter(|c| kept(*c)).collect();
        let name = name.replace(' ', "-");
        let mut one = name.clone();
        let mut n = 0;
        while names.contains(&one) {
            n += 1;
            one = format!("{name}-{n}");
        }
        names.insert(one);
    }
    names
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = vec![];
    pages(root, &mut all);
    assert!(all.len() > 30, "{all:?}");
    let mut wrong = vec![];
    let mut seen = 0;
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let to = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let shown = page.strip_prefix(root).unwrap().display();
            if !to.exists() {
                wrong.push(format!("{shown}: {link}: no such file"));
            } else if !heading.is_empty() && to.extension().is_some_and(|e| e == "md") {
                let target = std::fs::read_to_string(&to).unwrap();
                if !headings(&target).contains(heading) {
                    wrong.push(format!("{shown}: {link}: no such heading"));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_and_headings_are_read_as_they_are_shown() {
    let page = "# A `b`: c, d\n[x](one.md) `[no](code)`\n```\n[no](block)\n```\n[y\nz](two.md#a)\n## Same\n## Same\n";
    assert_eq!(links(page), ["one.md", "two.md#a"]);
    let names: Vec<String> = headings(page).into_iter().collect();
    assert_eq!(names, ["a-b-c-d", "same", "same-1"]);
}
