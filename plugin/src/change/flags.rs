//! The flags of update, read as docker run reads its own.

use serde_json::{Map, Value, json};

use super::Wrong;
use super::model::{HostPort, Mount, Publish, Restart};

/// The most ports that one range may have.
const WIDEST: u16 = 1024;

/// `[[ADDRESS:]HOST:]INSIDE[/PROTOCOL]`; HOST may be `auto`, and both may be ranges of one length.
///
/// # Errors
/// [`Wrong`].
pub fn publish(text: &str) -> Result<Vec<Publish>, Wrong> {
    let wrong = |why: &str| {
        Wrong::new(format!("--publish {text}: {why}")).hint(
            "--publish 8080:80, 127.0.0.1:8080:80, 53:53/udp, or auto:22 for a port that is kept",
        )
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong("the protocol is tcp, udp or sctp"));
    }
    let (front, inside) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = match front.rsplit_once(':') {
        Some((address, host)) => (address.trim_matches(['[', ']']), host),
        None => ("", front),
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(wrong("that is no address of the host"));
    }
    let inside = range(inside).ok_or_else(|| wrong("a port is a number from 1 to 65535"))?;
    let count = inside.1 - inside.0;
    if host == "auto" && count > 0 {
        return Err(wrong(
            "the container's port is one number: give --publish auto:PORT for each of several",
        ));
    }
    let hosts: Vec<HostPort> = match host {
        "" => vec![HostPort::Any; usize::from(count) + 1],
        "auto" => vec![HostPort::Auto],
        host => {
            let host = range(host).ok_or_else(|| wrong("a port is a number from 1 to 65535"))?;
            if host.1 - host.0 != count {
                return Err(wrong("the two ranges are of different lengths"));
            }
            (host.0..=host.1).map(HostPort::Number).collect()
        }
    };
    Ok((inside.0..=inside.1)
        .zip(hosts)
        .map(|(inside, host)| Publish {
            address: address.to_owned(),
            host,
            inside,
            protocol: protocol.clone(),
        })
        .collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first > 0 && first <= last && last - first < WIDEST).then_some((first, last))
}

