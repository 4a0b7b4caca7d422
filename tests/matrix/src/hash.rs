//! A hash of the sources that decide what a cell is: the hook's and the ledger's. By content and
//! name, in a fixed order; 128 bits of FNV-1a, since nobody forges it.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders that count, below the repository.
const FOLDERS: [&str; 2] = ["hook/src", "hook/ledger/src"];

/// The hash of a repository's sources, as hexadecimal digits.
///
/// # Errors
/// When a file cannot be read.
pub fn sources(repository: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&repository.join(folder), &mut files)?;
    }
    let mut named: Vec<(String, PathBuf)> = files
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(repository).ok()?.to_str()?.to_owned();
            Some((name, path))
        })
        .filter(|(name, _)| name.ends_with(".rs") && !is_test(name))
        .collect();
    named.sort();
    let mut hash = Fnv::new();
    for (name, path) in &named {
        let content = fs::read(path).map_err(|e| format!("cannot read {name}: {e}"))?;
        hash.add(name.as_bytes());
        hash.add(&(content.len() as u64).to_le_bytes());
        hash.add(&content);
    }
    Ok(format!("{:032x}", hash.0))
}

/// Files that only tests are built from.
fn is_test(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file == "tests.rs" || file.ends_with("tests.rs")
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries =
        fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { collect(&path, into)? } else { into.push(path) }
    }
    Ok(())
}

struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_names_count_and_order_and_tests_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["hook/src/request", "hook/ledger/src"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let hash = || sources(folder.path()).unwrap();
        fs::write(at("hook/src/b.rs"), "b").unwrap();
        fs::write(at("hook/src/a.rs"), "a").unwrap();
        let before = hash();
        fs::write(at("hook/src/request/tests.rs"), "t").unwrap();
        fs::write(at("hook/src/notes.txt"), "n").unwrap();
        assert_eq!(hash(), before);
        fs::write(at("hook/src/a.rs"), "A").unwrap();
        assert_ne!(hash(), before);
        fs::write(at("hook/src/a.rs"), "a").unwrap();
        assert_eq!(hash(), before);
        fs::rename(at("hook/src/a.rs"), at("hook/src/c.rs")).unwrap();
        assert_ne!(hash(), before);
    }
}
