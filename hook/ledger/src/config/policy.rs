//! `[policy]`: what is granted to whom.

use serde::Deserialize;

/// What a bare request for a count of GPUs gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum BarePolicy {
    /// So many free ones.
    #[default]
    Assign,
    /// A refusal: GPUs only through `docker gpuctl`.
    Refuse,
}

/// What a request for all GPUs gets when not all are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllPolicy {
    /// A refusal that says what to type.
    #[default]
    Refuse,
    /// Those that are free, at least one.
    Free,
    /// So many free ones, as if that number had been asked for.
    Count(u32),
}

impl<'de> Deserialize<'de> for AllPolicy {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u32),
            Word(String),
        }
        match Raw::deserialize(d)? {
            Raw::Number(n) if n > 0 => Ok(Self::Count(n)),
            Raw::Word(w) if w == "refuse" => Ok(Self::Refuse),
            Raw::Word(w) if w == "free" => Ok(Self::Free),
            _ => Err(serde::de::Error::custom("all is \"refuse\", \"free\" or a number above 0")),
        }
    }
}

/// What a privileged container gets of GPUs that it holds no lease on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum PrivilegedPolicy {
    /// They are taken out of its device list and rules.
    #[default]
    Strip,
    /// Let be.
    Allow,
}

/// What a container gets whose image says `NVIDIA_VISIBLE_DEVICES=all`, and whose user asks for no GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ImageEnvPolicy {
    /// No GPU: many images say so and use none.
    #[default]
    Ignore,
    /// What `--gpus all` gets: see [`Policy::all`].
    Claim,
}

/// One entry of the exempt list: all fields given must match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exempt {
    /// The image: its id (`sha256:...`), or its name as `docker inspect` shows it in Config.Image. A
    /// name can be given to any image.
    pub image: Option<String>,
    /// The container's name in Docker.
    pub name: Option<String>,
}

/// `[policy]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// `docker run --gpus 2`.
    pub bare: BarePolicy,
    /// `docker run --gpus all`.
    pub all: AllPolicy,
    /// `docker run --privileged`.
    pub privileged: PrivilegedPolicy,
    /// An image's own `NVIDIA_VISIBLE_DEVICES=all`, under NVIDIA's runtime.
    pub image_env: ImageEnvPolicy,
    /// Containers that may use any GPU without a lease; each start is logged.
    pub exempt: Vec<Exempt>,
    /// Log what would have been done and change nothing.
    pub observe: bool,
}
