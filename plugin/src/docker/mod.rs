//! The Engine, as blocking calls from plain threads. The only place that names bollard.
//!
//! Nothing is said to the Engine before the first call. Every call has a limit of time and a limit
//! of answer size.

mod commit;
mod create;
mod error;
mod inspect;
mod list;
mod network;
mod stop;
mod transport;
mod volume;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters as query;
use bollard::{BollardRequest, ClientVersion};
use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::{ContainerId, DockerName, Timestamp};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use serde_json::Value;

pub use commit::{Commit, is_name as is_image_name};
pub use create::Changes;
pub use error::{DockerError, gpuctl_part, start_exit_code};
pub use inspect::Inspect;
pub use list::Summary;
pub use stop::Stop;
use transport::ApiVersion;
pub use volume::User;

/// The largest answer read, in bytes.
const LARGEST: usize = 32 << 20;
/// The limit of a start: pulling up networks and volumes included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The limit of adding up how much a container has written.
const SIZE_LIMIT: Duration = Duration::from_secs(600);

/// What the Engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// The runtimes of daemon.json: the name, and its program; empty where it has a shim of its own.
    pub runtimes: BTreeMap<String, String>,
    /// The runtime of containers that name none.
    pub default_runtime: String,
    /// Its data root.
    pub root: String,
    /// Its version: `20.10.24`.
    pub version: String,
    /// `cgroupfs`, `systemd` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// `overlay2`, or a containerd snapshotter: `overlayfs`.
    pub storage_driver: String,
}

/// A connection to one Engine; cheap until first used.
pub struct Docker {
    runtime: tokio::runtime::Runtime,
    host: String,
    socket: PathBuf,
    limit: Duration,
    client: OnceLock<(bollard::Docker, ApiVersion)>,
}

