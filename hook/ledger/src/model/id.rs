//! Names and ids. All are plain strings with a checked alphabet, so that none can carry a slash
//! into a key, a dot-dot into a path or a control character onto a terminal.

use serde::{Deserialize, Serialize};

/// Why a text is not the value it was to become.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {why}")]
pub struct Invalid {
    what: &'static str,
    text: String,
    why: String,
}

impl Invalid {
    /// `what` is the word for the value, `text` what was given (cut to 80 characters), `why` the fault.
    pub fn new(what: &'static str, text: &str, why: impl Into<String>) -> Self {
        Self { what, text: text.chars().take(80).collect(), why: why.into() }
    }
}

/// Letters, digits and `_.-`, the first a letter or digit: Docker's own rule for names.
fn docker_alphabet(what: &'static str, text: &str, longest: usize) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(what, text, "is empty"));
    }
    if text.len() > longest {
        return Err(Invalid::new(what, text, format!("is longer than {longest} characters")));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-';
    if !text.as_bytes()[0].is_ascii_alphanumeric() || !text.bytes().all(plain) {
        return Err(Invalid::new(
            what,
            text,
            "may hold only letters, digits, '_', '.' and '-', and begins with a letter or digit",
        ));
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$meta:meta])* $name:ident, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The checked value.
            ///
            /// # Errors
            /// [`Invalid`] when the text breaks the type's rule.
            pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
                let text = text.into();
                #[allow(clippy::redundant_closure_call)]
                ($check)(text.as_str())?;
                Ok(Self(text))
            }

            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

text_type!(
    /// The name a user gives a managed container: `train`. In Docker it is `train-N`, see [`DockerName`].
    ContainerName,
    |t: &str| {
        if t.len() == 1 {
            return Err(Invalid::new("container name", t, "is too short: Docker wants two characters"));
        }
        docker_alphabet("container name", t, 120)
    }
);
text_type!(
    /// A container's name in Docker; of a managed container, its name and version: `train-3`.
    DockerName,
    |t: &str| docker_alphabet("name in Docker", t, 250)
);
text_type!(
    /// The name a user gives a volume: `data`. In Docker it is `data-N`, N its version.
    VolumeName,
    |t: &str| {
        if t.len() == 1 {
            return Err(Invalid::new("volume name", t, "is too short: Docker wants two characters"));
        }
        docker_alphabet("volume name", t, 120)
    }
);
text_type!(
    /// The name of a node in the ledger: a setting, bound to the node's machine id at first use.
    NodeName,
    |t: &str| docker_alphabet("node name", t, 120)
);
text_type!(
    /// An OCI container's id; Docker's are 64 hex digits, others' are names.
    ContainerId,
    |t: &str| docker_alphabet("container id", t, 200)
);
text_type!(
    /// The random id of one operation. Every side effect of a claim carries it.
    Token,
    |t: &str| docker_alphabet("token", t, 64)
);
text_type!(
    /// The kernel's id of this boot, from `/proc/sys/kernel/random/boot_id`.
    BootId,
    |t: &str| docker_alphabet("boot id", t, 64)
);
text_type!(
    /// What is leased: a GPU's UUID (`GPU-...`), a MIG device's (`MIG-...`), or a slot of a GPU that
    /// the config shares: `GPU-.../3`.
    Unit,
    |t: &str| {
        let (card, slot) = t.split_once('/').map_or((t, None), |(card, slot)| (card, Some(slot)));
        docker_alphabet("GPU", card, 100)?;
        match slot {
            Some(slot) if slot_number(slot).is_none() => {
                Err(Invalid::new("GPU", t, "has a slot that is no number"))
            }
            _ => Ok(()),
        }
    }
);

/// The number of a slot: one spelling for each, so that no two keys are one slot.
fn slot_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number < Unit::MOST_SLOTS && number.to_string() == text).then_some(number)
}

impl Unit {
    /// A GPU has fewer slots than this, or so many.
    pub const MOST_SLOTS: u32 = 256;

