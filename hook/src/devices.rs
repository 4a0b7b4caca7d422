//! Device nodes and device cgroup rules of a spec, read as runc reads them.
//!
//! A list of rules is a program: `a` resets everything, the rest adds or takes away exceptions.
//! [`emulate`] runs it as runc's emulator does (libcontainer/cgroups/devices), including what it
//! refuses: a hole in a wildcard, which cgroup v1 would silently not make.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Major number of NVIDIA's GPUs, registered with the kernel (Documentation/admin-guide/devices.txt).
pub const NVIDIA_MAJOR: u32 = 195;
/// Minors of [`NVIDIA_MAJOR`] that are no GPU: nvidia-modeset and nvidiactl.
pub const SHARED_MINORS: [u32; 2] = [254, 255];

/// Whether this minor of [`NVIDIA_MAJOR`] is a GPU's.
pub fn is_gpu_minor(minor: u32) -> bool {
    !SHARED_MINORS.contains(&minor)
}

/// The kinds of operation that a rule speaks of: bits for read, write and mknod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(pub u8);

impl Access {
    /// `rwm`.
    pub const ALL: Self = Self(7);

    /// Reads `rwm` and parts of it. What is left out of the rule counts as all, the careful reading.
    fn read(value: Option<&Value>) -> Self {
        let Some(text) = value.and_then(Value::as_str) else { return Self::ALL };
        let bit = |c: char, bit: u8| if text.contains(c) { bit } else { 0 };
        Self(bit('r', 1) | bit('w', 2) | bit('m', 4))
    }

    /// Whether a device can be opened with it; mknod alone opens nothing.
    pub fn opens(self) -> bool {
        self.0 & 3 != 0
    }

    /// Whether nothing is left.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As config.json writes it.
    pub fn text(self) -> String {
        [(1, 'r'), (2, 'w'), (4, 'm')].iter().filter(|b| self.0 & b.0 != 0).map(|b| b.1).collect()
    }
}

/// What devices a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Every device, whatever numbers stand beside it.
    All,
    /// Block devices.
    Block,
    /// Character devices; also every kind that we do not know, so that none slips through.
    Char,
}

impl Kind {
    fn read(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::All,
            Some(Value::String(text)) => match text.as_str() {
                "" | "a" => Self::All,
                "b" => Self::Block,
                _ => Self::Char,
            },
            Some(_) => Self::All,
        }
    }
}

/// One rule of `linux.resources.devices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Allow or deny.
    pub allow: bool,
    /// Which devices.
    pub kind: Kind,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// Operations.
    pub access: Access,
}

/// A number of a rule. Docker writes -1 for any or leaves it out; what is no number counts as any.
fn rule_number(value: Option<&Value>) -> Option<u32> {
    value?.as_u64().and_then(|n| u32::try_from(n).ok())
}

impl Rule {
    /// Reads one rule; the careful reading where it is odd.
    pub fn read(value: &Value) -> Self {
        let allow = match value.get("allow") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(_) => true,
        };
        Self {
            allow,
            kind: Kind::read(value.get("type")),
            major: rule_number(value.get("major")),
            minor: rule_number(value.get("minor")),
            access: Access::read(value.get("access")),
        }
    }

    /// The rule as config.json has it.
    pub fn to_value(self) -> Value {
        let mut map = Map::new();
        map.insert("allow".into(), self.allow.into());
        match self.kind {
            Kind::All => {}
            Kind::Block => drop(map.insert("type".into(), "b".into())),
            Kind::Char => drop(map.insert("type".into(), "c".into())),
        }
        if self.kind != Kind::All {
            map.insert("major".into(), self.major.map_or(json!(-1), |n| json!(n)));
            map.insert("minor".into(), self.minor.map_or(json!(-1), |n| json!(n)));
        }
        map.insert("access".into(), self.access.text().into());
        Value::Object(map)
    }

    /// The GPU minor that this rule names and opens, and nothing else.
    pub fn gpu_minor(&self) -> Option<u32> {
        let minor = self.minor?;
        let named = self.kind == Kind::Char && self.major == Some(NVIDIA_MAJOR);
        (named && self.access.opens() && is_gpu_minor(minor)).then_some(minor)
    }

    /// Whether it speaks of GPUs without naming one.
    pub fn is_gpu_wildcard(&self) -> bool {
        self.access.opens() && self.meta().is_none_or(|m| m.is_gpu_wildcard())
    }

    /// What it speaks of; `None` for every device.
    pub fn meta(&self) -> Option<Meta> {
        let block = match self.kind {
            Kind::All => return None,
            Kind::Block => true,
            Kind::Char => false,
        };
        Some(Meta { block, major: self.major, minor: self.minor })
    }
}

