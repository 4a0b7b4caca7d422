//! Containers that share the network of one that is changed: Docker leaves them with what the old one had,
//! and says nothing.

use gpuctl_ledger::model::DockerName;

use super::context::Context;
use super::names::{self, Found};
use crate::docker::Summary;

/// What becomes of the network that is shared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Network<'a> {
    /// The container is restarted: it gets another one.
    Restarted,
    /// A container with this name takes its place.
    Replaced(&'a DockerName),
}

/// What those lose, and what brings it back: a line for each of them. None where Docker does not tell.
pub(super) fn told(ctx: &Context, found: &Found, network: Network<'_>) -> Vec<String> {
    let Ok(rows) = ctx.docker().and_then(|docker| Ok(docker.list(true)?)) else {
        return Vec::new();
    };
    let managed = |row: &Summary| {
        let name = row.names.first()?;
        let other = names::existing(ctx, name).ok().filter(|other| other.id.as_str() == row.id)?;
        Some(other.record.record.name.to_string())
    };
    lines(&rows, (found.id.as_str(), &found.docker_name), network, managed)
}

fn lines(
    rows: &[Summary],
    (id, docker_name): (&str, &DockerName),
    network: Network<'_>,
    managed: impl Fn(&Summary) -> Option<String>,
) -> Vec<String> {
    let shares = |row: &&Summary| row.network.strip_prefix("container:") == Some(id);
    // What does not run finds the network of a container that was restarted at its next start.
    let loses = |row: &&Summary| row.running || matches!(network, Network::Replaced(_));
    let line = |row: &Summary| {
        let other = row.names.first().map_or(row.id.as_str(), String::as_str);
        let loses = format!("{other} shares the network of {docker_name} and loses it");
        match (network, managed(row)) {
            (Network::Restarted, Some(name)) => {
                format!("{loses} until docker gpuctl restart {name}")
            }
            (Network::Restarted, None) => format!("{loses} until docker restart {other}"),
            (Network::Replaced(to), Some(name)) => {
                format!("{loses}: docker gpuctl update {name} --replace gives it that of {to}")
            }
            (Network::Replaced(to), None) => {
                format!("{loses}: made anew with --network container:{to} it has that one's")
            }
        }
    };
    rows.iter().filter(shares).filter(loses).map(line).collect()
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::model::{ContainerName, Version};

    use super::*;

    #[test]
    fn who_shares_the_network_is_told_what_brings_it_back() {
        let row = |name: &str, network: &str, running: bool| Summary {
            id: format!("id of {name}"),
            names: vec![name.to_owned()],
            image: String::new(),
            status: String::new(),
            state: String::new(),
            ports: String::new(),
            running,
            labels: [].into(),
            network: network.to_owned(),
        };
        let rows = [
            row("side-3", "container:ab", true),
            row("web", "container:ab", true),
            row("idle", "container:ab", false),
            row("other", "container:cd", true),
            row("plain", "bridge", true),
        ];
        let managed = |row: &Summary| (row.names[0] == "side-3").then(|| "side".to_owned());
        let name = ContainerName::new("train").unwrap();
        let (old, new) = (DockerName::of(&name, Version(0)), DockerName::of(&name, Version(1)));
        let told = |network| lines(&rows, ("ab", &old), network, managed);
        assert_eq!(
            told(Network::Restarted),
            [
                "side-3 shares the network of train-0 and loses it until docker gpuctl restart side",
                "web shares the network of train-0 and loses it until docker restart web",
            ]
        );
        let replaced = told(Network::Replaced(&new));
        assert_eq!(replaced.len(), 3, "{replaced:?}");
        assert_eq!(
            replaced[0],
            "side-3 shares the network of train-0 and loses it: docker gpuctl update side --replace \
             gives it that of train-1"
        );
        assert_eq!(
            replaced[2],
            "idle shares the network of train-0 and loses it: made anew with --network \
             container:train-1 it has that one's"
        );
    }
}