/// `-v`'s `SOURCE:TARGET[:OPTIONS]`, or `--mount`'s list of `key=value`.
///
/// # Errors
/// [`Wrong`].
pub fn mount(text: &str) -> Result<Mount, Wrong> {
    let wrong = |why: String| {
        Wrong::new(format!("--mount-add {text}: {why}")).hint(
            "--mount-add data:/data, /srv/sets:/sets:ro, or type=bind,source=/srv/sets,target=/sets,readonly",
        )
    };
    if !text.contains('=') || text.starts_with('/') {
        let parts: Vec<&str> = text.split(':').collect();
        return match parts.as_slice() {
            [source, target] | [source, target, _]
                if !source.is_empty() && target.starts_with('/') && *target != "/" =>
            {
                if !source.starts_with('/') && !is_volume(source) {
                    return Err(wrong(format!(
                        "{source} is neither an absolute path nor the name of a volume"
                    )));
                }
                Ok(Mount::Bind(text.to_owned()))
            }
            _ => Err(wrong("it is not SOURCE:TARGET[:OPTIONS] with an absolute TARGET".into())),
        };
    }
    let mut fields = Map::new();
    let mut volume = Map::new();
    let mut bind = Map::new();
    let mut tmpfs = Map::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let truth = || {
            value.parse::<bool>().or(match value {
                "1" => Ok(true),
                "0" => Ok(false),
                _ => Err(()),
            })
        };
        match key.to_ascii_lowercase().as_str() {
            "type" => drop(fields.insert("Type".into(), json!(value.to_ascii_lowercase()))),
            "source" | "src" => drop(fields.insert("Source".into(), json!(value))),
            "target" | "dst" | "destination" => drop(fields.insert("Target".into(), json!(value))),
            "readonly" | "ro" => {
                let yes =
                    truth().map_err(|()| wrong(format!("{part} is neither true nor false")))?;
                fields.insert("ReadOnly".into(), json!(yes));
            }
            "consistency" => drop(fields.insert("Consistency".into(), json!(value))),
            "bind-propagation" => drop(bind.insert("Propagation".into(), json!(value))),
            "volume-nocopy" => {
                let yes =
                    truth().map_err(|()| wrong(format!("{part} is neither true nor false")))?;
                volume.insert("NoCopy".into(), json!(yes));
            }
            "volume-subpath" => drop(volume.insert("Subpath".into(), json!(value))),
            "tmpfs-size" => {
                let size = gpuctl_ledger::model::ByteSize::parse(value)
                    .map_err(|e| wrong(e.to_string()))?;
                tmpfs.insert("SizeBytes".into(), json!(size.0));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .map_err(|_| wrong(format!("{value} is no mode in octal")))?;
                tmpfs.insert("Mode".into(), json!(mode));
            }
            _ => return Err(wrong(format!("{key} is not known here"))),
        }
    }
    let kind = fields
        .entry("Type")
        .or_insert_with(|| json!("volume"))
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let options = match kind.as_str() {
        "volume" => ("VolumeOptions", volume),
        "bind" => ("BindOptions", bind),
        "tmpfs" => ("TmpfsOptions", tmpfs),
        _ => return Err(wrong(format!("a mount of type {kind} is not known here"))),
    };
    let named = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let target = named("Target");
    if !target.starts_with('/') || target == "/" {
        return Err(wrong("its target must be an absolute path".into()));
    }
    if kind == "bind" && !named("Source").starts_with('/') {
        return Err(wrong("its source must be an absolute path".into()));
    }
    if !options.1.is_empty() {
        fields.insert(options.0.into(), Value::Object(options.1));
    }
    Ok(Mount::Object(Value::Object(fields)))
}

/// Whether Docker takes this as the name of a volume.
fn is_volume(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.len() > 1
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// `OLD:NEW`.
///
/// # Errors
/// [`Wrong`].
pub fn swap(text: &str) -> Result<(String, String), Wrong> {
    match text.split_once(':') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() && !new.contains(':') => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err(Wrong::new(format!("--volume {text}: it is not OLD:NEW")).hint(
            "--volume data-0:data-1 mounts data-1 where data-0 is; --mount-add adds a mount",
        )),
    }
}

