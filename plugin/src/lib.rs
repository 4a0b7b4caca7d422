//! docker-gpuctl: the Docker CLI plugin that runs and changes GPU containers, and the same program
//! as a service. A library only so that its parts can be tested from outside; the program is
//! `main.rs`.

pub mod change;
pub mod client;
pub mod commands;
pub mod docker;
pub mod engine;
mod faults;
pub mod gpu;
pub mod layer;
pub mod service;
pub mod setup;
pub mod top;
pub mod tree;
pub mod ui;
mod volume;
mod within;

use client::argv::{self, Call};

/// What the Docker CLI asks every plugin on every `docker --help`.
const METADATA: &str = concat!(
    "{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"docker-gpuctl\",\"Version\":\"v",
    env!("CARGO_PKG_VERSION"),
    "\",\"ShortDescription\":\"GPU containers: run, scale, stop, start\",\"URL\":\"",
    env!("CARGO_PKG_REPOSITORY"),
    "\"}"
);

/// The program: from the words after its name to the exit code.
pub fn main(words: impl Iterator<Item = std::ffi::OsString>) -> u8 {
    let mut text = Vec::new();
    for word in words {
        match word.into_string() {
            Ok(word) => text.push(word),
            Err(word) => {
                let text = format!("{} is not UTF-8", word.to_string_lossy());
                let hint = "names and values are read as UTF-8: docker gpuctl --help";
                ui::failure(&engine::api::Failure::new(text).hint(hint));
                return 1;
            }
        }
    }
    let code = match argv::read(&text) {
        Call::Metadata => {
            ui::print(METADATA);
            0
        }
        Call::Complete { words, described } => {
            commands::complete::complete(&words, described);
            0
        }
        Call::Hint(data) => {
            commands::hint(&data);
            0
        }
        Call::Command(globals, words) => {
            match commands::draws(&words) {
                true => client::signals::watch_screen(),
                false => client::signals::watch(),
            }
            commands::main(globals, &words)
        }
    };
    ui::settled(code)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_metadata_is_what_docker_accepts() {
        let read: serde_json::Value = serde_json::from_str(super::METADATA).unwrap();
        assert_eq!(read["SchemaVersion"], "0.1.0");
        for field in ["Vendor", "Version", "ShortDescription", "URL"] {
            assert!(read[field].as_str().is_some_and(|t| !t.is_empty()), "{field}");
        }
    }
}
