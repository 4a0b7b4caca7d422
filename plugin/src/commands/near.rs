//! What a word that is not known was likely meant to be.

use crate::client::flags::FlagTable;

/// The nearest of some words, if it is near enough for a slip: two letters of a word, one of a short one.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = match word.chars().count() {
        0..=2 => 0,
        3..=4 => 1,
        _ => 2,
    };
    let word = word.to_lowercase();
    let word = word.as_str();
    let distance = |one: &str| strsim::damerau_levenshtein(word, one);
    // The beginning of a word is it, where no other is as near; two letters, where no other begins so.
    let begins = |one: &&str| word.len() >= 2 && one.starts_with(word);
    let all: Vec<&str> = known.into_iter().collect();
    let near = all.iter().copied().map(|one| (distance(one), one)).min()?;
    if near.0 <= far {
        return Some(near.1);
    }
    let mut found: Vec<&str> = all.iter().copied().filter(begins).collect();
    found.sort_by_key(|one| one.len());
    found.first().copied().filter(|_| word.len() >= 3 || found.len() == 1)
}

/// The flag that was likely meant, where a message says that one is not known.
pub(super) fn flag(message: &str, table: &FlagTable) -> Option<String> {
    let word = message.strip_prefix("unknown flag: --")?;
    let found = nearest(word, table.all().map(|(name, ..)| name))?;
    Some(format!("--{found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let known = ["scale", "start", "stop", "ps", "gpus", "history"];
        let near = |word| nearest(word, known);
        assert_eq!(near("sacle"), Some("scale"));
        assert_eq!(near("scael"), Some("scale"));
        assert_eq!(near("gpu"), Some("gpus"));
        assert_eq!(near("stpo"), Some("stop"));
        assert_eq!(near("hist"), Some("history"));
        assert_eq!(near("nope"), None);
        assert_eq!(near("p"), None);
        assert_eq!(near("hi"), Some("history"));
        assert_eq!(near("st"), None, "stop or start");
        assert_eq!(near("frobnicate"), None);
        let table = FlagTable::from_help("  -i, --interactive   x\n      --gpus string   y\n");
        assert_eq!(flag("unknown flag: --gpu", &table).as_deref(), Some("--gpus"));
        assert_eq!(flag("unknown flag: --interative", &table).as_deref(), Some("--interactive"));
        assert_eq!(flag("unknown flag: --x", &table), None);
        assert_eq!(flag("flag needs an argument: --gpus", &table), None);
    }
}