/// `no`, `always`, `unless-stopped`, `on-failure[:TRIES]`.
///
/// # Errors
/// [`Wrong`].
pub fn restart(text: &str) -> Result<Restart, Wrong> {
    let wrong = || {
        Wrong::new(format!("--restart {text} is no restart policy"))
            .hint("no, always, unless-stopped, on-failure, on-failure:5")
    };
    let (name, tries) = text.split_once(':').map_or((text, None), |(n, t)| (n, Some(t)));
    let tries = match (name, tries) {
        ("no" | "always" | "unless-stopped" | "on-failure", None) => 0,
        ("on-failure", Some(tries)) => tries.parse::<i32>().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    if tries < 0 {
        return Err(wrong());
    }
    Ok(Restart { name: name.to_owned(), tries: i64::from(tries) })
}

/// `NAME=VALUE`, or `NAME`, whose value `own` knows.
///
/// # Errors
/// [`Wrong`].
pub fn env(text: &str, own: impl Fn(&str) -> Option<String>) -> Result<(String, String), Wrong> {
    let named = |name: &str| !name.is_empty();
    match text.split_once('=') {
        Some((name, value)) if named(name) => Ok((name.to_owned(), value.to_owned())),
        None if named(text) => match own(text) {
            Some(value) => Ok((text.to_owned(), value)),
            None => Err(Wrong::new(format!("--env {text}: it has no value here"))
                .hint(format!("--env {text}=VALUE sets it, --env-rm {text} takes it away"))),
        },
        _ => Err(Wrong::new(format!("--env {text}: it is not NAME=VALUE"))),
    }
}

/// `NAME=VALUE`, or `NAME` with an empty value.
///
/// # Errors
/// [`Wrong`].
pub fn label(text: &str) -> Result<(String, String), Wrong> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Wrong::new(format!("--label {text}: it is not NAME=VALUE")));
    }
    if name.starts_with("gpuctl.") {
        return Err(Wrong::new(format!("--label {text}: labels gpuctl.* are gpuctl's own"))
            .hint("give the label another name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published_as_docker_run_does() {
        let one = |text: &str| {
            let list = publish(text).unwrap();
            assert_eq!(list.len(), 1, "{text}");
            let p = list.into_iter().next().unwrap();
            (p.address.clone(), p.host, p.inside())
        };
        assert_eq!(one("80"), (String::new(), HostPort::Any, "80/tcp".into()));
        assert_eq!(one("8080:80"), (String::new(), HostPort::Number(8080), "80/tcp".into()));
        assert_eq!(one("auto:22"), (String::new(), HostPort::Auto, "22/tcp".into()));
        assert_eq!(
            one("127.0.0.1:53:53/UDP"),
            ("127.0.0.1".into(), HostPort::Number(53), "53/udp".into())
        );
        assert_eq!(one("127.0.0.1::53"), ("127.0.0.1".into(), HostPort::Any, "53/tcp".into()));
        assert_eq!(one("[::1]:8080:80"), ("::1".into(), HostPort::Number(8080), "80/tcp".into()));
        assert_eq!(publish("8000-8002:80-82").unwrap().len(), 3);
        for bad in [
            "",
            "x",
            "0:1",
            "1:0",
            "70000:1",
            "1-2:1-3",
            "x:1:2",
            "80/icmp",
            "2-1:2-1",
            "1:2:3:4",
            "auto:80-81",
        ] {
            let why = publish(bad).expect_err(bad);
            assert!(why.message.contains("--publish") && why.hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_read_in_both_spellings() {
        assert_eq!(mount("data:/data:ro").unwrap(), Mount::Bind("data:/data:ro".into()));
        assert_eq!(mount("/a=b:/data").unwrap(), Mount::Bind("/a=b:/data".into()));
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,readonly").unwrap(),
            Mount::Object(
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true})
            )
        );
        assert_eq!(
            mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770").unwrap(),
            Mount::Object(json!({"Type": "tmpfs", "Target": "/t",
                "TmpfsOptions": {"SizeBytes": 64 << 20, "Mode": 0o1770}}))
        );
        assert_eq!(mount("source=v,target=/v").unwrap().target(), "/v");
        for bad in [
            "",
            "data",
            "data:data",
            "data:/",
            "./data:/data",
            "~/data:/data",
            "type=bind,target=/b",
            "type=x,target=/b",
            "typ=bind,target=/b",
            "target=b",
            "type=bind,src=/a,dst=/b,ro=maybe",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_other_flags_are_read_or_refused_with_what_to_type() {
        assert_eq!(
            restart("on-failure:3").unwrap(),
            Restart { name: "on-failure".into(), tries: 3 }
        );
        for bad in ["", "never", "always:3", "on-failure:x", "on-failure:-1"] {
            assert!(restart(bad).unwrap_err().hint.is_some(), "{bad}");
        }
        let own = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        assert_eq!(env("A=b=c", own).unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(env("HOME", own).unwrap(), ("HOME".into(), "/root".into()));
        assert!(env("NONE", own).is_err() && env("=x", own).is_err());
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("gpuctl.operation=x").is_err() && label("=x").is_err());
        assert_eq!(swap("a:b").unwrap(), ("a".into(), "b".into()));
        for bad in ["a", "a:", ":b", "a:b:c"] {
            assert!(swap(bad).is_err(), "{bad}");
        }
    }
}
