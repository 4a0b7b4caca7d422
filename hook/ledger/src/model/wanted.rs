//! GPUs asked for by what they are: `count=2,memory>=40GB,name=A100`, `mig=1g.10gb`, `shared`.

use serde::{Deserialize, Serialize};

use super::{Gpu, Invalid, MigDevice};

/// The longest name or profile that can be asked for, in characters.
const LONGEST: usize = 60;
/// What can stand in an attribute list, for people.
const KNOWN: &str = "count, memory, name, mig, shared; or device=0,1";

/// What kind of thing is asked for. They are never mixed in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Whole GPUs.
    #[default]
    Whole,
    /// MIG devices.
    Mig,
    /// A slot of a GPU that the config shares.
    Shared,
}

/// How two sizes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// At least.
    #[serde(rename = ">=")]
    AtLeast,
    /// At most.
    #[serde(rename = "<=")]
    AtMost,
    /// More than.
    #[serde(rename = ">")]
    More,
    /// Less than.
    #[serde(rename = "<")]
    Less,
    /// The same, rounded to the unit that was written: a card of 24564 MiB has 24GB.
    #[serde(rename = "=")]
    Same,
}

impl Comparison {
    const ALL: [(&'static str, Self); 5] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        (">", Self::More),
        ("<", Self::Less),
        ("=", Self::Same),
    ];

    fn sign(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("=", |(sign, _)| sign)
    }
}

/// A bound on a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBound {
    /// How it is compared.
    pub is: Comparison,
    /// How many of the unit.
    pub amount: u64,
    /// The unit as a power of two: 30 is GB, which is 1024 MB here as with Docker; 0 is bytes.
    pub shift: u32,
}

/// Units of memory, and how many bits they shift. What is binary by name means the same.
const UNITS: [(&str, u32); 13] = [
    ("kib", 10),
    ("mib", 20),
    ("gib", 30),
    ("tib", 40),
    ("kb", 10),
    ("mb", 20),
    ("gb", 30),
    ("tb", 40),
    ("k", 10),
    ("m", 20),
    ("g", 30),
    ("t", 40),
    ("b", 0),
];

impl MemoryBound {
    fn read(is: Comparison, text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(name, shift)| Some((lower.strip_suffix(name)?, *shift)));
        let (number, shift) = unit.unwrap_or((&lower, 0));
        let amount: u64 = number.trim().parse().ok()?;
        (amount.leading_zeros() >= shift).then_some(Self { is, amount, shift })
    }

    /// Whether memory of so many bytes is within it.
    pub fn holds(&self, memory: u64) -> bool {
        let (memory, shift) = (u128::from(memory), self.shift.min(63));
        let wanted = u128::from(self.amount) << shift;
        match self.is {
            Comparison::AtLeast => memory >= wanted,
            Comparison::AtMost => memory <= wanted,
            Comparison::More => memory > wanted,
            Comparison::Less => memory < wanted,
            Comparison::Same => (memory + (1u128 << shift) / 2) >> shift == u128::from(self.amount),
        }
    }
}

impl std::fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.shift {
            10 => "KB",
            20 => "MB",
            30 => "GB",
            40 => "TB",
            _ => "",
        };
        write!(f, "memory{}{}{unit}", self.is.sign(), self.amount)
    }
}

/// So many of a kind, by what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// How many; never 0.
    pub count: u32,
    /// Of which kind.
    #[serde(default)]
    pub kind: Kind,
    /// All of these hold for the memory of each: of the MIG device where it is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<MemoryBound>,
    /// Part of the GPU's model, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The MIG profile: `1g.10gb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

impl Wanted {
    /// So many of a kind, whatever they are.
    pub fn any(kind: Kind, count: u32) -> Self {
        Self { count, kind, memory: Vec::new(), name: None, profile: None }
    }

