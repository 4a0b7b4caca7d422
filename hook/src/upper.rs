//! Where a container's writable layer is: its rootfs's line in /proc/self/mountinfo names the upper
//! directory, on overlay2 and on the containerd image store alike.

use std::path::Path;

use gpuctl_ledger::node::files;

/// Longest mountinfo, in bytes: hosts with thousands of containers have thousands of mounts.
const LONGEST: u64 = 64 << 20;

/// The upper directory of the overlay mounted at `root`; `None` where it is no overlay.
pub fn upper_dir(root: &Path) -> Option<String> {
    let bytes = files::read_bounded(Path::new("/proc/self/mountinfo"), LONGEST).ok()?;
    find(&String::from_utf8_lossy(&bytes), root.to_str()?)
}

/// The same from mountinfo's text. Pure.
pub fn find(mountinfo: &str, root: &str) -> Option<String> {
    // The last mount at a place is the one that is seen.
    mountinfo.lines().rev().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        if unescape(front.split(' ').nth(4)?) != root {
            return None;
        }
        let mut fields = back.split(' ');
        if fields.next()? != "overlay" {
            return None;
        }
        let options = fields.nth(1)?;
        options.split(',').find_map(|o| o.strip_prefix("upperdir=")).map(unescape)
    })
}

/// The kernel writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_directory_of_the_last_overlay_at_the_place_is_found() {
        let info = "\
1 0 0:1 / /r rw shared:1 - overlay overlay rw,lowerdir=/l,upperdir=/old,workdir=/w
2 0 0:1 / /r rw shared:1 master:2 - overlay overlay rw,lowerdir=/l:/m,upperdir=/a\\040b,workdir=/w
3 0 0:1 / /other rw - overlay overlay rw,upperdir=/x
4 0 0:1 / /t rw - tmpfs tmpfs rw,upperdir=/x
";
        assert_eq!(find(info, "/r").as_deref(), Some("/a b"));
        assert_eq!(find(info, "/t"), None);
        assert_eq!(find(info, "/none"), None);
    }
}
