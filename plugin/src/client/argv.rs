//! The words that the Docker CLI hands to its plugins: global flags, `gpuctl`, ours.

/// Docker's global flags that take a value.
const VALUED: [&str; 7] =
    ["--config", "--context", "--host", "--log-level", "--tlscacert", "--tlscert", "--tlskey"];
const SWITCHES: [&str; 4] = ["--debug", "--tls", "--tlsverify", "--version"];
/// The plugin's name.
const NAME: &str = "gpuctl";
/// The word by which the Docker CLI asks for a hint.
const HOOKS: &str = "docker-cli-plugin-hooks";

/// The global flags that matter to us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Globals {
    /// `-H`.
    pub host: Option<String>,
    /// `-c`.
    pub context: Option<String>,
    /// `--config`.
    pub config: Option<String>,
    /// `--tls`, `--tlsverify` and the files of TLS, as they were given: for the Docker CLI.
    pub tls: Vec<String>,
}

/// What we were called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `docker-cli-plugin-metadata`.
    Metadata,
    /// Shell completion of the last word.
    Complete {
        /// Our words.
        words: Vec<String>,
        /// Whether each proposal is to have its description: not for a shell that takes every word that
        /// it is given for a proposal, as Docker's completion for bash does.
        described: bool,
    },
    /// `docker-cli-plugin-hooks`: a command of Docker's has ended; what of it, as JSON.
    Hint(String),
    /// A command with its arguments.
    Command(Globals, Vec<String>),
}

/// Reads the words after the program's name. By hand (`docker-gpuctl ps`) the name of the plugin is
/// left out.
pub fn read(words: &[String]) -> Call {
    if words.first().is_some_and(|w| w == "docker-cli-plugin-metadata") {
        return Call::Metadata;
    }
    // The Docker CLI puts the plugin's name before it.
    let after = words.strip_prefix(&[NAME.to_owned()]).unwrap_or(words);
    if let [asked, data] = after
        && asked == HOOKS
    {
        return Call::Hint(data.clone());
    }
    let mut globals = Globals::default();
    let mut rest = words;
    while let Some((word, tail)) = rest.split_first() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let name = match name {
            "-H" => "--host",
            "-c" => "--context",
            "-l" => "--log-level",
            "-D" => "--debug",
            name => name,
        };
        if VALUED.contains(&name) {
            let (value, tail) = match inline {
                Some(value) => (Some(value), tail),
                None => (tail.first().cloned(), tail.get(1..).unwrap_or_default()),
            };
            match (name, value) {
                ("--host", value) => globals.host = value,
                ("--context", value) => globals.context = value,
                ("--config", value) => globals.config = value,
                ("--log-level", _) | (_, None) => {}
                (tls, Some(value)) => globals.tls.push(format!("{tls}={value}")),
            }
            rest = tail;
        } else if SWITCHES.contains(&name) && word != "--version" {
            if name.starts_with("--tls") {
                globals.tls.push(word.clone());
            }
            rest = tail;
        } else {
            break;
        }
    }
    let (first, second) = (rest.first().map(String::as_str), rest.get(1).map(String::as_str));
    match (first, second) {
        (Some(asked @ ("__complete" | "__completeNoDesc")), next) => {
            let ours = if next == Some(NAME) { 2 } else { 1 };
            Call::Complete {
                words: rest.get(ours..).unwrap_or_default().to_vec(),
                described: asked == "__complete",
            }
        }
        (Some("help"), Some(NAME)) => {
            let mut ours = vec!["help".to_owned()];
            ours.extend(rest.iter().skip(2).cloned());
            Call::Command(globals, ours)
        }
        (Some(NAME), _) => Call::Command(globals, rest.get(1..).unwrap_or_default().to_vec()),
        _ => Call::Command(globals, rest.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        read(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn command(text: &str) -> (Globals, String) {
        match call(text) {
            Call::Command(globals, words) => (globals, words.join(" ")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn global_flags_and_the_plugins_name_come_before_ours() {
        assert_eq!(call("docker-cli-plugin-metadata"), Call::Metadata);
        assert_eq!(command("gpuctl ps -a").1, "ps -a");
        assert_eq!(command("ps -a").1, "ps -a");
        let (globals, words) =
            command("-H unix:///x --config=/c -c prod -D --log-level debug gpuctl run -H x img");
        assert_eq!(words, "run -H x img");
        assert_eq!(globals.host.as_deref(), Some("unix:///x"));
        assert_eq!(globals.config.as_deref(), Some("/c"));
        assert_eq!(globals.context.as_deref(), Some("prod"));
        assert_eq!(command("help gpuctl scale").1, "help scale");
        assert_eq!(command("help gpuctl").1, "help");
        assert_eq!(command("gpuctl --help").1, "--help");
        assert_eq!(command("").1, "");
        let (globals, _) = command("--tlsverify=false --tlscacert /ca.pem -H tcp://a gpuctl ps");
        assert_eq!(globals.tls, ["--tlsverify=false", "--tlscacert=/ca.pem"]);
        // A container may be called as we are.
        assert_eq!(command("gpuctl stop gpuctl").1, "stop gpuctl");
    }

    #[test]
    fn completion_is_asked_in_either_way() {
        let asked = |described, words: &[&str]| Call::Complete {
            words: words.iter().map(|w| (*w).to_owned()).collect(),
            described,
        };
        assert_eq!(call("__complete gpuctl st"), asked(true, &["st"]));
        assert_eq!(call("__completeNoDesc gpuctl rm tr"), asked(false, &["rm", "tr"]));
        // As Docker's completion for bash calls a plugin.
        assert_eq!(call("__completeNoDesc rm tr"), asked(false, &["rm", "tr"]));
    }

    #[test]
    fn a_hint_is_asked_for_with_the_plugins_name_before_it() {
        let data = "{\"RootCmd\":\"run\"}";
        for line in [&["gpuctl", HOOKS, data][..], &[HOOKS, data]] {
            let words: Vec<String> = line.iter().map(|w| (*w).to_owned()).collect();
            assert_eq!(read(&words), Call::Hint(data.into()));
        }
    }

    #[test]
    fn words_that_end_early_do_no_harm() {
        for text in ["-H", "--config", "-c", "__complete", "help", "--host="] {
            let _ = call(text);
        }
    }
}