    /// Whether a GPU, or a MIG device of it, is one of these.
    pub fn fits(&self, gpu: &Gpu, mig: Option<&MigDevice>) -> bool {
        let memory = mig.map_or(gpu.memory, |mig| mig.memory);
        let same = |profile: &String| mig.is_some_and(|m| m.profile.eq_ignore_ascii_case(profile));
        self.memory.iter().all(|bound| bound.holds(memory))
            && self.name.as_ref().is_none_or(|name| {
                gpu.model.to_ascii_lowercase().contains(&name.to_ascii_lowercase())
            })
            && self.profile.as_ref().is_none_or(same)
    }

    /// What each is to be, as it is written; nothing where anything will do.
    pub fn attributes(&self) -> String {
        let memory = self.memory.iter().map(ToString::to_string);
        let name = self.name.iter().map(|name| format!("name={name}"));
        let profile = self.profile.iter().map(|profile| format!("mig={profile}"));
        memory.chain(name).chain(profile).collect::<Vec<_>>().join(",")
    }

    /// Reads an attribute list.
    ///
    /// # Errors
    /// [`Invalid`]: which attribute is wrong and why.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let bad = |why: String| Invalid::new("--gpus value", text, why);
        let mut wanted = Self::any(Kind::Whole, 1);
        let mut counts: Vec<u32> = Vec::new();
        let mut kinds: Vec<Kind> = Vec::new();
        for item in text.split(',').map(str::trim) {
            let at = item.find(['<', '>', '=']).unwrap_or(item.len());
            let (key, rest) = item.split_at(at);
            let sign = Comparison::ALL
                .iter()
                .find_map(|(sign, is)| Some((*is, rest.strip_prefix(sign)?.trim())));
            let key = key.trim().to_ascii_lowercase();
            let plain = || match sign {
                Some((Comparison::Same, value)) if !value.is_empty() => Ok(value),
                _ => Err(bad(format!("needs {key}=..."))),
            };
            match key.as_str() {
                "" => return Err(bad("has an empty part".into())),
                "count" => {
                    let number = plain()?.parse().map_err(|_| {
                        bad("has a count that is no number beside other attributes".into())
                    });
                    counts.push(number?);
                }
                number if sign.is_none() && number.parse::<u32>().is_ok() => {
                    counts.extend(number.parse::<u32>());
                }
                "memory" => {
                    let bound = sign.and_then(|(is, value)| MemoryBound::read(is, value));
                    let how =
                        "has memory that cannot be read: memory>=40GB, with >=, >, <=, < or =";
                    wanted.memory.push(bound.ok_or_else(|| bad(how.into()))?);
                }
                "name" => {
                    wanted.name = Some(word(plain()?).ok_or_else(|| {
                        bad(format!("has a name that is no text of at most {LONGEST} characters"))
                    })?)
                }
                "mig" => {
                    kinds.push(Kind::Mig);
                    match sign {
                        None => {}
                        Some(_) => match plain()?.parse() {
                            Ok(number) => counts.push(number),
                            Err(_) => wanted.profile = word(plain()?),
                        },
                    }
                }
                "shared" if sign.is_none() => kinds.push(Kind::Shared),
                "shared" => {
                    return Err(bad("asks for more: shared is one slot, without a value".into()));
                }
                "device" => {
                    return Err(bad(
                        "has device= beside other attributes, and it stands alone".into()
                    ));
                }
                "all" => {
                    return Err(bad("has all beside other attributes, and it stands alone".into()));
                }
                other => return Err(bad(format!("knows no {other:?}; there are {KNOWN}"))),
            }
        }
        match (counts.as_slice(), kinds.as_slice()) {
            ([_, _, ..], _) => return Err(bad("says twice how many".into())),
            (_, [_, _, ..]) => return Err(bad("asks for more than one kind".into())),
            ([0], _) => return Err(bad("asks for none of a kind; --gpus 0 is no GPU".into())),
            _ => {}
        }
        wanted.kind = kinds.first().copied().unwrap_or_default();
        wanted.count = counts.first().copied().unwrap_or(1);
        if wanted.kind == Kind::Shared && wanted.count != 1 {
            return Err(bad("asks for more than one slot: a container gets one".into()));
        }
        Ok(wanted)
    }
}