impl std::fmt::Debug for Docker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Docker").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Docker {
    /// The Engine at `unix:///...`; `limit` is what an ordinary call may take.
    ///
    /// # Errors
    /// When the endpoint is no Unix socket, or the process is out of descriptors.
    pub fn connect(host: &str, limit: Duration) -> Result<Self, DockerError> {
        let socket = transport::socket_path(host)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| DockerError::Unreachable(host.into(), plain_io_error(&e).into()))?;
        Ok(Self { runtime, host: host.to_owned(), socket, limit, client: OnceLock::new() })
    }

    /// The endpoint.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What inspect shows of a container, by id, id prefix or name; `None` when there is none.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn inspect(&self, id_or_name: &str) -> Result<Option<Inspect>, DockerError> {
        let Ok(name) = DockerName::new(id_or_name) else { return Ok(None) };
        match self.raw("GET", &format!("/containers/{name}/json"), None, self.limit) {
            Ok(Value::Object(fields)) => Ok(Some(Inspect(Value::Object(fields)))),
            Ok(_) => Err(DockerError::Odd("inspect gave no object".into())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// As [`Self::inspect`], with how much was written: the Engine adds that up.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn inspect_with_size(&self, id_or_name: &str) -> Result<Option<Inspect>, DockerError> {
        let Ok(name) = DockerName::new(id_or_name) else { return Ok(None) };
        match self.raw("GET", &format!("/containers/{name}/json?size=1"), None, SIZE_LIMIT) {
            Ok(shown) => Ok(Some(Inspect(shown))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All containers, or those that run.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn list(&self, all: bool) -> Result<Vec<Summary>, DockerError> {
        let options = query::ListContainersOptions { all, ..Default::default() };
        let rows =
            self.typed(self.limit, |d| async move { d.list_containers(Some(options)).await })?;
        Ok(rows.into_iter().map(list::summary).collect())
    }

    /// Starts a container; one that runs already is left as it is.
    ///
    /// # Errors
    /// [`DockerError`]; a refusal of our runtime is found by [`DockerError::from_gpuctl`].
    pub fn start(&self, id_or_name: &str) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        self.typed(START_LIMIT, |d| async move { d.start_container(&name, None).await })
    }

    /// Gives a container another name, running or not.
    ///
    /// # Errors
    /// [`DockerError::Conflict`] when the name is taken.
    pub fn rename(&self, id_or_name: &str, to: &DockerName) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        let options = query::RenameContainerOptions { name: to.to_string() };
        self.typed(self.limit, |d| async move { d.rename_container(&name, options).await })
    }

    /// Removes a container, a running one with `force`, its anonymous volumes with `volumes`.
    ///
    /// # Errors
    /// [`DockerError::Conflict`] when it runs, or when a removal is under way already.
    pub fn remove(&self, id_or_name: &str, force: bool, volumes: bool) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        let options = query::RemoveContainerOptions { v: volumes, force, link: false };
        let limit = self.limit.max(START_LIMIT);
        self.typed(limit, |d| async move { d.remove_container(&name, Some(options)).await })
    }

    /// Waits until a container does not run, or is no more; whether that came within `limit`.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn wait_not_running(&self, id_or_name: &str, limit: Duration) -> Result<bool, DockerError> {
        let name = checked(id_or_name)?;
        let path = format!("/containers/{name}/wait?condition=not-running");
        match self.raw("POST", &path, None, limit) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(true),
            Err(DockerError::TimedOut(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Freezes every process of a container.
    ///
    /// # Errors
    /// [`DockerError`], also of one that does not run or is paused.
    pub fn pause(&self, id_or_name: &str) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        self.typed(self.limit, |d| async move { d.pause_container(&name).await })
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// [`DockerError`], also of one that is not paused.
    pub fn unpause(&self, id_or_name: &str) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        self.typed(self.limit, |d| async move { d.unpause_container(&name).await })
    }

    /// Changes limits and restart policy of a container, running or not: the body as Docker's API has it.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn update(&self, id_or_name: &str, body: &Value) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        let path = format!("/containers/{name}/update");
        self.raw("POST", &path, Some(body), self.limit).map(drop)
    }

    /// Creates a container like the one that `recorded` is the inspect of, with these changes.
    ///
    /// # Errors
    /// [`DockerError::NotFound`] when the image is not there, [`DockerError::Conflict`] when the
    /// name is taken, [`DockerError::Odd`] when `recorded` is no inspect. A container whose
    /// networks could not all be connected is removed again.
    pub fn create_from(
        &self,
        name: &DockerName,
        recorded: &Value,
        changes: &Changes,
    ) -> Result<ContainerId, DockerError> {
        let (_, version) = self.client()?;
        let body = create::body(recorded, changes, *version)
            .ok_or_else(|| DockerError::Odd("the record is no container's inspect".into()))?;
        let path = format!("/containers/create?name={name}");
        let answer = self.raw("POST", &path, Some(&body.create), START_LIMIT)?;
        let id = create::created_id(&answer)
            .ok_or_else(|| DockerError::Odd("create gave no id".into()))?;
        for (network, endpoint) in &body.connect {
            let body = serde_json::json!({ "Container": id, "EndpointConfig": endpoint });
            let done = checked(network).and_then(|network| {
                self.raw("POST", &format!("/networks/{network}/connect"), Some(&body), self.limit)
            });
            if let Err(error) = done {
                self.remove(id.as_str(), true, true)?;
                return Err(error);
            }
        }
        Ok(id)
    }

    /// What the Engine says of itself.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn info(&self) -> Result<Info, DockerError> {
        let raw = self.typed(self.limit, |d| async move { d.info().await })?;
        let runtimes = raw.runtimes.unwrap_or_default().into_iter();
        Ok(Info {
            runtimes: runtimes.map(|(name, r)| (name, r.path.unwrap_or_default())).collect(),
            default_runtime: raw.default_runtime.unwrap_or_default(),
            root: raw.docker_root_dir.unwrap_or_default(),
            version: raw.server_version.unwrap_or_default(),
            cgroup_driver: raw.cgroup_driver.map(|d| d.to_string()).unwrap_or_default(),
            cgroup_version: raw.cgroup_version.map(|v| v.to_string()).unwrap_or_default(),
            storage_driver: raw.driver.unwrap_or_default(),
        })
    }

    /// The names of all images: `repository:tag`.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn image_tags(&self) -> Result<Vec<String>, DockerError> {
        let images = self.raw("GET", "/images/json", None, self.limit)?;
        let images = images.as_array().map(Vec::as_slice).unwrap_or_default();
        let tags = images.iter().filter_map(|image| image.get("RepoTags")?.as_array()).flatten();
        let named = |tag: &Value| tag.as_str().filter(|t| !t.contains("<none>")).map(str::to_owned);
        Ok(tags.filter_map(named).collect())
    }

    /// The id of an image; `None` when it is not here.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn image_id(&self, reference: &str) -> Result<Option<String>, DockerError> {
        let image = self.image(reference)?;
        Ok(image.and_then(|i| i.get("Id").and_then(Value::as_str).map(str::to_owned)))
    }

    /// What inspect shows of an image; `None` when it is not here.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn image(&self, reference: &str) -> Result<Option<Value>, DockerError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/:@-".contains(&b);
        if reference.is_empty() || reference.contains("..") || !reference.bytes().all(plain) {
            return Ok(None);
        }
        match self.raw("GET", &format!("/images/{reference}/json"), None, self.limit) {
            Ok(image) => Ok(Some(image)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A call through bollard's models.
    fn typed<T, F>(
        &self,
        limit: Duration,
        call: impl FnOnce(bollard::Docker) -> F,
    ) -> Result<T, DockerError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client()?.0.clone();
        self.bounded(limit, call(client))
    }

    /// A call whose JSON passes as it is. Null for an answer without a body.
    fn raw(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Value, DockerError> {
        let (_, version) = self.client()?;
        let bytes = self.exchange(method, path, body, Some(*version), limit)?.1;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| DockerError::Odd(e.to_string()))
    }

    /// Whether a container has files of its own, as `docker diff` tells them.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn has_files(&self, id: &str) -> Result<bool, DockerError> {
        let changes = self.raw("GET", &format!("/containers/{id}/changes"), None, self.limit)?;
        Ok(changes.as_array().is_some_and(|list| !list.is_empty()))
    }

    /// Whether the Engine has started this container since a time: of one that is gone already, its
    /// events are all that is left.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn has_started(&self, id: &ContainerId, since: Timestamp) -> Result<bool, DockerError> {
        let (_, version) = self.client()?;
        // An end that is past, or the Engine waits for it; a second of grace at the beginning.
        let from = since.millis() / 1000 - 1;
        let now = Timestamp::now().millis();
        let until = format!("{}.{:03}000000", now / 1000, now % 1000);
        let filters =
            format!("%7B%22container%22%3A%5B%22{id}%22%5D%2C%22event%22%3A%5B%22start%22%5D%7D");
        let path = format!("/events?since={from}&until={until}&filters={filters}");
        let (_, bytes) = self.exchange("GET", &path, None, Some(*version), self.limit)?;
        Ok(!bytes.is_empty())
    }

    /// One request; the Api-Version header and the body of a good answer.
    fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        version: Option<ApiVersion>,
        limit: Duration,
    ) -> Result<(Option<ApiVersion>, Bytes), DockerError> {
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        self.exchange_bytes(method, path, ("application/json", bytes), version, limit)
    }

    /// As [`Self::exchange`], with a body of any type.
    fn exchange_bytes(
        &self,
        method: &str,
        path: &str,
        (kind, bytes): (&str, Bytes),
        version: Option<ApiVersion>,
        limit: Duration,
    ) -> Result<(Option<ApiVersion>, Bytes), DockerError> {
        let odd = |e: hyper::http::Error| DockerError::Odd(e.to_string());
        let request: BollardRequest = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::CONTENT_TYPE, kind)
            .body(bollard::body_full(bytes))
            .map_err(odd)?;
        let (status, api, bytes) = self.bounded(limit, async {
            let answer = transport::send(self.socket.clone(), version, request).await?;
            let status = answer.status();
            let api = answer.headers().get("api-version").and_then(|v| v.to_str().ok());
            let api = api.and_then(transport::read_version);
            let bytes = Limited::new(answer.into_body(), LARGEST).collect().await;
            let bytes = bytes.map_err(|e| Error::DockerStreamError { error: e.to_string() })?;
            Ok((status, api, bytes.to_bytes()))
        })?;
        if status.is_success() || status.as_u16() == 304 {
            return Ok((api, bytes));
        }
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|v| v.get("message").and_then(Value::as_str).map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        Err(refusal(status.as_u16(), message))
    }

    fn bounded<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DockerError> {
        let ended = self.runtime.block_on(async { tokio::time::timeout(limit, call).await });
        match ended {
            Ok(result) => result.map_err(|e| self.error(e, limit)),
            Err(_) => Err(DockerError::TimedOut(limit)),
        }
    }

    /// bollard's client, with the version of the API that both sides know.
    fn client(&self) -> Result<&(bollard::Docker, ApiVersion), DockerError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let newest = bollard::API_DEFAULT_VERSION;
        let newest = (
            u32::try_from(newest.major_version).unwrap_or(1),
            u32::try_from(newest.minor_version).unwrap_or(41),
        );
        // As the Docker CLI does: the ping's header names the newest version the Engine knows.
        let (theirs, _) = self.exchange("GET", "/_ping", None, None, self.limit)?;
        let version = theirs.unwrap_or((1, 24)).min(newest);
        let socket = Arc::new(self.socket.clone());
        let client = bollard::Docker::connect_with_custom_transport(
            move |request: BollardRequest| {
                transport::send(socket.as_ref().clone(), Some(version), request)
            },
            Some("http://docker"),
            // Limits are set here, call by call.
            stop::ENDLESS * 2,
            &ClientVersion {
                major_version: usize::try_from(version.0).unwrap_or(1),
                minor_version: usize::try_from(version.1).unwrap_or(41),
            },
        )
        .map_err(|e| self.error(e, self.limit))?;
        Ok(self.client.get_or_init(|| (client, version)))
    }

    fn error(&self, error: Error, limit: Duration) -> DockerError {
        let unreachable = |why: &str| DockerError::Unreachable(self.host.clone(), why.to_owned());
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                refusal(status_code, message)
            }
            Error::IOError { err } => unreachable(plain_io_error(&err)),
            Error::HyperResponseError { .. } | Error::DockerStreamError { .. } => {
                unreachable("the connection broke off")
            }
            Error::RequestTimeoutError => DockerError::TimedOut(limit),
            other => DockerError::Odd(other.to_string()),
        }
    }
}

fn refusal(status: u16, message: String) -> DockerError {
    match status {
        404 => DockerError::NotFound(message),
        409 => DockerError::Conflict(message),
        _ => DockerError::Refused { status, message },
    }
}

/// An id or name that can stand in a path.
fn checked(text: &str) -> Result<String, DockerError> {
    match DockerName::new(text) {
        Ok(name) => Ok(name.into()),
        Err(e) => Err(DockerError::NotFound(e.to_string())),
    }
}

#[cfg(test)]
mod tests;
