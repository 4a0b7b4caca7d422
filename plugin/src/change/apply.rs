//! What a container is to be, from what it is and what is to be changed.

use serde_json::{Map, Value, json};

use super::Wrong;
use super::model::{Change, HostPort, Mount, Publish};
use super::mounts::{self, bind_parts, list};

/// The spec with the change. Ports that are to be chosen (`auto`) must have been: see
/// [`super::model::HostPort`].
///
/// # Errors
/// [`Wrong`] when there is not what is to be taken away or swapped, or something is there already.
pub fn apply(spec: &Value, change: &Change) -> Result<Value, Wrong> {
    let mut spec = spec.clone();
    limits(&mut spec, change);
    environment(&mut spec, change)?;
    labels(&mut spec, change)?;
    ports(&mut spec, change)?;
    for (old, new) in &change.volumes {
        swap(&mut spec, old, new)?;
    }
    for target in &change.mount_rm {
        unmount(&mut spec, target)?;
    }
    for mount in &change.mount_add {
        add_mount(&mut spec, mount)?;
    }
    if let Some(image) = &change.image {
        object(&mut spec, "Config").insert("Image".to_owned(), json!(image));
    }
    Ok(spec)
}

/// The object under a key; made where there is none.
fn object<'a>(spec: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    as_object(as_object(spec).entry(key).or_insert(Value::Null))
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The list under a key; made where there is none.
fn array<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    as_array(map.entry(key).or_insert(Value::Null))
}

fn as_array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("made a list just above"),
    }
}

fn number(map: &Map<String, Value>, key: &str) -> i64 {
    map.get(key).and_then(Value::as_i64).unwrap_or_default()
}

fn limits(spec: &mut Value, change: &Change) {
    let host = object(spec, "HostConfig");
    if let Some(cpus) = change.nano_cpus {
        host.insert("NanoCpus".to_owned(), json!(cpus));
        // Docker takes one way to say it or the other.
        for other in ["CpuPeriod", "CpuQuota"] {
            if number(host, other) != 0 {
                host.insert(other.to_owned(), json!(0));
            }
        }
    }
    if let Some(cpuset) = &change.cpuset_cpus {
        host.insert("CpusetCpus".to_owned(), json!(cpuset));
    }
    if let Some(memory) = change.memory {
        let (old, swap) = (number(host, "Memory"), number(host, "MemorySwap"));
        // Twice the memory is what Docker makes of a limit that says nothing of swap.
        if swap >= 0 && (swap == 0 || swap == old.saturating_mul(2) || swap < memory) {
            let swap = if memory > 0 { memory.saturating_mul(2) } else { memory };
            host.insert("MemorySwap".to_owned(), json!(swap));
        }
        host.insert("Memory".to_owned(), json!(memory));
    }
    if let Some(size) = change.shm_size {
        host.insert("ShmSize".to_owned(), json!(size));
    }
    if let Some(restart) = &change.restart {
        let policy = json!({"Name": restart.name, "MaximumRetryCount": restart.tries});
        host.insert("RestartPolicy".to_owned(), policy);
    }
}

fn environment(spec: &mut Value, change: &Change) -> Result<(), Wrong> {
    if change.env.is_empty() && change.env_rm.is_empty() {
        return Ok(());
    }
    let config = object(spec, "Config");
    let mut env: Vec<String> = config
        .get("Env")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str().map(str::to_owned))
        .collect();
    let is = |entry: &str, name: &str| entry.split('=').next() == Some(name);
    for name in &change.env_rm {
        let before = env.len();
        env.retain(|entry| !is(entry, name));
        if env.len() == before {
            return Err(Wrong::new(format!("--env-rm {name}: it is not set in the container")));
        }
    }
    for (name, value) in &change.env {
        let entry = format!("{name}={value}");
        // The last of several counts.
        let at = env.iter().rposition(|old| is(old, name));
        match at.and_then(|at| env.get_mut(at)) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    }
    config.insert("Env".to_owned(), json!(env));
    Ok(())
}

