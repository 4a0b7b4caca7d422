//! The volumes of a clone. Those that somebody named are the first one's too, or, where that is asked for,
//! copies; those that nobody named are new, and never the first one's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gpuctl_ledger::model::{ContainerName, Token};
use serde_json::{Value, json};

use super::super::api::{Event, Failure, Front};
use super::super::context::Context;
use super::super::create::OPERATION_LABEL;
use super::super::volume;
use crate::change;
use crate::tree;

/// The spec without the anonymous volumes of the first one, in whatever way it got them: where they were,
/// Docker makes new ones. `ours` are the ids of all its versions.
pub(super) fn with_own(spec: &Value, ours: &BTreeSet<String>) -> Value {
    let places: Vec<String> = anonymous(spec).into_iter().map(|(_, place)| place).collect();
    let mut spec = spec.clone();
    if let Some(host) = spec.get_mut("HostConfig").and_then(Value::as_object_mut) {
        let mut keep = |key: &str, keeps: &dyn Fn(&str) -> bool| {
            if let Some(list) = host.get_mut(key).and_then(Value::as_array_mut) {
                list.retain(|entry| entry.as_str().is_none_or(keeps));
            }
        };
        let first = |entry: &str| entry.split(':').next().unwrap_or_default().to_owned();
        keep("VolumesFrom", &|entry| !ours.contains(&first(entry)));
        // An older change has named them.
        keep("Binds", &|entry| !made_up(&first(entry)));
    }
    let sourceless: BTreeSet<String> = mounts(&spec, "/HostConfig/Mounts")
        .filter(|mount| text(mount, "Source").is_empty())
        .map(|mount| text(mount, "Target"))
        .collect();
    let shared = spec.pointer("/HostConfig/VolumesFrom").and_then(Value::as_array);
    let shares = shared.is_some_and(|list| !list.is_empty());
    if let Some(config) = spec.get_mut("Config").and_then(Value::as_object_mut) {
        let volumes = config.entry("Volumes").or_insert(Value::Null);
        if !volumes.is_object() {
            *volumes = json!({});
        }
        // Those of another container, which somebody named, come from there.
        for place in places.iter().filter(|place| !shares && !sourceless.contains(*place)) {
            volumes[place] = json!({});
        }
    }
    spec
}

/// Name and place of each volume that nobody named.
pub(super) fn anonymous(spec: &Value) -> Vec<(String, String)> {
    let mut found = change::anonymous(spec);
    found.extend(
        mounts(spec, "/Mounts")
            .filter(|mount| text(mount, "Type") == "volume" && made_up(&text(mount, "Name")))
            .map(|mount| (text(mount, "Name"), text(mount, "Destination"))),
    );
    found.sort();
    found.dedup();
    found
}

/// Whether Docker made this name up.
fn made_up(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn mounts<'a>(spec: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The named volumes of a container, and what their copies are called: `data` of the clone `twin` is
/// `twin-data`.
///
/// # Errors
/// When one is not to be copied by itself, or there is one of such a name.
pub(super) fn copies(
    ctx: &Context,
    spec: &Value,
    new: &ContainerName,
) -> Result<BTreeMap<String, String>, Failure> {
    let nameless: BTreeSet<String> =
        anonymous(spec).into_iter().map(|(volume, _)| volume).collect();
    let docker = ctx.docker()?;
    let mut copies = BTreeMap::new();
    for mount in mounts(spec, "/Mounts").filter(|mount| text(mount, "Type") == "volume") {
        let name = text(mount, "Name");
        if name.is_empty() || nameless.contains(&name) {
            continue;
        }
        let shown = docker.volume(&name)?.unwrap_or(Value::Null);
        let options = shown.get("Options").and_then(Value::as_object);
        if text(&shown, "Driver") != "local" || options.is_some_and(|options| !options.is_empty()) {
            return Err(Failure::new(format!(
                "volume {name} is not one of Docker's plain ones, and is not copied with a clone"
            ))
            .hint(format!(
                "clone without --volumes, then docker gpuctl update {new} --volume {name}:OTHER; \
                 docker gpuctl volume create OTHER --size SIZE makes that with a size"
            )));
        }
        let copy = format!("{new}-{name}");
        if docker.volume(&copy)?.is_some() {
            return Err(Failure::new(format!(
                "the copy of volume {name} would be {copy}, and there is one"
            ))
            .hint(format!("docker volume rm {copy}, or give the clone another name")));
        }
        copies.insert(name, copy);
    }
    Ok(copies)
}

/// The spec with the copies in the place of the volumes.
pub(super) fn swapped(spec: &Value, copies: &BTreeMap<String, String>) -> Value {
    let mut spec = spec.clone();
    let binds = spec.pointer_mut("/HostConfig/Binds").and_then(Value::as_array_mut);
    for bind in binds.into_iter().flatten() {
        let parts = bind.as_str().and_then(|bind| bind.split_once(':'));
        if let Some((copy, rest)) = parts.and_then(|(name, rest)| Some((copies.get(name)?, rest))) {
            *bind = json!(format!("{copy}:{rest}"));
        }
    }
    let mounts = spec.pointer_mut("/HostConfig/Mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        if let Some(copy) = copies.get(&text(mount, "Source")) {
            mount["Source"] = json!(copy);
        }
    }
    spec
}

/// Makes the volumes for the copies, with this change's token.
///
/// # Errors
/// The Engine's.
pub(super) fn make(
    ctx: &Context,
    copies: &BTreeMap<String, String>,
    token: &Token,
) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    for (name, copy) in copies {
        let shown = docker.volume(name)?.unwrap_or(Value::Null);
        let labels = shown.get("Labels").and_then(Value::as_object).into_iter().flatten();
        let labels =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let mut labels: Vec<(String, String)> =
            labels.filter(|(key, _)| key != OPERATION_LABEL).collect();
        labels.push((OPERATION_LABEL.to_owned(), token.to_string()));
        let _ = docker.create_volume(copy, &[], &labels)?;
    }
    Ok(())
}

