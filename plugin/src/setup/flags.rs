//! dockerd's command line, and the texts that it is made from. Pure.

use std::path::PathBuf;

/// What of dockerd's flags matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Flags {
    /// `--config-file`.
    pub(super) config_file: Option<PathBuf>,
    /// The socket of a containerd that is a program of its own: see [`containerd`].
    pub(super) containerd: Option<PathBuf>,
    /// The flags that daemon.json must not repeat, as they were written.
    pub(super) runtimes: Vec<String>,
}

/// Flags that name what setup writes into daemon.json. dockerd refuses to start where both do.
const OURS: [&str; 2] = ["--default-runtime", "--add-runtime"];

/// Reads a command line.
pub(super) fn read(words: &[String]) -> Flags {
    let mut flags = Flags::default();
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned()).unwrap_or_default();
        match name {
            "--config-file" => flags.config_file = Some(value().into()),
            "--containerd" => flags.containerd = Some(value().into()),
            name if OURS.contains(&name) => flags.runtimes.push(format!("{name} {}", value())),
            _ => {}
        }
    }
    flags
}

/// Such flags in the text of a unit or of a file of its environment: the next start has them, also
/// where the running dockerd does not. Comments do not count.
pub(super) fn in_text(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start);
    let code = lines.filter(|line| !line.starts_with('#') && !line.starts_with(';'));
    let words =
        code.flat_map(|line| line.split(|c: char| c.is_whitespace() || c == '"' || c == '\''));
    let ours = words.filter_map(|word| {
        // DOCKER_OPTS=--default-runtime=x
        let at = OURS.iter().find_map(|flag| word.find(flag))?;
        let word = word.get(at..)?;
        let name = word.split('=').next().unwrap_or_default();
        OURS.contains(&name).then(|| word.to_owned())
    });
    ours.collect()
}

/// Where containerd listens when it is a service of its own.
pub(super) const SYSTEM_CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The socket of the containerd that dockerd uses and does not start itself: as its flag says, else as
/// daemon.json says, else the system's where that is there (moby's `systemContainerdRunning` looks for no
/// more than the file).
pub(super) fn containerd(
    flag: Option<PathBuf>,
    daemon_json: Option<&str>,
    system: Option<PathBuf>,
) -> Option<PathBuf> {
    let in_json = || {
        let json: serde_json::Value = serde_json::from_str(daemon_json?).ok()?;
        Some(PathBuf::from(json.get("containerd")?.as_str().filter(|path| !path.is_empty())?))
    };
    flag.or_else(in_json).or(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_in_both_spellings() {
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let flags = read(&words(
            "dockerd -H fd:// --config-file=/d.json --containerd /c.sock --default-runtime nvidia --add-runtime=a=/b",
        ));
        assert_eq!(flags.config_file, Some("/d.json".into()));
        assert_eq!(flags.containerd, Some("/c.sock".into()));
        assert_eq!(flags.runtimes, ["--default-runtime nvidia", "--add-runtime a=/b"]);
        assert_eq!(read(&words("dockerd -H fd://")), Flags::default());
    }

    #[test]
    fn flags_of_the_next_start_are_found_in_units_and_environment_files() {
        let unit = "[Service]\n# --default-runtime old\nExecStart=/usr/bin/dockerd --default-runtime=nvidia $X\n";
        assert_eq!(in_text(unit), ["--default-runtime=nvidia"]);
        assert_eq!(in_text("DOCKER_OPTS=\"--add-runtime x=/y\""), ["--add-runtime"]);
        assert_eq!(in_text("DOCKER_OPTS=--default-runtime=x"), ["--default-runtime=x"]);
        assert!(in_text("DOCKER_OPTS=--default-runtimes\n").is_empty());
    }

    #[test]
    fn a_containerd_that_dockerd_finds_by_itself_counts_too() {
        let path = |text: &str| Some(PathBuf::from(text));
        let json = Some(r#"{"containerd": "/json.sock"}"#);
        assert_eq!(containerd(path("/flag.sock"), json, path("/system.sock")), path("/flag.sock"));
        assert_eq!(containerd(None, json, path("/system.sock")), path("/json.sock"));
        assert_eq!(containerd(None, Some("{}"), path("/system.sock")), path("/system.sock"));
        assert_eq!(containerd(None, Some("broken"), None), None);
    }
}
