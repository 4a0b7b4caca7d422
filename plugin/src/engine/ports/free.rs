//! Whether ports of the host that a change names can be had: asked while the old container still runs,
//! since Docker says it only when the new one starts.
//!
//! What is not certain is left to Docker: then the change is undone. So only a socket that is open counts,
//! of the same protocol, on an address that surely collides.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gpuctl_ledger::model::ContainerName;
use serde_json::Value;

use super::{host, kept_for_another};
use crate::docker::Inspect;
use crate::engine::api::Failure;
use crate::engine::context::Context;

/// One port of the host: the address where one is named, number and protocol.
type Port = (Option<IpAddr>, u16, String);

/// Refuses a spec for a new version of a container, `shown` as it is now and created with `is`, that names
/// ports which it has not now and somebody else has.
///
/// # Errors
/// As said, and the ledger's, the Engine's, and the kernel's.
pub(in crate::engine) fn check(
    ctx: &Context,
    name: &ContainerName,
    (shown, is): (&Inspect, &Value),
    spec: &Value,
) -> Result<(), Failure> {
    let has: BTreeSet<(u16, String)> = ports(is, "/HostConfig/PortBindings")
        .chain(ports(&shown.0, "/NetworkSettings/Ports"))
        .map(|(_, number, protocol)| (number, protocol))
        .collect();
    let wanted: Vec<Port> = ports(spec, "/HostConfig/PortBindings")
        .filter(|(_, number, protocol)| !has.contains(&(*number, protocol.clone())))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for (_, number, _) in &wanted {
        kept_for_another(ctx, name, *number)?;
    }
    if !shown.running() {
        return Ok(());
    }
    let docker = ctx.docker()?;
    for row in docker.list(false)? {
        if shown.id().is_some_and(|id| id.as_str() == row.id) {
            continue;
        }
        let Some(other) = docker.inspect(&row.id)? else { continue };
        let theirs: Vec<Port> = ports(&other.0, "/NetworkSettings/Ports").collect();
        if let Some(port) = collision(&wanted, &theirs) {
            return Err(taken(port, other.name()));
        }
    }
    let open = host::sockets()?.open;
    let open: Vec<Port> = open
        .into_iter()
        .map(|(at, protocol)| (Some(at.ip()), at.port(), protocol.to_owned()))
        .collect();
    match collision(&wanted, &open) {
        Some(port) => Err(taken(port, "a process of this host")),
        None => Ok(()),
    }
}

fn taken((_, number, protocol): &Port, by: &str) -> Failure {
    Failure::new(format!("port {number}/{protocol} of this host is in use by {by}"))
        .hint("--publish auto:PORT takes one that is free, and keeps it")
}

/// The first of `wanted` that cannot be had beside these.
fn collision<'a>(wanted: &'a [Port], there: &[Port]) -> Option<&'a Port> {
    wanted.iter().find(|(ip, number, protocol)| {
        there.iter().any(|(theirs, port, of)| {
            port == number && of == protocol && theirs.is_none_or(|theirs| collide(*ip, theirs))
        })
    })
}

/// Whether an address that is asked for, all where none is, collides with one that has an open socket. One
/// for all of IPv6 may leave IPv4 alone.
fn collide(asked: Option<IpAddr>, open: IpAddr) -> bool {
    let Some(asked) = asked else { return open.is_ipv4() || open.is_unspecified() };
    asked.is_ipv4() == open.is_ipv4()
        && (asked == open || asked.is_unspecified() || open.is_unspecified())
}

/// Single ports of the host in an inspect. Of a range Docker takes any.
fn ports(spec: &Value, pointer: &str) -> impl Iterator<Item = Port> {
    let of = spec.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    of.flat_map(|(inside, list)| {
        let protocol = inside.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        list.as_array().into_iter().flatten().filter_map(move |binding| {
            let text = |key: &str| binding.get(key).and_then(Value::as_str).unwrap_or_default();
            let number = text("HostPort").parse().ok().filter(|number| *number > 0)?;
            Some((text("HostIp").parse().ok(), number, protocol.to_owned()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_surely_collides_does() {
        let of = |inside: &str, ip: &str, port: &str| -> Vec<Port> {
            let spec = json!({"P": {inside: [{"HostIp": ip, "HostPort": port}]}});
            ports(&spec, "/P").collect()
        };
        let open = |ip: &str| of("1/tcp", ip, "8080");
        for (asked, there, yes) in [
            ("", "0.0.0.0", true),
            ("", "127.0.0.1", true),
            ("", "::", true),
            ("", "::1", false),
            ("0.0.0.0", "127.0.0.1", true),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::", false),
            ("::1", "::", true),
        ] {
            let wanted = of("80/tcp", asked, "8080");
            assert_eq!(collision(&wanted, &open(there)).is_some(), yes, "{asked} {there}");
        }
        assert!(collision(&of("80/udp", "", "8080"), &open("0.0.0.0")).is_none());
        assert!(collision(&of("80/tcp", "", "8081"), &open("0.0.0.0")).is_none());
        assert!(of("80/tcp", "", "").is_empty() && of("80/tcp", "", "8080-8090").is_empty());
    }
}
