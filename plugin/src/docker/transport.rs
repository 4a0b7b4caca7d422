//! The way to the Engine: one HTTP connection a call over its Unix socket.
//!
//! It is ours and not bollard's so that the answers to inspect and the bodies of create can pass
//! as they are, without bollard's models dropping fields they do not know; bollard's own calls go
//! through the same function.

use std::path::{Path, PathBuf};

use bollard::BollardRequest;
use bollard::errors::Error;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::DockerError;

/// A version of the Engine's API: 1.41 is 20.10's.
pub(super) type ApiVersion = (u32, u32);

/// The path of the socket that `unix:///...` names.
pub(super) fn socket_path(host: &str) -> Result<PathBuf, DockerError> {
    match host.strip_prefix("unix://") {
        Some(path) if Path::new(path).is_absolute() => Ok(PathBuf::from(path)),
        _ => Err(DockerError::Unreachable(
            host.to_owned(),
            "docker.host in the config must have the form unix:///path".to_owned(),
        )),
    }
}

/// Sends one request and returns the head of its answer; the body is still to come. The path of the
/// request is put under the version of the API, where one is given.
pub(super) async fn send(
    socket: PathBuf,
    version: Option<ApiVersion>,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, Error> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let path = match version {
        Some((major, minor)) => format!("/v{major}.{minor}{path}"),
        None => path.to_owned(),
    };
    *request.uri_mut() = path.parse()?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let stream = UnixStream::connect(&socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Reads `1.41` of the Api-Version header.
pub(super) fn read_version(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unix_socket_with_an_absolute_path_is_an_endpoint() {
        assert_eq!(socket_path("unix:///run/d.sock").unwrap(), Path::new("/run/d.sock"));
        for bad in ["tcp://1.2.3.4:2375", "unix://d.sock", "/run/d.sock", ""] {
            assert!(socket_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(read_version("1.41"), Some((1, 41)));
        assert!(read_version("1.9") < read_version("1.41"));
        assert_eq!(read_version("x"), None);
    }
}
