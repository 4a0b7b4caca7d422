//! stop and restart.

use std::time::Duration;

use bollard::query_parameters as query;

use super::transport::ApiVersion;
use super::{Docker, DockerError, START_LIMIT, checked};

/// What a stop or restart may take beyond its grace.
const STOP_EXTRA: u64 = 30;
/// The limit of a stop whose grace has no end.
pub(super) const ENDLESS: u64 = 24 * 3600;
/// The first version of the API whose stop and restart heed a signal: of Engine 23.0.
const SIGNALS: ApiVersion = (1, 42);

/// How a container is asked to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Seconds before the kill (-1: no kill); the container's own setting when absent.
    pub grace: Option<i32>,
    /// The signal, as `INT`, `SIGINT` or `2`; the container's own when absent.
    pub signal: Option<String>,
}

impl Docker {
    /// Stops a container, with `grace` seconds before the kill (-1: no kill), else the container's
    /// own setting; one that does not run is left as it is.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn stop(&self, id_or_name: &str, grace: Option<i32>) -> Result<(), DockerError> {
        self.stop_as(id_or_name, &Stop { grace, signal: None })
    }

    /// As [`Self::stop`], by a signal that is named.
    ///
    /// # Errors
    /// [`DockerError`]; [`DockerError::Refused`] where the Engine is too old to be told the signal.
    pub fn stop_as(&self, id_or_name: &str, how: &Stop) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        let signal = self.taken(how)?;
        let limit = self.stop_limit(id_or_name, how.grace)?;
        let options = query::StopContainerOptions { t: how.grace, signal };
        self.typed(limit, |d| async move { d.stop_container(&name, Some(options)).await })
    }

    /// Stops and starts a container in one call.
    ///
    /// # Errors
    /// As for start, and as for [`Self::stop_as`].
    pub fn restart(&self, id_or_name: &str, how: &Stop) -> Result<(), DockerError> {
        let name = checked(id_or_name)?;
        let signal = self.taken(how)?;
        let limit = self.stop_limit(id_or_name, how.grace)? + START_LIMIT;
        let options = query::RestartContainerOptions { t: how.grace, signal };
        self.typed(limit, |d| async move { d.restart_container(&name, Some(options)).await })
    }

    /// The signal of a stop, where this Engine heeds one: an older one drops it without a word.
    fn taken(&self, how: &Stop) -> Result<Option<String>, DockerError> {
        if how.signal.is_some() && self.client()?.1 < SIGNALS {
            return Err(DockerError::Refused {
                status: 400,
                message: "this Docker Engine takes no signal for a stop: it is older than 23.0"
                    .into(),
            });
        }
        Ok(how.signal.clone())
    }

    /// How long a stop may take.
    fn stop_limit(&self, name: &str, grace: Option<i32>) -> Result<Duration, DockerError> {
        let grace = match grace {
            Some(grace) => i64::from(grace),
            None => self.inspect(name)?.map_or(10, |shown| shown.stop_timeout()),
        };
        let grace = u64::try_from(grace).unwrap_or(ENDLESS).min(ENDLESS);
        Ok(Duration::from_secs(grace + STOP_EXTRA))
    }
}