fn labels(spec: &mut Value, change: &Change) -> Result<(), Wrong> {
    if change.labels.is_empty() && change.label_rm.is_empty() {
        return Ok(());
    }
    let labels = object(&mut spec["Config"], "Labels");
    for name in &change.label_rm {
        if labels.remove(name).is_none() {
            return Err(Wrong::new(format!("--label-rm {name}: the container has no such label")));
        }
    }
    for (name, value) in &change.labels {
        labels.insert(name.clone(), json!(value));
    }
    Ok(())
}

fn ports(spec: &mut Value, change: &Change) -> Result<(), Wrong> {
    for text in &change.publish_rm {
        unpublish(spec, text)?;
    }
    for port in &change.publish {
        publish(spec, port)?;
    }
    Ok(())
}

fn unpublish(spec: &mut Value, text: &str) -> Result<(), Wrong> {
    let (before, inside) = match text.rsplit_once(':') {
        Some((before, inside)) => (Some(before), inside),
        None => (None, text),
    };
    // 8080, 127.0.0.1:8080, [::1]:8080.
    let (address, host) = match before.and_then(|before| before.rsplit_once(':')) {
        Some((address, host)) => (Some(address.trim_matches(['[', ']'])), Some(host)),
        None => (None, before),
    };
    let is = |binding: &Value, field: &str, wanted: Option<&str>| {
        let found = binding.get(field).and_then(Value::as_str).unwrap_or_default();
        wanted.is_none_or(|wanted| found == wanted || found.is_empty() && wanted == "0.0.0.0")
    };
    let key = if inside.contains('/') { inside.to_owned() } else { format!("{inside}/tcp") };
    let bindings = object(&mut spec["HostConfig"], "PortBindings");
    let list = bindings.get_mut(&key).and_then(Value::as_array_mut);
    let removed = list.is_some_and(|list| {
        let before = list.len();
        list.retain(|b| !(is(b, "HostIp", address) && is(b, "HostPort", host)));
        list.len() != before
    });
    if !removed {
        return Err(Wrong::new(format!("--publish-rm {text}: it is not published")).hint(
            "docker gpuctl ps shows what is: --publish-rm takes the container's port, HOST:PORT or IP:HOST:PORT",
        ));
    }
    if bindings.get(&key).and_then(Value::as_array).is_some_and(Vec::is_empty) {
        bindings.remove(&key);
    }
    Ok(())
}

/// Refuses ports of a container that has no network of its own: Docker leaves them out without a word, or
/// refuses them once the old container is down.
///
/// # Errors
/// [`Wrong`].
pub fn can_publish(spec: &Value) -> Result<(), Wrong> {
    let mode = spec.pointer("/HostConfig/NetworkMode").and_then(Value::as_str).unwrap_or_default();
    if !matches!(mode, "host" | "none") && !mode.starts_with("container:") {
        return Ok(());
    }
    let mode = mode.split(':').next().unwrap_or_default();
    Err(Wrong::new(format!("--publish: a container with --network {mode} publishes no ports"))
        .hint("with --network host its ports are the host's; run it anew on another network"))
}

/// Adds a port of the host, which no other port of the container may have.
fn publish(spec: &mut Value, port: &Publish) -> Result<(), Wrong> {
    let number = match port.host {
        HostPort::Number(number) => number.to_string(),
        HostPort::Any | HostPort::Auto => String::new(),
    };
    let key = port.inside();
    object(&mut spec["Config"], "ExposedPorts").entry(key.clone()).or_insert_with(|| json!({}));
    let bindings = object(&mut spec["HostConfig"], "PortBindings");
    let binding = json!({"HostIp": port.address, "HostPort": number});
    let same = |of: &str| of.ends_with(&format!("/{}", port.protocol)) && *of != key;
    let taken = bindings.iter().filter(|(of, _)| same(of.as_str())).find(|(_, list)| {
        !number.is_empty() && list.as_array().is_some_and(|list| list.contains(&binding))
    });
    if let Some((of, _)) = taken {
        return Err(Wrong::new(format!(
            "--publish {number}:{key}: its own port {of} has {number}"
        ))
        .hint(format!("--publish-rm {number}:{of} gives it up in the same change")));
    }
    let list = array(bindings, &key);
    if !list.contains(&binding) {
        list.push(binding);
    }
    Ok(())
}

