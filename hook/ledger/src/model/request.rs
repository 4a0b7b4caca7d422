//! What is asked for.

use serde::{Deserialize, Serialize};

use super::{Invalid, Kind, Unit, Wanted};

/// One GPU as a user names it. The ledger knows GPUs by UUID only; the inventory resolves the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuRef {
    /// Its place in nvidia-smi's order. Index is not minor.
    Index(u32),
    /// Its UUID, or a MIG device's, as written (the case is not trusted).
    Uuid(String),
    /// Its PCI address, as written: `00000000:3B:00.0` or shorter.
    Pci(String),
    /// A MIG device by GPU index and its own: `0:1`.
    MigIndex(u32, u32),
    /// The minor number of its device node, /dev/nvidiaN: from `--device` and cgroup rules.
    Minor(u32),
}

impl std::str::FromStr for GpuRef {
    type Err = Invalid;

    /// Reads an index, a UUID in any case, a PCI address, or `index:mig`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid::new("GPU", text, why);
        if let Ok(index) = text.parse() {
            return Ok(Self::Index(index));
        }
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("GPU-") || upper.starts_with("MIG-") {
            Unit::new(text)?;
            return Ok(Self::Uuid(text.to_owned()));
        }
        if let Some((gpu, mig)) = text.split_once(':')
            && let (Ok(gpu), Ok(mig)) = (gpu.parse(), mig.parse())
            && !text.contains('.')
        {
            return Ok(Self::MigIndex(gpu, mig));
        }
        let pci = |b: u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
        if text.contains(':') && text.contains('.') && text.len() <= 32 && text.bytes().all(pci) {
            return Ok(Self::Pci(text.to_owned()));
        }
        Err(bad("is neither an index, a UUID (GPU-..., MIG-...), a PCI address nor index:mig"))
    }
}

impl std::fmt::Display for GpuRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(i) => write!(f, "{i}"),
            Self::Uuid(u) => f.write_str(u),
            Self::Pci(p) => f.write_str(p),
            Self::MigIndex(g, m) => write!(f, "{g}:{m}"),
            Self::Minor(m) => write!(f, "/dev/nvidia{m}"),
        }
    }
}

/// How many GPUs, or which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum GpuRequest {
    /// No GPU.
    #[default]
    None,
    /// Any so many; never 0, which is [`GpuRequest::None`].
    Count(u32),
    /// Every GPU of the node.
    All,
    /// Exactly these, in this order, without repetition.
    Named(Vec<GpuRef>),
    /// Any so many of a kind: by attributes, MIG devices, a slot of a shared GPU.
    Matching(Wanted),
}

impl GpuRequest {
    /// Any `n` GPUs; none for 0.
    pub fn count(n: u32) -> Self {
        if n == 0 { Self::None } else { Self::Count(n) }
    }

    /// How many GPUs that is, where the request itself tells.
    pub fn number(&self) -> Option<u32> {
        match self {
            Self::None => Some(0),
            Self::Count(n) => Some(*n),
            Self::All => None,
            Self::Named(list) => u32::try_from(list.len()).ok(),
            Self::Matching(wanted) => Some(wanted.count),
        }
    }

    /// One slot of any GPU that the config shares.
    pub fn shared() -> Self {
        Self::Matching(Wanted::any(Kind::Shared, 1))
    }

    /// Whether no GPU is asked for.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl std::str::FromStr for GpuRequest {
    type Err = Invalid;

