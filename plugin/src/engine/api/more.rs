//! Requests beside running and changing containers, and what comes of them.

use gpuctl_ledger::model::{
    ByteSize, ContainerId, ContainerName, DockerName, GpuRequest, Timestamp, Version,
};
use serde::{Deserialize, Serialize};

/// See the module. Names are as the user wrote them: `foo`, `foo-N` or an id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum MoreRequest {
    /// pause.
    Pause {
        /// Containers.
        names: Vec<String>,
    },
    /// unpause.
    Unpause {
        /// Containers.
        names: Vec<String>,
    },
    /// commit.
    Commit(CommitRequest),
    /// ports.
    Ports,
    /// rename.
    Rename {
        /// The container.
        name: String,
        /// What it is to be called.
        new: ContainerName,
    },
    /// adopt.
    Adopt(AdoptRequest),
    /// prune.
    Prune(PruneRequest),
    /// clone.
    Clone(CloneRequest),
    /// snapshot.
    Snapshot {
        /// The container.
        name: String,
    },
}

/// clone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloneRequest {
    /// The container.
    pub name: String,
    /// The name of the second one.
    pub new: ContainerName,
    /// What that gets; as many as the first one where it is not given.
    pub gpus: Option<GpuRequest>,
    /// It gets copies of the volumes.
    #[serde(default)]
    pub volumes: bool,
}

/// prune.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Containers; all where there are none.
    pub names: Vec<String>,
    /// So many of the newest older versions of each stay.
    pub keep: usize,
    /// Only what was replaced before then.
    pub before: Option<Timestamp>,
    /// Of these, what is still so is removed; without them it is only told what would be.
    pub only: Option<Vec<PruneRow>>,
}

/// What is kept of one older version, and goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRow {
    /// Whose.
    pub name: ContainerName,
    /// Which version.
    pub version: Version,
    /// Since when it is not the current one.
    pub since: Timestamp,
    /// Its container.
    pub container: Option<ContainerId>,
    /// The name of that in Docker.
    pub docker_name: Option<String>,
    /// Whether a layer is kept.
    pub layer: bool,
    /// What both take.
    pub bytes: ByteSize,
}

/// adopt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// The container as Docker knows it: its name or id.
    pub container: String,
    /// What it is to be called; its name in Docker where that is not given.
    pub name: Option<ContainerName>,
    /// Its old name does not become an alias on its networks.
    pub no_alias: bool,
}

/// commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// The container.
    pub name: String,
    /// What the image is called: `repository[:tag]`; nothing where that is not given.
    pub image: Option<String>,
    /// Who made it.
    pub author: String,
    /// What it is.
    pub message: String,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    /// Whether the container is paused meanwhile.
    pub pause: bool,
}

/// What came of a [`MoreRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", content = "is", rename_all = "snake_case")]
pub enum MoreAnswer {
    /// Of commit: the image's id.
    Committed(String),
    /// Of ports, by number.
    Ports(Vec<PortRow>),
    /// Of prune: what would go, or went.
    Pruned(Vec<PruneRow>),
    /// Of snapshot.
    Kept {
        /// The version that has the files of now.
        docker_name: DockerName,
        /// How large they are.
        bytes: ByteSize,
    },
    /// Of rename, adopt and clone.
    Renamed {
        /// Its name.
        name: ContainerName,
        /// Its name in Docker; none where only history is left of it.
        docker_name: Option<DockerName>,
    },
}

/// A row of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The port on the host.
    pub port: u16,
    /// What is behind it: `22/tcp`.
    pub inside: String,
    /// Whose it is.
    pub name: ContainerName,
    /// Since when.
    pub since: Timestamp,
    /// Whether something listens there now.
    pub listening: bool,
}

/// A port of the host that is to be chosen: `-p auto:22`, `-p 127.0.0.1:auto:53/udp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoPort {
    /// The host's address that it is published on; all where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<std::net::IpAddr>,
    /// What is behind it, as Docker writes it: `22/tcp`.
    pub inside: String,
    /// The number that it had before: taken again where it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<u16>,
}

/// The word for a port that is to be chosen.
const AUTO: &str = "auto";

impl AutoPort {
    /// Reads a value of `--publish`; `None` for one that names its port itself, or leaves it to Docker.
    ///
    /// # Errors
    /// Why one with `auto` cannot be.
    pub fn read(value: &str) -> Option<Result<Self, String>> {
        let (host, inside) = if value.contains('=') {
            let part = |key: &str| {
                value.split(',').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='))
            };
            let inside = part("target").unwrap_or_default().to_owned();
            let inside = part("protocol").map_or(inside.clone(), |p| format!("{inside}/{p}"));
            (part("published")?.to_owned(), inside)
        } else {
            let (ports, protocol) = match value.split_once('/') {
                Some((ports, protocol)) => (ports, format!("/{protocol}")),
                None => (value, String::new()),
            };
            let (host, inside) = ports.rsplit_once(':')?;
            (host.to_owned(), format!("{inside}{protocol}"))
        };
        let ip = if host == AUTO { "" } else { host.strip_suffix(":auto")? };
        Some(Self::checked(ip, &inside))
    }

    fn checked(ip: &str, inside: &str) -> Result<Self, String> {
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        let ip = match bare {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("{text:?} is no IP address"))?),
        };
        let (port, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!("{protocol:?} is none of tcp, udp and sctp"));
        }
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| {
            "the container's port is one number: give -p auto:PORT for each of several".to_owned()
        })?;
        Ok(Self { ip, inside: format!("{port}/{protocol}"), wish: None })
    }

    /// The value of `--publish` once its number is known.
    pub fn published(&self, port: u16) -> String {
        match self.ip {
            None => format!("{port}:{}", self.inside),
            Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}:{}", self.inside),
            Some(ip) => format!("{ip}:{port}:{}", self.inside),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_read_in_every_form_of_dockers_own() {
        for (value, published) in [
            ("auto:22", "20001:22/tcp"),
            ("auto:53/UDP", "20001:53/udp"),
            ("127.0.0.1:auto:22", "127.0.0.1:20001:22/tcp"),
            ("[::1]:auto:22/sctp", "[::1]:20001:22/sctp"),
            ("published=auto,target=22", "20001:22/tcp"),
            ("target=53,published=auto,protocol=udp", "20001:53/udp"),
        ] {
            let read = AutoPort::read(value).expect(value).expect(value);
            assert_eq!(read.published(20001), published, "{value}");
        }
        for other in [
            "22",
            "8080:22",
            "127.0.0.1::22",
            "127.0.0.1:80:22/tcp",
            "published=8,target=9",
            "22/udp",
            "",
        ] {
            assert_eq!(AutoPort::read(other), None, "{other}");
        }
        for wrong in [
            "auto:",
            "auto:0",
            "auto:70000",
            "auto:22/icmp",
            "auto:20-22",
            "a.b:auto:22",
            "auto:auto:22",
            "published=auto",
        ] {
            assert!(AutoPort::read(wrong).expect(wrong).is_err(), "{wrong}");
        }
    }
}
