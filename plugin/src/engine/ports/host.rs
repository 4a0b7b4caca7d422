//! Which ports of the host are in use, and by whom: its sockets, and what Docker's containers publish.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use gpuctl_ledger::node::files;
use serde_json::Value;

use crate::docker::Inspect;
use crate::engine::api::Failure;
use crate::engine::context::Context;

/// The kernel's tables of sockets, and whether each is of TCP. The last two are not there without IPv6.
const TABLES: [(&str, bool, bool); 4] =
    [("tcp", true, true), ("udp", false, true), ("tcp6", true, false), ("udp6", false, false)];
/// Where they are: of this process's network namespace, which is the host's.
const NET: &str = "/proc/self/net";
/// Most of a table that is read, in bytes: some 400,000 sockets.
const LONGEST: u64 = 64 << 20;
/// How long all containers together are asked about.
const LIMIT: Duration = Duration::from_secs(20);

/// Ports of the host that sockets are bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sockets {
    /// By any socket: who binds to it is refused.
    pub(super) bound: BTreeSet<u16>,
    /// By one that takes connections, or datagrams of anybody: address and protocol.
    pub(super) open: BTreeSet<(SocketAddr, &'static str)>,
}

impl Sockets {
    /// Numbers and protocols of those that are open, whatever their addresses.
    pub(super) fn listening(&self) -> BTreeSet<(u16, &'static str)> {
        self.open.iter().map(|(at, protocol)| (at.port(), *protocol)).collect()
    }
}

/// Looks at the host's sockets.
///
/// # Errors
/// When the kernel's tables cannot be read: then it is not known what is free.
pub(super) fn sockets() -> Result<Sockets, Failure> {
    let mut found = Sockets::default();
    for (table, tcp, needed) in TABLES {
        let path = Path::new(NET).join(table);
        match files::read_bounded(&path, LONGEST) {
            Ok(text) => read(&String::from_utf8_lossy(&text), tcp, &mut found),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !needed => {}
            Err(e) => {
                let why = gpuctl_ledger::config::plain_io_error(&e);
                return Err(Failure::new(format!(
                    "which ports of the host are free cannot be seen: {}: {why}",
                    path.display()
                ))
                .hint("see that /proc is mounted; -p 2222:22 names a port itself"));
            }
        }
    }
    Ok(found)
}

/// Lines like `0: 0100007F:1F90 00000000:0000 0A ...`.
fn read(table: &str, tcp: bool, found: &mut Sockets) {
    const LISTEN: &str = "0A";
    const TIME_WAIT: &str = "06";
    // An unconnected socket of UDP.
    const CLOSE: &str = "07";
    for line in table.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(state)) = (fields.next(), fields.nth(1)) else { continue };
        let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        let Some(port) = port.filter(|port| *port > 0) else { continue };
        let protocol = match (tcp, state) {
            // Nobody has it any more, and a listener may take it.
            (true, TIME_WAIT) => continue,
            (true, LISTEN) => Some("tcp"),
            (false, CLOSE) => Some("udp"),
            _ => None,
        };
        if let Some(protocol) = protocol {
            let at = local.rsplit_once(':').and_then(|(ip, _)| address(ip));
            found.open.extend(at.map(|ip| (SocketAddr::new(ip, port), protocol)));
        }
        found.bound.insert(port);
    }
}

/// An address as the kernel's tables have it: numbers of 32 bits, each as this machine has it in memory.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The ports of the host that Docker's containers publish, running or not, and which does: one that is
/// stopped wants its ports back when it starts. One that a change has left behind is never started again.
///
/// # Errors
/// The Engine's, the ledger's, and when it is too slow to say of all.
pub(super) fn published(ctx: &Context) -> Result<BTreeMap<u16, String>, Failure> {
    let until = Instant::now() + LIMIT;
    let docker = ctx.docker()?;
    let mut found = BTreeMap::new();
    for row in docker.list(true)? {
        if Instant::now() >= until {
            return Err(Failure::new(format!(
                "the Engine did not say within {} s which ports its containers publish",
                LIMIT.as_secs()
            ))
            .hint("try again; -p 2222:22 names a port itself"));
        }
        let Some(shown) = docker.inspect(&row.id)? else { continue };
        let ports = bindings(&shown.0);
        if ports.is_empty() || retired(ctx, &shown)? {
            continue;
        }
        for port in ports {
            found.insert(port, shown.name().to_owned());
        }
    }
    Ok(found)
}