/// The devices of one exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meta {
    /// Block devices; else character devices.
    pub block: bool,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
}

impl Meta {
    /// Whether it covers a GPU without naming one.
    pub fn is_gpu_wildcard(&self) -> bool {
        if self.block {
            return false;
        }
        match (self.major, self.minor) {
            (None, minor) => minor.is_none_or(is_gpu_minor),
            (Some(major), None) => major == NVIDIA_MAJOR,
            (Some(_), Some(_)) => false,
        }
    }
}

/// What a list of rules comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Whether what no exception names is allowed.
    pub allow_all: bool,
    /// What is otherwise, in the order of first mention.
    pub exceptions: Vec<(Meta, Access)>,
}

impl Verdict {
    /// Whether GPUs that no rule names are open.
    pub fn opens_gpus_unnamed(&self) -> bool {
        self.allow_all
            || self.exceptions.iter().any(|(m, access)| m.is_gpu_wildcard() && access.opens())
    }
}

/// Exceptions, found by what they are of: a list of many thousands is the user's to write, and takes no
/// longer for each of its rules than a short one.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    at: BTreeMap<Meta, usize>,
    list: Vec<(Meta, Access)>,
}

impl Exceptions {
    /// Allows, or where all is allowed denies, some more.
    pub(crate) fn add(&mut self, meta: Meta, access: Access) {
        let at = *self.at.entry(meta).or_insert(self.list.len());
        match self.list.get_mut(at) {
            Some((_, have)) => have.0 |= access.0,
            None => self.list.push((meta, access)),
        }
    }

    /// How many have been made.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    fn access(&self, meta: &Meta) -> Access {
        let have = self.at.get(meta).and_then(|at| self.list.get(*at));
        have.map_or(Access::default(), |(_, access)| *access)
    }

    fn remove(&mut self, meta: Meta, access: Access) -> Result<(), Hole> {
        let wider = [
            Meta { major: None, ..meta },
            Meta { minor: None, ..meta },
            Meta { major: None, minor: None, ..meta },
        ];
        if wider.iter().any(|m| *m != meta && self.access(m).0 & access.0 != 0) {
            return Err(Hole);
        }
        if let Some((_, have)) = self.at.get(&meta).and_then(|at| self.list.get_mut(*at)) {
            have.0 &= !access.0;
        }
        Ok(())
    }

    /// Those that are left, in the order of first mention.
    pub(crate) fn into_list(mut self) -> Vec<(Meta, Access)> {
        self.list.retain(|(_, have)| !have.is_empty());
        self.list
    }
}

/// The rules ask for a hole in a wildcard, which runc refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device rules take one device out of a wildcard, which no runtime can do")]
pub struct Hole;

/// Runs a list of rules. A list begins with nothing allowed.
///
/// # Errors
/// [`Hole`].
pub fn emulate(rules: impl IntoIterator<Item = Rule>) -> Result<Verdict, Hole> {
    let (mut allow_all, mut exceptions) = (false, Exceptions::default());
    for rule in rules {
        match rule.meta() {
            None => (allow_all, exceptions) = (rule.allow, Exceptions::default()),
            Some(meta) if rule.allow != allow_all => exceptions.add(meta, rule.access),
            Some(meta) => exceptions.remove(meta, rule.access)?,
        }
    }
    Ok(Verdict { allow_all, exceptions: exceptions.into_list() })
}