/// Mounts another volume where one is.
fn swap(spec: &mut Value, old: &str, new: &str) -> Result<(), Wrong> {
    let mut places = Vec::new();
    let host = object(spec, "HostConfig");
    if let Some(binds) = host.get_mut("Binds").and_then(Value::as_array_mut) {
        for bind in binds {
            let Some(text) = bind.as_str() else { continue };
            let (source, place, options) = bind_parts(text);
            if source == old {
                places.push(mounts::place(place));
                let options =
                    if options.is_empty() { String::new() } else { format!(":{options}") };
                *bind = json!(format!("{new}:{place}{options}"));
            }
        }
    }
    if let Some(mounts) = host.get_mut("Mounts").and_then(Value::as_array_mut) {
        for mount in mounts {
            if mount.get("Source").and_then(Value::as_str) == Some(old) {
                let place = mount.get("Target").and_then(Value::as_str).unwrap_or_default();
                places.push(mounts::place(place));
                mount["Source"] = json!(new);
            }
        }
    }
    let shown: Vec<(String, String)> = list(spec, "/Mounts")
        .filter_map(|m| {
            let source = m.get("Name").or_else(|| m.get("Source"))?.as_str()?;
            Some((source.to_owned(), m.get("Destination")?.as_str()?.to_owned()))
        })
        .collect();
    // One without a name, or of --volumes-from, is in neither: it is mounted by name from now on.
    for (name, place) in &shown {
        if name == old && !places.contains(place) {
            let bind = json!(mounts::bind(spec, new, place));
            array(object(spec, "HostConfig"), "Binds").push(bind);
            places.push(place.clone());
        }
    }
    if places.is_empty() {
        let mounted: Vec<&str> = shown.iter().map(|(name, _)| name.as_str()).collect();
        let is = if mounted.is_empty() { "nothing".to_owned() } else { mounted.join(", ") };
        return Err(Wrong::new(format!(
            "--volume {old}:{new}: {old} is not mounted in the container"
        ))
        .hint(format!("mounted is {is}; --mount-add {new}:/PLACE adds a mount")));
    }
    Ok(())
}

fn unmount(spec: &mut Value, target: &str) -> Result<(), Wrong> {
    let mut found = false;
    let asked = target;
    let target = mounts::place(target);
    let is = |text: &str| mounts::place(text) == target;
    let mut keep = |is: bool| {
        found |= is;
        !is
    };
    let host = object(spec, "HostConfig");
    if let Some(binds) = host.get_mut("Binds").and_then(Value::as_array_mut) {
        binds.retain(|bind| keep(is(bind_parts(bind.as_str().unwrap_or_default()).1)));
    }
    if let Some(mounts) = host.get_mut("Mounts").and_then(Value::as_array_mut) {
        mounts.retain(|m| keep(m.get("Target").and_then(Value::as_str).is_some_and(is)));
    }
    if let Some(tmpfs) = host.get_mut("Tmpfs").and_then(Value::as_object_mut) {
        tmpfs.retain(|place, _| keep(is(place)));
    }
    if let Some(volumes) = object(spec, "Config").get_mut("Volumes").and_then(Value::as_object_mut)
    {
        volumes.retain(|place, _| keep(is(place)));
    }
    if let Some(shown) = spec.get_mut("Mounts").and_then(Value::as_array_mut) {
        shown.retain(|m| keep(m.get("Destination").and_then(Value::as_str).is_some_and(is)));
    }
    if found {
        return Ok(());
    }
    Err(Wrong::new(format!("--mount-rm {asked}: nothing is mounted there"))
        .hint("it takes the place in the container: docker gpuctl inspect shows Mounts"))
}

fn add_mount(spec: &mut Value, mount: &Mount) -> Result<(), Wrong> {
    let target = mount.target().to_owned();
    if mounts::said(spec).contains(&mounts::place(&target)) {
        return Err(Wrong::new(format!("--mount-add: something is mounted at {target} already"))
            .hint(format!("--mount-rm {target} takes it away in the same change")));
    }
    let (key, value) = match mount {
        Mount::Bind(text) => ("Binds", json!(text)),
        Mount::Object(object) => ("Mounts", object.clone()),
    };
    array(object(spec, "HostConfig"), key).push(value);
    // For what else looks at the places: inherited() tells what is gone by them.
    array(as_object(spec), "Mounts")
        .push(json!({"Type": "bind", "Destination": mounts::place(&target)}));
    Ok(())
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