/// A value that may be shown and compared.
fn word(text: &str) -> Option<String> {
    let fits = text.chars().count() <= LONGEST && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let bare_mig = self.kind == Kind::Mig && self.profile.is_none();
        match self.kind {
            Kind::Shared => parts.push("shared".into()),
            _ if bare_mig => parts.push(format!("mig={}", self.count)),
            Kind::Mig if self.count == 1 => {}
            _ => parts.push(format!("count={}", self.count)),
        }
        parts.extend(Some(self.attributes()).filter(|text| !text.is_empty()));
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_printed_as_they_are_read() {
        for text in [
            "count=2,memory>=40GB,name=A100",
            "count=1,memory<24GB",
            "count=1,memory>1TB,memory<=3TB",
            "count=3,memory=24564MB",
            "mig=2",
            "mig=1g.10gb",
            "count=2,mig=1g.10gb",
            "mig=1,memory>=10GB",
            "shared",
            "shared,name=rtx 4090",
        ] {
            assert_eq!(Wanted::read(text).unwrap().to_string(), text);
        }
        let same = |a: &str, b: &str| assert_eq!(Wanted::read(a), Wanted::read(b), "{a} {b}");
        same("2,name=A100", "count=2,name=A100");
        same(" memory >= 40gib , NAME=A100", "count=1,memory>=40GB,name=A100");
        same("mig", "mig=1");
        same("memory>=1024m", "memory>=1024MB");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        let why = |text: &str| Wanted::read(text).unwrap_err().to_string();
        assert!(why("count=2,colour=red").contains("count, memory, name, mig, shared"));
        assert!(why("memory>=forty").contains("memory>=40GB"));
        assert!(why("count=2,count=3").contains("twice"));
        assert!(why("mig,shared").contains("more than one kind"));
        assert!(why("shared,count=2").contains("a container gets one"));
        assert!(why("count=2,device=0").contains("alone"));
        for bad in [
            "",
            ",",
            "count=",
            "count>=2",
            "count=-1",
            "count=0,name=a",
            "name=",
            "name>a",
            "name=a\u{1b}[0m",
            "memory",
            "memory>=",
            "memory>=1.5GB",
            "memory>=-1GB",
            "memory=>1GB",
            "memory>=99999999999999999TB",
            "mig=0",
            "mig=",
            "mig>1",
            "shared=2",
            "all,name=x",
            "count=2,driver=nvidia",
        ] {
            assert!(Wanted::read(bad).is_err(), "{bad:?}");
        }
        assert!(why(&format!("name={}", "x".repeat(90))).contains("60"));
    }

    #[test]
    fn memory_is_compared_by_value_and_the_same_by_the_unit_written() {
        let holds = |text: &str, memory: u64| Wanted::read(text).unwrap().memory[0].holds(memory);
        let (a100, rtx) = (80u64 << 30, 24564u64 << 20);
        assert!(holds("memory>=80GB", a100) && !holds("memory>80GB", a100));
        assert!(holds("memory<=80GB", a100) && !holds("memory<80GB", a100));
        assert!(holds("memory>=40960MB", a100) && holds("memory>=1", 1) && !holds("memory>=1", 0));
        assert!(holds("memory=24GB", rtx) && !holds("memory=24GB", a100));
        assert!(holds("memory=24564MB", rtx) && !holds("memory=24563MB", rtx));
        assert!(!holds("memory>=24GB", rtx), "what it has is a little less");
        assert!(!holds("memory=1TB", u64::MAX));
    }

    #[test]
    fn a_record_with_an_attribute_that_is_not_known_is_refused() {
        let wanted = Wanted::read("count=2,memory>=40GB,name=A100").unwrap();
        let mut value = serde_json::to_value(&wanted).unwrap();
        assert_eq!(serde_json::from_value::<Wanted>(value.clone()).unwrap(), wanted);
        value["colour"] = "red".into();
        assert!(serde_json::from_value::<Wanted>(value).is_err());
    }
}