/// One node of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its path in the container, as written.
    pub path: String,
    /// A block device or a fifo; else a character device.
    pub other: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Node {
    /// Reads one node; `None` where it has no numbers that can be a device's.
    pub fn read(value: &Value) -> Option<Self> {
        let number = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Some(0),
            Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
        };
        Some(Self {
            path: value.get("path").and_then(Value::as_str).unwrap_or_default().to_owned(),
            other: matches!(value.get("type").and_then(Value::as_str), Some("b" | "p")),
            major: number("major")?,
            minor: number("minor")?,
        })
    }

    /// The minor of the GPU that it is.
    pub fn gpu_minor(&self) -> Option<u32> {
        (!self.other && self.major == NVIDIA_MAJOR && is_gpu_minor(self.minor))
            .then_some(self.minor)
    }

    /// The minor of the nvidia-caps node that it is.
    pub fn caps_minor(&self, caps_major: Option<u32>) -> Option<u32> {
        (!self.other && Some(self.major) == caps_major).then_some(self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: Value) -> Rule {
        Rule::read(&text)
    }

    #[test]
    fn dockers_spellings_of_a_wildcard_are_one() {
        for every in [
            json!({"allow": true, "access": "rwm"}),
            json!({"allow": true, "type": "a", "access": "rwm"}),
            json!({"allow": true, "type": "", "major": -1, "minor": -1, "access": "rwm"}),
            json!({"allow": true, "type": "a", "major": 1, "minor": 3, "access": "r"}),
            json!({"allow": true, "type": "c", "major": -1, "minor": -1, "access": "rwm"}),
            json!({"allow": true, "type": "c", "access": "rw"}),
            json!({"allow": true, "type": "c", "major": 195}),
            json!({"allow": true, "type": "c", "major": null, "minor": 3}),
            json!({"allow": true, "type": "c", "major": "195", "minor": "*"}),
        ] {
            assert!(rule(every.clone()).is_gpu_wildcard(), "{every}");
            assert!(emulate([rule(every.clone())]).unwrap().opens_gpus_unnamed(), "{every}");
        }
        for none in [
            json!({"allow": true, "type": "c", "major": 195, "minor": 3, "access": "rwm"}),
            json!({"allow": true, "type": "c", "major": -1, "minor": 255, "access": "rwm"}),
            json!({"allow": true, "type": "c", "access": "m"}),
            json!({"allow": true, "type": "b", "access": "rwm"}),
            json!({"allow": true, "type": "c", "major": 194, "access": "rwm"}),
        ] {
            assert!(!rule(none.clone()).is_gpu_wildcard(), "{none}");
        }
    }

    #[test]
    fn a_list_is_run_as_runc_runs_it() {
        let c = |allow, major, minor| Rule {
            allow,
            kind: Kind::Char,
            major,
            minor,
            access: Access::ALL,
        };
        let a = |allow| Rule { kind: Kind::All, ..c(allow, None, None) };
        let run = |list: &[Rule]| emulate(list.iter().copied());
        assert_eq!(run(&[]).unwrap(), Verdict::default());
        assert!(run(&[c(true, Some(1), Some(3)), a(true)]).unwrap().exceptions.is_empty());
        assert!(!run(&[a(true), a(false)]).unwrap().allow_all);
        assert_eq!(run(&[c(true, None, None), c(false, Some(10), Some(229))]), Err(Hole));
        assert_eq!(run(&[a(true), c(false, Some(1), None), c(true, Some(1), Some(3))]), Err(Hole));
        assert_eq!(run(&[a(true), c(false, Some(10), Some(229))]).unwrap().exceptions.len(), 1);
        assert_eq!(run(&[c(true, Some(1), None), c(false, Some(1), None)]).unwrap().exceptions, []);
    }

    #[test]
    fn a_rule_reads_back_as_it_was_written() {
        for kind in [Kind::All, Kind::Block, Kind::Char] {
            let one = Rule { allow: true, kind, major: None, minor: None, access: Access(3) };
            assert_eq!(Rule::read(&one.to_value()), one);
        }
    }
}