    /// The value of `--gpus` as docker reads it, less drivers and capabilities:
    /// `2`, `all`, `device=0,GPU-...`, with or without quotes around the list; and what docker does
    /// not read: attributes, see [`Wanted::read`].
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid::new("--gpus value", text, why);
        let plain = text.trim().trim_matches('"').trim_matches('\'');
        match plain {
            "" => return Err(bad("is empty: give a number, all, or device=0,1")),
            "all" | "-1" => return Ok(Self::All),
            "none" => return Ok(Self::None),
            _ => {}
        }
        if let Some(n) = plain.strip_prefix("count=").filter(|n| !n.contains(',')) {
            return match n {
                "all" | "-1" => Ok(Self::All),
                _ => n.parse().map(Self::count).map_err(|_| bad("has a count that is no number")),
            };
        }
        if let Some(list) = plain.strip_prefix("device=") {
            let mut refs: Vec<GpuRef> = Vec::new();
            for item in list.trim_matches('"').split(',').map(str::trim) {
                if item == "all" {
                    return Ok(Self::All);
                }
                let one = item.parse()?;
                if refs.contains(&one) {
                    return Err(bad("names a GPU twice"));
                }
                refs.push(one);
            }
            return Ok(Self::Named(refs));
        }
        if let Ok(n) = plain.parse() {
            return Ok(Self::count(n));
        }
        let attributes = |c| matches!(c, ',' | '=' | '<' | '>');
        if plain.contains(attributes) || matches!(plain, "mig" | "shared") {
            return Wanted::read(plain).map(Self::Matching);
        }
        Err(bad(
            "is not a number, all, device=0,1, mig, shared, or attributes as count=2,memory>=40GB,name=A100",
        ))
    }
}

impl std::fmt::Display for GpuRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("0"),
            Self::Count(n) => write!(f, "{n}"),
            Self::All => f.write_str("all"),
            Self::Named(list) => {
                f.write_str("device=")?;
                for (i, one) in list.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{one}")?;
                }
                Ok(())
            }
            Self::Matching(wanted) => wanted.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_reads() {
        let r = |t: &str| t.parse::<GpuRequest>();
        assert_eq!(r("2").unwrap(), GpuRequest::Count(2));
        assert_eq!(r("0").unwrap(), GpuRequest::None);
        assert_eq!(r("all").unwrap(), GpuRequest::All);
        assert_eq!(r("count=3").unwrap(), GpuRequest::Count(3));
        assert_eq!(
            r("\"device=1,GPU-ab\"").unwrap(),
            GpuRequest::Named(vec![GpuRef::Index(1), GpuRef::Uuid("GPU-ab".into())])
        );
        assert_eq!(
            r("device=0:1,00000000:3B:00.0").unwrap(),
            GpuRequest::Named(vec![GpuRef::MigIndex(0, 1), GpuRef::Pci("00000000:3B:00.0".into())])
        );
        for bad in ["", "x", "-2", "device=", "device=0,0", "1.5", "device=../x", "count=x"] {
            assert!(r(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_of_before_are_read_and_those_of_later_are_refused() {
        let read = |text: &str| serde_json::from_str::<GpuRequest>(text);
        assert_eq!(read("\"none\"").unwrap(), GpuRequest::None);
        assert_eq!(read("\"all\"").unwrap(), GpuRequest::All);
        assert_eq!(read(r#"{"count":5}"#).unwrap(), GpuRequest::Count(5));
        let named = r#"{"named":[{"index":0},{"uuid":"GPU-a"},{"mig_index":[0,1]}]}"#;
        assert_eq!(read(named).unwrap().to_string(), "device=0,GPU-a,0:1");
        let ours: GpuRequest = "count=2,memory>=40GB,name=A100".parse().unwrap();
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(
            text,
            r#"{"matching":{"count":2,"kind":"whole","memory":[{"is":">=","amount":40,"shift":30}],"name":"A100"}}"#
        );
        assert_eq!(read(&text).unwrap(), ours);
        for later in [r#"{"by_weight":1}"#, r#"{"matching":{"count":1,"kind":"vgpu"}}"#] {
            assert!(read(later).is_err(), "{later}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["0", "2", "all", "device=1,GPU-ab,0:1", "device=GPU-a/1", "mig=1", "shared"] {
            assert_eq!(text.parse::<GpuRequest>().unwrap().to_string(), text);
        }
    }
}
