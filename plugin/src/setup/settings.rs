//! gpuctl's own config and NVIDIA's, changed in single keys: comments, order and all other keys stay.
//! Pure.

use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

/// Reads a TOML text.
///
/// # Errors
/// The parser's first line.
fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse::<DocumentMut>()
        .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
}

/// A config that is changed key by key.
#[derive(Debug, Clone)]
pub(super) struct Settings(DocumentMut);

impl Settings {
    /// Reads it; an absent file is an empty text.
    ///
    /// # Errors
    /// Where it is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        parse(text).map(Self)
    }

    /// Whether a key stands there.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        self.0.get(section).and_then(|s| s.get(key)).is_some()
    }

    /// Sets a key of a section, and keeps what stands behind it on its line.
    pub(super) fn set(&mut self, section: &str, key: &str, new: impl Into<Value>) {
        let new: Value = new.into();
        let table = self.0.entry(section).or_insert_with(|| Item::Table(Table::new()));
        let Some(table) = table.as_table_like_mut() else { return };
        match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = new;
                *old.decor_mut() = decor;
            }
            None => drop(table.insert(key, value(new))),
        }
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, section: &str, key: &str) {
        if let Some(table) = self.0.get_mut(section).and_then(Item::as_table_like_mut) {
            table.remove(key);
        }
    }

    /// The text.
    pub(super) fn render(&self) -> String {
        self.0.to_string()
    }
}

/// Where NVIDIA's config lists the runtimes that its own calls, the first that is there.
const NVIDIA: (&str, &str) = ("nvidia-container-runtime", "runtimes");
/// What it takes where the list is not there.
pub(super) const NVIDIA_USUAL: [&str; 3] = ["docker-runc", "runc", "crun"];

/// The runtimes that NVIDIA's config names, the usual ones where it names none.
///
/// # Errors
/// Where it is wrong.
pub(super) fn nvidia_runtimes(text: &str) -> Result<Vec<String>, String> {
    let document = parse(text)?;
    let Some(list) = document.get(NVIDIA.0).and_then(|s| s.get(NVIDIA.1)) else {
        return Ok(NVIDIA_USUAL.map(str::to_owned).to_vec());
    };
    let words: Option<Vec<String>> = list
        .as_array()
        .and_then(|list| list.iter().map(|word| word.as_str().map(str::to_owned)).collect());
    words.ok_or_else(|| format!("its {} is no list of texts", NVIDIA.1))
}

/// The variables that NVIDIA's toolkit takes GPUs from before NVIDIA_VISIBLE_DEVICES, where its config says
/// so: `swarm-resource`, names between commas, which some versions of it take for one name.
pub(super) fn nvidia_swarm_resource(text: &str) -> Vec<String> {
    let document = parse(text).unwrap_or_default();
    let value = document.get("swarm-resource").and_then(|value| value.as_str()).unwrap_or_default();
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    if !names.is_empty() && names != [value] {
        names.push(value.to_owned());
    }
    names
}

/// What NVIDIA's config has as `false` where its toolkit heeds the environment of privileged containers only.
pub(super) const NVIDIA_HEEDS: &str = "accept-nvidia-visible-devices-envvar-when-unprivileged";

/// Whether NVIDIA's toolkit heeds the environment of a container that is not privileged.
pub(super) fn nvidia_heeds_environment(text: &str) -> bool {
    let document = parse(text).unwrap_or_default();
    document.get(NVIDIA_HEEDS).and_then(|value| value.as_bool()) != Some(false)
}

/// NVIDIA's config with another list.
///
/// # Errors
/// Where it is wrong.
pub(super) fn with_nvidia_runtimes(text: &str, list: &[String]) -> Result<String, String> {
    let mut settings = Settings::parse(text)?;
    settings.set(NVIDIA.0, NVIDIA.1, list.iter().map(String::as_str).collect::<Array>());
    Ok(settings.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_other_keys_stay() {
        let text = "# ours\nnode = \"a\" # name\n\n[docker]\nroot = \"/x\" # moved\n\n[[policy.exempt]]\nname = \"e\"\n";
        let mut settings = Settings::parse(text).unwrap();
        settings.set("docker", "root", "/y");
        settings.set("docker", "host", "unix:///s");
        settings.set("policy", "observe", true);
        settings.set("runtime", "real", "/usr/bin/runc");
        let got = settings.render();
        for kept in [
            "# ours\nnode = \"a\" # name",
            "root = \"/y\" # moved",
            "host = \"unix:///s\"",
            "[[policy.exempt]]\nname = \"e\"",
            "[runtime]\nreal = \"/usr/bin/runc\"",
        ] {
            assert!(got.contains(kept), "{kept}\n{got}");
        }
        let config = gpuctl_ledger::config::Config::parse(&got).unwrap();
        assert!(config.policy.observe && config.policy.exempt.len() == 1, "{got}");
        let mut again = Settings::parse(&got).unwrap();
        again.set("docker", "root", "/y");
        assert_eq!(again.render(), got);
    }

    #[test]
    fn nvidias_list_is_read_and_changed() {
        let text = "#x\n[nvidia-container-runtime]\n#debug = 1\nruntimes = [\"/usr/bin/runc\"] # mine\nmode = \"auto\"\n";
        assert_eq!(nvidia_runtimes(text).unwrap(), ["/usr/bin/runc"]);
        assert_eq!(nvidia_runtimes("").unwrap(), NVIDIA_USUAL);
        let list = ["/l/strict/runc".to_owned(), "/usr/bin/runc".to_owned()];
        let got = with_nvidia_runtimes(text, &list).unwrap();
        assert_eq!(nvidia_runtimes(&got).unwrap(), list);
        assert!(
            got.contains("#debug = 1\n")
                && got.contains("# mine")
                && got.contains("mode = \"auto\""),
            "{got}"
        );
        assert!(nvidia_runtimes("[x\n").is_err());
        assert!(nvidia_runtimes("[nvidia-container-runtime]\nruntimes = [\"runc\", 3]\n").is_err());
        let swarm = nvidia_swarm_resource;
        assert!([text, "swarm-resource = \" , \"\n", "[x\n"].map(swarm).iter().all(Vec::is_empty));
        assert_eq!(swarm("swarm-resource = \"A, B\"\n"), ["A", "B", "A, B"]);
        assert_eq!(swarm("swarm-resource = \"A\"\n"), ["A"]);
        let heeds = |value: &str| nvidia_heeds_environment(&format!("{NVIDIA_HEEDS} = {value}\n"));
        assert!(heeds("true") && !heeds("false") && nvidia_heeds_environment(text));
    }
}