    /// The slot with this number of a GPU; `None` where it can have none.
    pub fn of_slot(card: &Self, slot: u32) -> Option<Self> {
        Self::new(format!("{}/{slot}", card.card())).ok()
    }

    /// The UUID: of a slot its GPU's, else the unit itself.
    pub fn card(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(card, _)| card)
    }

    /// The number of a slot.
    pub fn slot(&self) -> Option<u32> {
        slot_number(self.0.split_once('/')?.1)
    }
}

impl Token {
    /// A fresh token: 128 random bits as 32 hex digits.
    ///
    /// # Errors
    /// When the kernel's random source cannot be read.
    pub fn random() -> std::io::Result<Self> {
        use std::io::Read as _;
        let mut bytes = [0u8; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }
}

impl ContainerId {
    /// The first 12 characters, as Docker prints ids.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

/// The version of a container, from 0. Each change makes the next one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Version(pub u32);

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl DockerName {
    /// The Docker name of a managed container at a version: `train` at 3 is `train-3`.
    pub fn of(name: &ContainerName, version: Version) -> Self {
        Self(format!("{name}-{version}"))
    }

    /// Takes `train-3` apart into `train` and 3; `None` where the text has not that form.
    pub fn split(text: &str) -> Option<(ContainerName, Version)> {
        let (name, version) = text.rsplit_once('-')?;
        let canonical = version == "0" || (!version.starts_with('0') && !version.starts_with('+'));
        if !canonical {
            return None;
        }
        Some((ContainerName::new(name).ok()?, Version(version.parse().ok()?)))
    }
}

impl VolumeName {
    /// The name in Docker of the volume at a version: `data` at 3 is `data-3`.
    pub fn at(&self, version: Version) -> String {
        format!("{self}-{version}")
    }

    /// Takes `data-3` apart into `data` and 3; `None` where the text has not that form.
    pub fn split(text: &str) -> Option<(Self, Version)> {
        let (name, version) = DockerName::split(text)?;
        Some((Self::new(name.as_str()).ok()?, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_a_key_a_path_or_a_terminal_are_refused() {
        for bad in ["", "a/b", "../x", ".x", "-x", "a b", "a\n", "a\u{1b}[0m", "é", "a\0"] {
            assert!(DockerName::new(bad).is_err(), "{bad:?}");
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
            assert!(Unit::new(bad).is_err(), "{bad:?}");
        }
        for bad in
            ["GPU-a/", "GPU-a/x", "GPU-a/-1", "GPU-a/01", "GPU-a/+1", "GPU-a/1/2", "/1", "../1"]
        {
            assert!(Unit::new(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<DockerName>("\"a/b\"").is_err());
    }

    #[test]
    fn a_docker_name_splits_into_name_and_version() {
        let split = |t| DockerName::split(t).map(|(n, v)| (n.to_string(), v.0));
        assert_eq!(split("train-3"), Some(("train".into(), 3)));
        assert_eq!(split("my-train-0"), Some(("my-train".into(), 0)));
        assert_eq!(split("train"), None);
        assert_eq!(split("train-03"), None);
        assert_eq!(split("train-x"), None);
        assert_eq!(split("train-99999999999"), None);
    }

    #[test]
    fn a_slot_is_a_unit_of_its_own_and_knows_its_gpu() {
        let card = Unit::new("GPU-a").unwrap();
        let slot = Unit::of_slot(&card, 3).unwrap();
        assert_eq!((slot.as_str(), slot.card(), slot.slot()), ("GPU-a/3", "GPU-a", Some(3)));
        assert_eq!((card.card(), card.slot()), ("GPU-a", None));
        assert_eq!(Unit::of_slot(&slot, 4).unwrap().as_str(), "GPU-a/4");
        assert!(Unit::of_slot(&card, Unit::MOST_SLOTS).is_none());
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(Token::random().unwrap(), Token::random().unwrap());
    }
}
