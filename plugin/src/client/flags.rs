//! Taking a Docker command line apart: which words are flags, which are values, where the image is.
//!
//! Which flags there are and which take a value is read from the installed Docker CLI's own help, so
//! that a flag that Docker gets tomorrow works too. The words are then read as Docker reads them
//! (pflag's rules, without interspersed flags: the first word that is no flag ends them).

use std::collections::{BTreeMap, BTreeSet};

/// Flags that Docker has and its help hides.
const HIDDEN: &[&str] = &["net", "net-alias", "dns-opt"];

/// The flags of one Docker command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlagTable {
    /// Long names of flags that take a value.
    valued: BTreeSet<String>,
    /// Long names of flags that take none.
    switches: BTreeSet<String>,
    /// Long name by letter.
    letters: BTreeMap<char, String>,
}

/// One flag of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its long name.
    pub name: String,
    /// Its value; of a switch only one written with `=`.
    pub value: Option<String>,
    /// The words to pass on, as the user wrote them; a letter out of a cluster stands by itself.
    pub words: Vec<String>,
}

/// A command line taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// The flags, in order.
    pub flags: Vec<Flag>,
    /// Whether `--` stood before the operands.
    pub dashes: bool,
    /// The first word that is no flag, the image or the container, and all words after it.
    pub operands: Vec<String>,
}

/// Why a command line cannot be taken apart, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Docker knows no such flag.
    #[error("unknown flag: {0}")]
    Unknown(String),
    /// Docker knows no such letter.
    #[error("unknown shorthand flag: '{0}' in {1}")]
    UnknownLetter(char, String),
    /// The value is missing.
    #[error("flag needs an argument: {0}")]
    NoValue(String),
    /// `--=x` and the like.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
}

impl FlagTable {
    /// Reads the text of `docker ... --help`. A flag line begins with `  -x, --name` or
    /// `      --name`; the word after the name, if one follows after a single space, is the value's
    /// type.
    pub fn from_help(help: &str) -> Self {
        let mut table = Self::default();
        for line in help.lines() {
            let Some((letter, rest)) = flag_line(line) else { continue };
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            if name.is_empty() {
                continue;
            }
            let typed =
                after.strip_prefix(' ').is_some_and(|t| !t.is_empty() && !t.starts_with(' '));
            table.add(name, letter, typed);
        }
        table
    }

    /// Adds a flag; one that is there already stays as it is.
    pub fn add(&mut self, name: &str, letter: Option<char>, valued: bool) {
        if self.takes_value(name).is_some() {
            return;
        }
        let set = if valued { &mut self.valued } else { &mut self.switches };
        set.insert(name.to_owned());
        if let Some(letter) = letter {
            self.letters.entry(letter).or_insert_with(|| name.to_owned());
        }
    }

    /// With what `docker create` hides, and ours.
    #[must_use]
    pub fn for_create(mut self) -> Self {
        for name in HIDDEN {
            self.add(name, None, true);
        }
        self.add("help", None, false);
        self.add("gpus", None, true);
        self.add("from", None, true);
        self
    }

    /// With those that `docker run` has besides.
    #[must_use]
    pub fn for_run(mut self) -> Self {
        self = self.for_create();
        self.add("detach", Some('d'), false);
        self.add("sig-proxy", None, false);
        self.add("detach-keys", None, true);
        self
    }

    /// Whether a flag takes a value; `None` for one that Docker does not have.
    pub fn takes_value(&self, name: &str) -> Option<bool> {
        if self.valued.contains(name) {
            Some(true)
        } else {
            self.switches.contains(name).then_some(false)
        }
    }

    /// All flags: long name, letter, whether it takes a value.
    pub fn all(&self) -> impl Iterator<Item = (&str, Option<char>, bool)> {
        let letter = |name: &str| self.letters.iter().find(|(_, n)| *n == name).map(|(c, _)| *c);
        let valued = self.valued.iter().map(move |n| (n.as_str(), letter(n), true));
        valued.chain(self.switches.iter().map(move |n| (n.as_str(), letter(n), false)))
    }

    /// Takes a command line apart.
    ///
    /// # Errors
    /// [`SplitError`].
    pub fn split(&self, words: &[String]) -> Result<Split, SplitError> {
        let mut split = Split::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                split.dashes = true;
                split.operands.extend(rest.cloned());
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                split.flags.push(self.long(word, long, &mut rest)?);
            } else if word.len() > 1 && word.starts_with('-') {
                self.cluster(word, &mut rest, &mut split.flags)?;
            } else {
                split.operands.push(word.clone());
                split.operands.extend(rest.cloned());
                break;
            }
        }
        Ok(split)
    }

    fn long<'a>(
        &self,
        word: &str,
        long: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<Flag, SplitError> {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(SplitError::Syntax(word.to_owned()));
        }
        let mut words = vec![word.to_owned()];
        let valued =
            self.takes_value(name).ok_or_else(|| SplitError::Unknown(format!("--{name}")))?;
        let value = match value {
            None if valued => {
                let next = rest.next().ok_or_else(|| SplitError::NoValue(word.to_owned()))?;
                words.push(next.clone());
                Some(next.clone())
            }
            value => value,
        };
        Ok(Flag { name: name.to_owned(), value, words })
    }

    /// `-it`, `-eFOO=1`, `-e FOO=1`, `-i=false`.
    fn cluster<'a>(
        &self,
        word: &str,
        rest: &mut impl Iterator<Item = &'a String>,
        flags: &mut Vec<Flag>,
    ) -> Result<(), SplitError> {
        let mut left = word.strip_prefix('-').unwrap_or(word);
        while let Some(letter) = left.chars().next() {
            let after = left.get(letter.len_utf8()..).unwrap_or_default();
            let unknown = || SplitError::UnknownLetter(letter, word.to_owned());
            let name = self.letters.get(&letter).ok_or_else(unknown)?.clone();
            let valued = self.valued.contains(&name);
            let assigned = after.strip_prefix('=').filter(|v| !v.is_empty());
            let (value, words, done) = if let Some(value) = assigned {
                (Some(value.to_owned()), vec![format!("-{left}")], true)
            } else if !valued {
                (None, vec![format!("-{letter}")], false)
            } else if !after.is_empty() {
                (Some(after.to_owned()), vec![format!("-{left}")], true)
            } else {
                let missing = || SplitError::NoValue(format!("'{letter}' in {word}"));
                let next = rest.next().ok_or_else(missing)?;
                (Some(next.clone()), vec![format!("-{letter}"), next.clone()], true)
            };
            flags.push(Flag { name, value, words });
            if done {
                break;
            }
            left = after;
        }
        Ok(())
    }
}

/// The letter and what follows `--`, if the line describes a flag and does not continue another's
/// description.
fn flag_line(line: &str) -> Option<(Option<char>, &str)> {
    if let Some(rest) = line.strip_prefix("      --") {
        return Some((None, rest));
    }
    let rest = line.strip_prefix("  -")?;
    let letter = rest.chars().next()?;
    let rest = rest.get(letter.len_utf8()..)?.strip_prefix(", --")?;
    Some((Some(letter), rest))
}

/// A switch's value as Go reads it.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