/// Removes what [`make`] made, once no container names it.
///
/// # Errors
/// The Engine's.
pub(super) fn remove(
    ctx: &Context,
    copies: &BTreeMap<String, String>,
    token: &Token,
) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    for copy in copies.values() {
        let Some(shown) = docker.volume(copy)? else { continue };
        let label = shown.pointer("/Labels").map(|labels| text(labels, OPERATION_LABEL));
        if label.as_deref() == Some(token.as_str()) {
            docker.remove_volume(copy)?;
        }
    }
    Ok(())
}

/// Which folder goes to which: every volume of the first one that is another in the second, once.
pub(super) fn pairs(first: &Value, second: &Value) -> Vec<(PathBuf, PathBuf)> {
    let of = |spec: &Value| -> BTreeMap<String, (String, String)> {
        mounts(spec, "/Mounts")
            .filter(|mount| text(mount, "Type") == "volume")
            .map(|m| (text(m, "Destination"), (text(m, "Name"), text(m, "Source"))))
            .collect()
    };
    let (first, second) = (of(first), of(second));
    let pairs = first.into_iter().filter_map(|(place, (name, from))| {
        let (other, to) = second.get(&place)?;
        (*other != name && !from.is_empty() && !to.is_empty())
            .then(|| (PathBuf::from(from), PathBuf::from(to)))
    });
    let pairs: BTreeSet<(PathBuf, PathBuf)> = pairs.collect();
    pairs.into_iter().collect()
}

/// Copies what is in a volume into another, which Docker may have filled from the image.
///
/// # Errors
/// [`Failure`].
pub(super) fn copy(from: &Path, to: &Path, front: &mut dyn Front) -> Result<(), Failure> {
    tree::clear(to).map_err(|e| {
        Failure::new(format!("the volumes of the clone cannot be laid out: {e}"))
            .hint("see to Docker's disk, then try again")
    })?;
    let name = from.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    volume::copy::copy(from, to, (&name, false), front)
}

/// What is said of them.
pub(super) fn tell(
    spec: &Value,
    copies: &BTreeMap<String, String>,
    all: bool,
    front: &mut dyn Front,
) {
    let mut note = |text: String| front.event(Event::Note { text });
    for (name, copy) in copies {
        note(format!("volume {name} is copied to {copy}"));
    }
    let anonymous: Vec<String> = anonymous(spec).into_iter().map(|(_, place)| place).collect();
    if !all && !anonymous.is_empty() {
        let places = anonymous.join(", ");
        note(format!("a volume without a name is new: {places}; --volumes copies what is in it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_anonymous_volume_is_shared_however_it_came() {
        let hex = |c: &str| c.repeat(64);
        let spec = json!({
            "Config": {"Volumes": {"/cache": {}}},
            "HostConfig": {
                "Binds": ["data:/data", format!("{}:/kept", hex("c"))],
                "Mounts": [{"Type": "volume", "Target": "/made"}, {"Type": "volume", "Source": "data", "Target": "/d2"}],
                "VolumesFrom": [hex("a")],
            },
            "Mounts": [
                {"Type": "volume", "Name": "data", "Source": "/v/data", "Destination": "/data"},
                {"Type": "volume", "Name": hex("1"), "Source": "/v/1", "Destination": "/cache"},
                {"Type": "volume", "Name": hex("2"), "Source": "/v/2", "Destination": "/scratch"},
                {"Type": "volume", "Name": hex("3"), "Source": "/v/3", "Destination": "/made"},
                {"Type": "volume", "Name": hex("c"), "Source": "/v/c", "Destination": "/kept"},
            ],
        });
        let own = with_own(&spec, &BTreeSet::from([hex("a")]));
        assert_eq!(own["HostConfig"]["VolumesFrom"], json!([]));
        assert_eq!(own["HostConfig"]["Binds"], json!(["data:/data"]));
        assert_eq!(own["Config"]["Volumes"], json!({"/cache": {}, "/kept": {}, "/scratch": {}}));
        let copies = BTreeMap::from([("data".to_owned(), "twin-data".to_owned())]);
        let swapped = swapped(&own, &copies);
        assert_eq!(swapped["HostConfig"]["Binds"], json!(["twin-data:/data"]));
        assert_eq!(swapped["HostConfig"]["Mounts"][1]["Source"], "twin-data");
        // One that somebody asked to have from another container comes from there.
        let mut other = spec.clone();
        other["HostConfig"]["VolumesFrom"] = json!(["other"]);
        let own = with_own(&other, &BTreeSet::new());
        assert_eq!(own["HostConfig"]["VolumesFrom"], json!(["other"]));
        assert_eq!(own["Config"]["Volumes"], json!({"/cache": {}}));
    }

    #[test]
    fn what_is_another_volume_in_the_second_is_copied_once() {
        let of = |name: &str, place: &str| json!({"Type": "volume", "Name": name, "Source": format!("/v/{name}"), "Destination": place});
        let first =
            json!({"Mounts": [of("data", "/a"), of("data", "/b"), of("x", "/x"), of("y", "/y")]});
        let second = json!({"Mounts": [of("twin", "/a"), of("twin", "/b"), of("x", "/x"),
            {"Type": "bind", "Source": "/y", "Destination": "/y"}]});
        let pair = (PathBuf::from("/v/data"), PathBuf::from("/v/twin"));
        assert_eq!(pairs(&first, &second), [pair]);
    }
}
