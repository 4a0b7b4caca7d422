//! Volumes with a size: what keeps them to it. Which of a volume's versions is made when, and what
//! becomes of one whose maker died, is the engine's affair (`engine/volume`); see docs/adr/0016.

mod engine_view;
pub(crate) mod image;
mod mounts;
mod programs;
pub(crate) mod rules;
pub(crate) mod size;
mod unit;
pub(crate) mod usage;

use std::path::{Path, PathBuf};

use gpuctl_ledger::model::{Backend, ByteSize, Token, VolumeVersionRecord};
use serde_json::Value;

use crate::docker::{Docker, DockerError};
use crate::engine::api::Failure;

pub(crate) use engine_view::hides as engine_hides;
pub(crate) use mounts::mount_of;
pub(crate) use programs::missing as missing_programs;

/// The label of our Docker volumes that carries the token of the operation that made them.
pub(crate) const OPERATION_LABEL: &str = "gpuctl.operation";

/// One version of a volume that is to be, or is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Spec {
    /// Its name in Docker: `data-3`.
    pub(crate) docker_name: String,
    /// What keeps it to its size.
    pub(crate) backend: Backend,
    /// How much fits in.
    pub(crate) size: ByteSize,
    /// The user's labels.
    pub(crate) labels: Vec<(String, String)>,
    /// What the backend needs to find it; its own affair.
    pub(crate) detail: Value,
}

impl Spec {
    /// Of a version that was made; `None` of one that nothing keeps to a size.
    pub(crate) fn of(record: &VolumeVersionRecord) -> Option<Self> {
        Some(Self {
            docker_name: record.docker_name.clone(),
            backend: record.backend,
            size: record.size?,
            labels: Vec::new(),
            detail: record.detail.clone(),
        })
    }
}

/// Why a volume was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MakeError {
    /// Under this name Docker would not keep it to its size: another name has to be taken.
    Unlimited,
    /// For this reason.
    Failed(Failure),
}

impl From<Failure> for MakeError {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}

impl From<DockerError> for MakeError {
    fn from(why: DockerError) -> Self {
        Self::Failed(why.into())
    }
}

/// Whether the user has given up; asked while something takes long.
pub(crate) type GivenUp<'a> = &'a dyn Fn() -> bool;

/// What keeps a volume to its size. All of it may be done again, also after it was broken off.
pub(crate) trait Sizing {
    /// Makes sure that nothing of its name is there: what is would be taken for what an operation has
    /// made, and undone with it.
    ///
    /// # Errors
    /// [`Failure`], where something is.
    fn check_free(&self, spec: &Spec) -> Result<(), Failure>;

    /// Makes one with nothing in it, and its Docker volume, which gets the token as a label. It is
    /// kept to its size from now on. What finds it again.
    ///
    /// # Errors
    /// [`MakeError`]; then what was made is for [`Sizing::remove`].
    fn make(&self, spec: &Spec, token: &Token, given_up: GivenUp<'_>) -> Result<Value, MakeError>;

    /// Sees to it that its content can be reached, also after a reboot, and says where.
    ///
    /// # Errors
    /// [`Failure`].
    fn content(&self, spec: &Spec) -> Result<PathBuf, Failure>;

    /// What it has room for, and what of that is used; `None` where it is not mounted.
    ///
    /// # Errors
    /// [`Failure`].
    fn usage(&self, spec: &Spec) -> Result<Option<usage::Usage>, Failure>;

    /// Has all of its content written to the disk.
    ///
    /// # Errors
    /// [`Failure`]: the disk may be full.
    fn sync(&self, spec: &Spec) -> Result<(), Failure>;

    /// Removes it without a trace, where nobody uses it. With a token the Docker volume only if it
    /// carries that.
    ///
    /// # Errors
    /// [`Failure`].
    fn remove(&self, spec: &Spec, token: Option<&Token>) -> Result<(), Failure>;
}

/// Refuses a name that Docker has a volume of.
fn check_docker_free(docker: &Docker, name: &str) -> Result<(), Failure> {
    if docker.volume(name)?.is_none() {
        return Ok(());
    }
    Err(Failure::new(format!("Docker has a volume {name} already")).hint(format!(
        "docker gpuctl volume adopt {name} takes it in; docker volume rm {name} removes it; or take another name"
    )))
}

/// Whether a Docker volume carries the token.
fn is_ours(volume: &Value, token: &Token) -> bool {
    volume.pointer(&format!("/Labels/{OPERATION_LABEL}")).and_then(Value::as_str)
        == Some(token.as_str())
}

/// Makes a Docker volume that is not there yet: Docker gives back one that is, and says nothing.
fn docker_volume(
    docker: &Docker,
    spec: &Spec,
    token: &Token,
    options: &[(&str, String)],
) -> Result<(), Failure> {
    let mut labels = spec.labels.clone();
    labels.push((OPERATION_LABEL.to_owned(), token.to_string()));
    let made = docker.create_volume(&spec.docker_name, options, &labels)?;
    if is_ours(&made, token) {
        keep_options(&made);
        return Ok(());
    }
    Err(Failure::new(format!("Docker has a volume {} already", spec.docker_name))
        .hint(format!("docker volume rm {}, or take another name", spec.docker_name)))
}

/// Brings Docker's file of a volume's options to the disk. Docker itself does not, and after a power cut
/// it does not start at all with one that is empty.
fn keep_options(made: &Value) {
    let place = made["Mountpoint"].as_str().map(Path::new).and_then(Path::parent);
    let Some(place) = place else { return };
    let file = place.join("opts.json");
    for path in [Some(file.as_path()), Some(place), place.parent()].into_iter().flatten() {
        // Where that cannot be done, it is as Docker left it.
        let _ = std::fs::File::open(path).and_then(|file| file.sync_all());
    }
}

/// Removes a Docker volume; one that is not there is no fault.
fn remove_docker_volume(docker: &Docker, name: &str, token: Option<&Token>) -> Result<(), Failure> {
    let Some(there) = docker.volume(name)? else { return Ok(()) };
    if token.is_some_and(|token| !is_ours(&there, token)) {
        return Ok(());
    }
    match docker.remove_volume(name) {
        Err(e) if !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}
