//! What the host's packages are mended with: commands where it is seen which they are, words where not.

use std::path::Path;

/// The package that is installed, of these, in dpkg's own list of what it has.
fn debian<'a>(root: &Path, names: &[&'a str]) -> Option<&'a str> {
    let info = root.join("var/lib/dpkg/info");
    names.iter().copied().find(|name| info.join(format!("{name}.list")).exists())
}

fn has_dnf(root: &Path) -> bool {
    root.join("usr/bin/dnf").exists()
}

/// Ours, from the file that it was installed from: no repository has it.
pub(super) fn again(root: &Path) -> String {
    if debian(root, &["docker-gpuctl"]).is_some() {
        "apt install --reinstall ./docker-gpuctl_*.deb".to_owned()
    } else if has_dnf(root) {
        "dnf reinstall ./docker-gpuctl-*.rpm".to_owned()
    } else {
        "install the package again".to_owned()
    }
}

/// A newer Engine.
pub(super) fn newer_docker(root: &Path) -> String {
    match debian(root, &["docker-ce", "docker.io"]) {
        Some(name) => format!("apt update && apt install --only-upgrade {name}"),
        None if has_dnf(root) => {
            "dnf upgrade docker-ce, or moby-engine where that is installed".to_owned()
        }
        None => "upgrade docker.io or docker-ce".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_hosts_packages() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let put = |path: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        assert_eq!(again(root), "install the package again");
        assert_eq!(newer_docker(root), "upgrade docker.io or docker-ce");
        put("usr/bin/dnf");
        assert_eq!(again(root), "dnf reinstall ./docker-gpuctl-*.rpm");
        assert_eq!(
            newer_docker(root),
            "dnf upgrade docker-ce, or moby-engine where that is installed"
        );
        put("var/lib/dpkg/info/docker.io.list");
        put("var/lib/dpkg/info/docker-gpuctl.list");
        assert_eq!(again(root), "apt install --reinstall ./docker-gpuctl_*.deb");
        assert_eq!(newer_docker(root), "apt update && apt install --only-upgrade docker.io");
        put("var/lib/dpkg/info/docker-ce.list");
        assert!(newer_docker(root).ends_with(" docker-ce"));
    }
}
