//! systemd's units as setup reads and writes them. Pure.

use std::path::Path;

/// The PATH of a service whose unit says nothing of it.
pub(super) const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first line of every file that setup makes, by which it knows them again.
pub(super) const MARK: &str =
    "# Made by docker gpuctl setup; docker gpuctl setup --remove takes it away.";

/// The PATH that a unit and its drop-ins, in the order in which systemd reads them, set for the
/// service.
pub(super) fn path_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut path = None;
    for line in texts.into_iter().flat_map(str::lines) {
        let Some(value) = line.trim().strip_prefix("Environment=") else { continue };
        if value.trim().is_empty() {
            path = None;
        }
        for word in words(value) {
            if let Some(set) = word.strip_prefix("PATH=") {
                path = Some(set.to_owned());
            }
        }
    }
    path
}

/// Files that a unit takes its environment from.
pub(super) fn environment_files<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let lines = texts.into_iter().flat_map(str::lines);
    let files = lines.filter_map(|line| line.trim().strip_prefix("EnvironmentFile="));
    files.map(|f| f.trim().trim_start_matches('-').to_owned()).filter(|f| !f.is_empty()).collect()
}

/// The words of a setting, of which some may be quoted.
fn words(value: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in value.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => words.push(String::new()),
            (_, c) => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words
}

/// A PATH with our folders in it, each once: ours first, the stub's last.
pub(super) fn with_ours(
    own: &str,
    first: Option<&Path>,
    last: Option<&Path>,
    ours: [&Path; 2],
) -> String {
    let own = own.split(':').filter(|folder| !ours.iter().any(|o| Path::new(folder) == *o));
    let shown = |path: Option<&Path>| path.map(|p| p.display().to_string());
    let all = shown(first).into_iter().chain(own.map(str::to_owned)).chain(shown(last));
    all.collect::<Vec<_>>().join(":")
}

/// The drop-in that gives a service a PATH. A percent sign is systemd's own.
pub(super) fn drop_in(path: &str) -> String {
    format!("{MARK}\n[Service]\nEnvironment=\"PATH={}\"\n", path.replace('%', "%%"))
}

/// What makes the links: a command line.
pub(super) fn links_call(hook: &Path, config: &Path) -> String {
    format!("{} links --config {}", hook.display(), config.display())
}

/// The unit that makes the links of /dev/char at boot.
pub(super) fn links_unit(hook: &Path, config: &Path) -> String {
    format!(
        "{MARK}\n[Unit]\nDescription=Links of NVIDIA's device nodes in /dev/char\n\
         After=systemd-udevd.service systemd-modules-load.service nvidia-persistenced.service\n\
         Before=docker.service containerd.service\n\n\
         [Service]\nType=oneshot\nExecStart={}\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        links_call(hook, config)
    )
}

/// The rule that makes them when the driver is loaded. NVIDIA's modules announce no device nodes of
/// their own: the driver's appearance is all that udev sees.
pub(super) fn links_rule(hook: &Path, config: &Path) -> String {
    let run = format!("RUN+=\"{}\"", links_call(hook, config));
    format!(
        "{MARK}\nACTION==\"add\", DEVPATH==\"/bus/pci/drivers/nvidia\", {run}\n\
         ACTION==\"add\", DEVPATH==\"/module/nvidia\", {run}\n\
         ACTION==\"add\", DEVPATH==\"/module/nvidia_uvm\", {run}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_own_path_is_read_as_systemd_reads_it() {
        let unit = "[Service]\nEnvironment=\"A=b c\" PATH=/a:/b\n";
        assert_eq!(path_of([unit]).as_deref(), Some("/a:/b"));
        assert_eq!(path_of([unit, "Environment='PATH=/x y'\n"]).as_deref(), Some("/x y"));
        assert_eq!(path_of([unit, "Environment=\n"]), None);
        assert_eq!(path_of(["ExecStart=/bin/x PATH=/no\n"]), None);
        assert_eq!(
            environment_files(["EnvironmentFile=-/etc/default/docker\n"]),
            ["/etc/default/docker"]
        );
    }

    /// The package's own files do the same as what setup makes where there is no package.
    #[test]
    fn the_package_brings_the_same_unit_and_rule() {
        let paths = [
            Path::new("/usr/libexec/gpuctl/gpuctl-hook"),
            Path::new(gpuctl_ledger::config::DEFAULT_PATH),
        ];
        let without = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.collect::<Vec<_>>().join("\n")
        };
        let made = [links_unit(paths[0], paths[1]), links_rule(paths[0], paths[1])];
        let brought = [
            include_str!("../../../packaging/files/gpuctl-links.service"),
            include_str!("../../../packaging/files/70-gpuctl-links.rules"),
        ];
        for (made, brought) in made.iter().zip(brought) {
            assert_eq!(without(made), without(brought));
        }
    }

    #[test]
    fn our_folders_stand_once_at_both_ends() {
        let (strict, stub) = (Path::new("/l/strict"), Path::new("/l/stub"));
        let both = [strict, stub];
        let path = with_ours("/a:/b", Some(strict), Some(stub), both);
        assert_eq!(path, "/l/strict:/a:/b:/l/stub");
        assert_eq!(with_ours(&path, Some(strict), Some(stub), both), path);
        assert_eq!(with_ours(&path, None, Some(stub), both), "/a:/b:/l/stub");
        assert_eq!(with_ours(&path, None, None, both), "/a:/b");
        assert_eq!(path_of([drop_in(&path).as_str()]).as_deref(), Some(path.as_str()));
    }
}