fn retired(ctx: &Context, shown: &Inspect) -> Result<bool, Failure> {
    let Some(id) = shown.id() else { return Ok(false) };
    Ok(ctx.ledger.binding(&id)?.is_some_and(|at| at.record.retired))
}

/// The ports of the host in an inspect, or in the spec of a version: what was asked for.
pub(super) fn bindings(spec: &Value) -> BTreeSet<u16> {
    let ports = spec.pointer("/HostConfig/PortBindings").and_then(Value::as_object);
    let lists = ports.into_iter().flatten().filter_map(|(_, list)| list.as_array());
    let texts = lists.flatten().filter_map(|binding| binding.get("HostPort")?.as_str());
    texts.flat_map(range).collect()
}

/// `8080`, or `8000-8010`, of which Docker takes any; nothing where Docker is to choose from all.
fn range(text: &str) -> std::ops::RangeInclusive<u16> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first > 0 => first..=last,
        // No port at all.
        _ => std::ops::RangeInclusive::new(1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_tables_are_read() {
        let mut found = Sockets::default();
        let tcp = "  sl  local_address rem_address   st tx_queue\n   \
                   0: 00000000:4E21 00000000:0000 0A 00000000:00000000\n   \
                   1: 0100007F:4E22 0100007F:1F90 01 00000000:00000000\n   \
                   2: 0100007F:4E23 0100007F:1F90 06 00000000:00000000\n   torn";
        read(tcp, true, &mut found);
        let udp = "   sl  local_address\n  \
                   11: 00000000000000000000000001000000:4E24 00:0000 07 0:0\n";
        read(udp, false, &mut found);
        assert_eq!(found.bound, BTreeSet::from([20001, 20002, 20004]));
        assert_eq!(found.listening(), BTreeSet::from([(20001, "tcp"), (20004, "udp")]));
    }

    #[test]
    fn a_socket_of_this_very_process_is_seen() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0")
            .or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0"));
        let (tcp, udp) = (tcp.local_addr().unwrap().port(), udp.unwrap());
        let udp_port = udp.local_addr().unwrap().port();
        let seen = sockets().unwrap();
        assert!(seen.bound.contains(&tcp) && seen.listening().contains(&(tcp, "tcp")));
        assert!(seen.open.contains(&(([127, 0, 0, 1], tcp).into(), "tcp")));
        assert!(seen.open.contains(&(udp.local_addr().unwrap(), "udp")));
        assert!(seen.bound.contains(&udp_port) && seen.listening().contains(&(udp_port, "udp")));
    }

    #[test]
    fn what_a_container_publishes_is_read_whether_it_runs_or_not() {
        let spec = json!({"HostConfig": {"PortBindings": {
            "22/tcp": [{"HostIp": "", "HostPort": "20001"}, {"HostIp": "::1", "HostPort": "20003"}],
            "53/udp": [{"HostIp": "", "HostPort": ""}, {"HostIp": "", "HostPort": "0"}],
            "80/tcp": [{"HostIp": "", "HostPort": "30000-30002"}], "81/tcp": null,
        }}});
        let ports: Vec<u16> = bindings(&spec).into_iter().collect();
        assert_eq!(ports, [20001, 20003, 30000, 30001, 30002]);
        assert!(bindings(&json!({"HostConfig": {"PortBindings": null}})).is_empty());
    }
}
