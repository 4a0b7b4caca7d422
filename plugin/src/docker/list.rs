//! Rows of `docker ps`.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerSummary, PortSummary};

/// A container as `docker ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// Its names without slashes; the first is its own, others are links.
    pub names: Vec<String>,
    /// Its image.
    pub image: String,
    /// `Up 5 minutes`, `Exited (0) 2 hours ago`.
    pub status: String,
    /// `running`, `exited`...
    pub state: String,
    /// `0.0.0.0:8080->80/tcp`.
    pub ports: String,
    /// Whether it runs.
    pub running: bool,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Its network, as it was asked for: `bridge`, `container:ID`.
    pub network: String,
}

pub(super) fn summary(raw: ContainerSummary) -> Summary {
    let names: Vec<String> = raw
        .names
        .unwrap_or_default()
        .iter()
        .map(|n| n.trim_start_matches('/').to_owned())
        .collect();
    // A link shows as another name with a slash in it: `web/db`.
    let (own, links): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| !n.contains('/'));
    let state = raw.state.map(|s| s.to_string()).unwrap_or_default();
    Summary {
        id: raw.id.unwrap_or_default(),
        names: own.into_iter().chain(links).collect(),
        image: raw.image.unwrap_or_default(),
        status: raw.status.unwrap_or_default(),
        ports: ports_text(raw.ports.unwrap_or_default()),
        running: matches!(state.as_str(), "running" | "paused" | "restarting" | "stopping"),
        state,
        labels: raw.labels.unwrap_or_default(),
        network: raw.host_config.and_then(|host| host.network_mode).unwrap_or_default(),
    }
}

/// Ports as the Docker CLI writes them: neighbours as one range, mappings to another port after
/// them.
fn ports_text(mut ports: Vec<PortSummary>) -> String {
    struct Range {
        first: u16,
        last: u16,
    }
    let kind = |p: &PortSummary| p.typ.map(|t| t.to_string()).unwrap_or_default();
    let host = |p: &PortSummary| match p.ip.as_deref().unwrap_or_default() {
        "" => None,
        v6 if v6.contains(':') => Some(format!("[{v6}]")),
        v4 => Some(v4.to_owned()),
    };
    let show = |(ip, typ): &(Option<String>, String), r: &Range| {
        let span =
            if r.first == r.last { r.first.to_string() } else { format!("{}-{}", r.first, r.last) };
        match ip {
            Some(ip) => format!("{ip}:{span}->{span}/{typ}"),
            None => format!("{span}/{typ}"),
        }
    };
    ports.sort_by_key(|p| (p.private_port, host(p), p.public_port, kind(p)));
    let mut open: BTreeMap<(Option<String>, String), Range> = BTreeMap::new();
    let mut texts = Vec::new();
    let mut mapped = Vec::new();
    for port in &ports {
        let (ip, typ, private) = (host(port), kind(port), port.private_port);
        if let (Some(ip), Some(public)) = (&ip, port.public_port)
            && public != private
        {
            mapped.push(format!("{ip}:{public}->{private}/{typ}"));
            continue;
        }
        let key = (ip, typ);
        match open.get_mut(&key) {
            Some(range) if u32::from(private) == u32::from(range.last) + 1 => range.last = private,
            Some(range) => {
                texts.push(show(&key, range));
                *range = Range { first: private, last: private };
            }
            None => {
                open.insert(key, Range { first: private, last: private });
            }
        }
    }
    texts.extend(open.iter().map(|(key, range)| show(key, range)));
    texts.extend(mapped);
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::PortSummaryTypeEnum;

    fn port(ip: &str, private: u16, public: u16) -> PortSummary {
        PortSummary {
            ip: Some(ip.to_owned()).filter(|i| !i.is_empty()),
            private_port: private,
            public_port: Some(public).filter(|p| *p > 0),
            typ: Some(PortSummaryTypeEnum::TCP),
        }
    }

    #[test]
    fn ports_read_as_in_docker_ps() {
        assert_eq!(ports_text(vec![]), "");
        assert_eq!(ports_text(vec![port("", 80, 0)]), "80/tcp");
        assert_eq!(
            ports_text(vec![port("0.0.0.0", 80, 8080), port("::", 80, 8080)]),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(
            ports_text(vec![port("", 81, 0), port("", 80, 0), port("", 90, 0)]),
            "80-81/tcp, 90/tcp"
        );
        assert_eq!(
            ports_text(vec![port("0.0.0.0", 80, 80), port("0.0.0.0", 81, 81)]),
            "0.0.0.0:80-81->80-81/tcp"
        );
    }

    #[test]
    fn a_links_name_is_not_taken_for_the_containers_own() {
        let shown = summary(ContainerSummary {
            names: Some(vec!["/web/db".into(), "/db".into()]),
            ..Default::default()
        });
        assert_eq!(shown.names, ["db", "web/db"]);
    }
}
