//! `docker gpuctl volume create`.

use gpuctl_ledger::model::{Backend, ByteSize, VolumeName};

use super::{Session, backend, change, made};
use crate::engine::api::{Failure, VolumeRequest};

/// Create a volume with a size
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The volume's name; in Docker it is NAME-0
    name: VolumeName,
    /// How much fits in: 20GB, 1.5TB, 500MiB, 1073741824
    #[arg(short, long)]
    size: ByteSize,
    /// What keeps it to that: size or image [default: what this host can do]
    #[arg(long, value_parser = backend)]
    backend: Option<Backend>,
    /// Set metadata for the volume: KEY=VALUE
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Take the room on the host's disk at once
    #[arg(long)]
    allocate: bool,
}

pub(super) fn create(session: &Session, args: Args) -> Result<u8, Failure> {
    let pair = |label: &String| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (label.clone(), String::new()),
    };
    let labels: Vec<(String, String)> = args.labels.iter().map(pair).collect();
    if let Some((key, _)) =
        labels.iter().find(|(key, _)| key.is_empty() || key.starts_with("gpuctl."))
    {
        return Err(Failure::new(format!("the label {key:?} cannot be set"))
            .hint("labels that begin with gpuctl. are ours")
            .code(super::super::WRONG_FLAG));
    }
    let request = VolumeRequest::Create {
        name: args.name,
        size: args.size,
        backend: args.backend,
        labels,
        allocate: args.allocate,
    };
    made(change(session, request)?)
}
