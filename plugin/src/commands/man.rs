//! Manual pages, from the very words that the program reads. `packaging/build` calls this; it is no
//! command for people, and shown nowhere.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use gpuctl_ledger::config::plain_io_error;

use super::Words;
use crate::engine::api::Failure;

/// The word that it is called by: `docker-gpuctl __man FOLDER`.
pub(super) const WORD: &str = "__man";

/// Writes all pages into a folder.
///
/// # Errors
/// Where the folder cannot be written.
pub(super) fn pages(words: &[String]) -> Result<u8, Failure> {
    let [folder] = words else {
        return Err(Failure::new(format!("{WORD} takes a folder"))
            .hint(format!("docker-gpuctl {WORD} FOLDER")));
    };
    for (name, text) in all() {
        let path = Path::new(folder).join(name);
        std::fs::write(&path, text).map_err(|e| {
            let why = plain_io_error(&e);
            Failure::new(format!("{} cannot be written: {why}", path.display()))
        })?;
    }
    Ok(0)
}

/// Every page: the name of its file, and its text.
fn all() -> Vec<(String, Vec<u8>)> {
    let mut whole = Words::command();
    whole.build();
    let shown = whole.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    let mut pages: Vec<(String, Vec<u8>)> = shown.map(|c| page(c, c.get_name())).collect();
    pages.push(page(&whole, ""));
    pages
}

/// One page, under the name that Docker's own have: docker-gpuctl-run(1).
fn page(command: &Command, word: &str) -> (String, Vec<u8>) {
    let dash = if word.is_empty() { "" } else { "-" };
    let space = if word.is_empty() { "" } else { " " };
    let name = format!("docker-gpuctl{dash}{word}");
    let command = command
        .clone()
        .display_name(name.clone())
        .bin_name(format!("docker gpuctl{space}{word}"))
        // Its "docker gpuctl help" is in none of the pages.
        .disable_help_subcommand(true);
    let mut text = Vec::new();
    let page = Man::new(command)
        .title(name.to_uppercase())
        .section("1")
        // None: but without one the next word would be taken for it.
        .date(" ")
        .source(concat!("docker-gpuctl ", env!("CARGO_PKG_VERSION")))
        .manual("Docker User Manuals");
    // Only writing can fail, and a vector takes all.
    let _ = page.render(&mut text);
    (format!("{name}.1"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_says_what_it_is() {
        let pages = all();
        for (word, about) in super::super::names() {
            let file = format!("docker-gpuctl-{word}.1");
            let (_, text) = pages.iter().find(|(name, _)| *name == file).expect(&file);
            let text = String::from_utf8(text.clone()).unwrap();
            assert!(text.contains(&format!(".TH DOCKER-GPUCTL-{}", word.to_uppercase())), "{text}");
            // roff's own spelling of an apostrophe.
            let plain = text.replace("\\*(Aq", "'").replace("\\-", "-");
            assert!(plain.contains(&format!("docker-gpuctl-{word} - {about}")), "{plain}");
            assert!(plain.contains(&format!("docker gpuctl {word}")), "{plain}");
        }
        assert!(pages.iter().any(|(name, _)| name == "docker-gpuctl.1"));
    }

    #[test]
    fn pages_are_written_where_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_string_lossy().into_owned();
        assert_eq!(pages(std::slice::from_ref(&folder)).unwrap(), 0);
        assert!(dir.path().join("docker-gpuctl-scale.1").is_file());
        assert!(pages(&[]).is_err());
        assert!(pages(&[format!("{folder}/none")]).is_err());
    }
}
