//! What is mounted where: `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use gpuctl_ledger::node::files;

/// Most of mountinfo that is read, in bytes: a thousand volumes and their containers fit.
const LONGEST: u64 = 16 << 20;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is.
    pub(crate) at: PathBuf,
    /// Its filesystem: `xfs`.
    pub(crate) kind: String,
    /// What is mounted: `/dev/loop3`.
    pub(crate) source: String,
    /// The filesystem's own options: `rw,prjquota`.
    pub(crate) options: String,
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// The system's.
pub(super) fn all() -> std::io::Result<Vec<Mount>> {
    let text = files::read_bounded(Path::new("/proc/self/mountinfo"), LONGEST)?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(line).collect())
}

/// The mount at this very path, the topmost.
///
/// # Errors
/// The system's.
pub(super) fn at(path: &Path) -> std::io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rfind(|mount| mount.at == path))
}

/// The mount that a path lies on.
///
/// # Errors
/// The system's.
pub(crate) fn mount_of(path: &Path) -> std::io::Result<Option<Mount>> {
    let mounts = all()?.into_iter().filter(|mount| path.starts_with(&mount.at));
    // Of several at one place the last is seen.
    Ok(mounts.max_by_key(|mount| mount.at.components().count()))
}

/// The processes that see this mounted, one for each mount namespace, a few at most: `812 (sleep)`.
pub(super) fn processes_with(source: &str) -> Vec<String> {
    const MOST: usize = 5;
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = entry.path();
        let pid = entry.file_name().to_string_lossy().into_owned();
        let is_new = |namespace| seen.insert(namespace);
        if found.len() == MOST
            || !pid.bytes().all(|b| b.is_ascii_digit())
            || !std::fs::read_link(folder.join("ns/mnt")).is_ok_and(is_new)
        {
            continue;
        }
        let text = files::read_bounded(&folder.join("mountinfo"), LONGEST).unwrap_or_default();
        if String::from_utf8_lossy(&text).lines().filter_map(line).any(|m| m.source == source) {
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            found.push(format!("{pid} ({})", name.trim()));
        }
    }
    found
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`
fn line(text: &str) -> Option<Mount> {
    let (before, after) = text.split_once(" - ")?;
    let mut after = after.split(' ');
    Some(Mount {
        at: PathBuf::from(unescaped(before.split(' ').nth(4)?)),
        kind: after.next()?.to_owned(),
        source: unescaped(after.next()?),
        options: after.next().unwrap_or_default().to_owned(),
    })
}

/// Spaces and the like are written as `\040`.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_optional_fields() {
        let with =
            "36 35 98:0 /a /mnt\\040x rw,noatime shared:1 master:2 - xfs /dev/root rw,prjquota";
        let mount = line(with).unwrap();
        assert_eq!(mount.at, Path::new("/mnt x"));
        assert_eq!((mount.kind.as_str(), mount.options.as_str()), ("xfs", "rw,prjquota"));
        let without = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw";
        assert_eq!(line(without).unwrap().source, "/dev/vda");
        assert_eq!(line("torn"), None);
    }

    #[test]
    fn who_has_something_mounted_is_found_once() {
        let source = at(Path::new("/proc")).unwrap().unwrap().source;
        let ours = format!("{} (", std::process::id());
        let found = processes_with(&source);
        assert!(!found.is_empty() && found.len() <= 5, "{found:?}");
        assert!(found.iter().filter(|text| text.starts_with(&ours)).count() <= 1);
        assert_eq!(processes_with("/dev/nothing"), Vec::<String>::new());
    }

    #[test]
    fn the_mount_below_a_path_is_the_nearest() {
        assert_eq!(mount_of(Path::new("/proc/self/maps")).unwrap().unwrap().at, Path::new("/proc"));
        assert_eq!(mount_of(Path::new("/nowhere")).unwrap().unwrap().at, Path::new("/"));
        assert!(at(Path::new("/proc")).unwrap().is_some());
        assert_eq!(at(Path::new("/nowhere")).unwrap(), None);
    }
}
