//! The systemd mount unit of an image: mounted at boot before the Engine starts. Pure.

use std::path::Path;

/// The unit's name: systemd wants it to be the mount point's path, escaped.
pub(super) fn name(mount_point: &Path) -> String {
    format!("{}.mount", escaped(&mount_point.to_string_lossy()))
}

/// As `systemd-escape --path`.
fn escaped(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let path = parts.join("/");
    if path.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::new();
    for (place, byte) in path.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if place == 0 => out.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                out.push(char::from(byte))
            }
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    out
}

/// The unit's file. systemd waits for the disks that image and mount point lie on by itself.
pub(super) fn text(image: &Path, mount_point: &Path, kind: &str, options: &str) -> String {
    format!(
        "# Made by docker gpuctl volume; removed by docker gpuctl volume rm.\n\
         [Unit]\n\
         Description=Docker volume {}\n\
         Before=docker.service\n\
         \n\
         [Mount]\n\
         What={}\n\
         Where={}\n\
         Type={kind}\n\
         Options={options}\n\
         TimeoutSec=300\n\
         \n\
         [Install]\n\
         WantedBy=docker.service\n",
        mount_point.file_name().unwrap_or_default().to_string_lossy(),
        specifier(image),
        specifier(mount_point),
    )
}

/// A path in a unit's file: `%` begins a specifier.
fn specifier(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_is_that_of_systemd_escape() {
        for (path, name) in [
            (
                "/var/lib/gpuctl/volumes/mounts/data-0",
                "var-lib-gpuctl-volumes-mounts-data\\x2d0.mount",
            ),
            ("/srv//x/", "srv-x.mount"),
            ("/.a/b_c.d", "\\x2ea-b_c.d.mount"),
            ("/a b", "a\\x20b.mount"),
            ("/", "-.mount"),
        ] {
            assert_eq!(super::name(Path::new(path)), name);
        }
    }

    #[test]
    fn a_unit_comes_before_the_engine_and_with_it() {
        let unit = text(Path::new("/v/100%.img"), Path::new("/v/m/data-0"), "ext4", "loop,discard");
        for line in [
            "Before=docker.service",
            "What=/v/100%%.img",
            "Where=/v/m/data-0",
            "Options=loop,discard",
            "WantedBy=docker.service",
        ] {
            assert!(unit.lines().any(|l| l == line), "{line}\n{unit}");
        }
    }
}
