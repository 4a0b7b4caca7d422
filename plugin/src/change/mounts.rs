//! What is mounted in a container, and how its anonymous volumes come to the next one.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Source, place and options of a bind.
pub(super) fn bind_parts(text: &str) -> (&str, &str, &str) {
    let mut parts = text.splitn(3, ':');
    let source = parts.next().unwrap_or_default();
    (source, parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

pub(super) fn list<'a>(spec: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A place as Docker shows it: without a slash at its end, or two in a row.
pub(super) fn place(text: &str) -> String {
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

/// A bind of this volume to a place, which can be written to only if it can be there now.
pub(super) fn bind(spec: &Value, volume: &str, at: &str) -> String {
    let read_only = list(spec, "/Mounts").any(|mount| {
        mount.get("Destination").and_then(Value::as_str) == Some(at)
            && mount.get("RW").and_then(Value::as_bool) == Some(false)
    });
    format!("{volume}:{at}{}", if read_only { ":ro" } else { "" })
}

/// Where the spec itself mounts something: binds, mounts, tmpfs.
pub(super) fn said(spec: &Value) -> BTreeSet<String> {
    let binds = list(spec, "/HostConfig/Binds").filter_map(Value::as_str);
    let binds = binds.map(|bind| place(bind_parts(bind).1));
    let mounts = list(spec, "/HostConfig/Mounts");
    let mounts = mounts.map(target);
    let tmpfs = spec.pointer("/HostConfig/Tmpfs").and_then(Value::as_object);
    let tmpfs = tmpfs.into_iter().flat_map(|map| map.keys().map(|at| place(at)));
    binds.chain(mounts).chain(tmpfs).collect()
}

/// The anonymous volumes of a container: their names and places. What the spec names is none; nor is a
/// mount without a source, whose volume Docker made: that one is anonymous.
pub fn anonymous(spec: &Value) -> Vec<(String, String)> {
    let said = said(spec);
    list(spec, "/Mounts")
        .filter(|mount| mount.get("Type").and_then(Value::as_str) == Some("volume"))
        .filter_map(|mount| {
            let name = mount.get("Name")?.as_str()?;
            let place = mount.get("Destination")?.as_str()?;
            (!said.contains(place) || sourceless(spec, place))
                .then(|| (name.to_owned(), place.to_owned()))
        })
        .collect()
}

/// How a new container gets what the one before had mounted beyond what the spec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing there.
    Nothing,
    /// All of it, as anonymous as it was.
    From,
    /// Some of it by name: it stays when the container goes.
    Named(Vec<String>),
}

/// The spec for the new container, which is to have the anonymous volumes of the one before (`is`) that
/// `to_be` still has room for; `old` is the id of that one, and `ours` are those of all versions.
pub fn inherited(is: &Value, to_be: &Value, old: &str, ours: &BTreeSet<String>) -> (Value, Kept) {
    let mut spec = to_be.clone();
    let mut from: Vec<Value> = list(is, "/HostConfig/VolumesFrom")
        .filter(|entry| {
            let id = entry.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
            !ours.contains(id)
        })
        .cloned()
        .collect();
    let (before, after, left) = (places(is), said(to_be), places(to_be));
    // Docker takes nothing from a container that has a tmpfs among its mounts: it looks for its volume.
    let tmpfs = list(is, "/HostConfig/Mounts")
        .any(|mount| mount.get("Type").and_then(Value::as_str) == Some("tmpfs"));
    let gone = tmpfs || before.iter().any(|place| !left.contains(place));
    let named = |place: &String| after.contains(place) && !sourceless(to_be, place);
    let anonymous = anonymous(is);
    let kept: Vec<&(String, String)> =
        anonymous.iter().filter(|(_, place)| left.contains(place) && !named(place)).collect();
    let mut how = Kept::Nothing;
    if !kept.is_empty() && !gone {
        from.push(json!(old));
        how = Kept::From;
        // A mount without a source would make a new volume in its place.
        drop_sourceless(&mut spec, &kept);
    } else if !kept.is_empty() {
        let named: Vec<String> = kept.iter().map(|(name, at)| bind(is, name, at)).collect();
        drop_sourceless(&mut spec, &kept);
        if let Some(host) = spec.get_mut("HostConfig").and_then(Value::as_object_mut) {
            let mut binds: Vec<Value> =
                host.get("Binds").and_then(Value::as_array).cloned().unwrap_or_default();
            binds.extend(named.iter().map(|bind| json!(bind)));
            host.insert("Binds".to_owned(), Value::Array(binds));
        }
        how = Kept::Named(named);
    }
    if let Some(host) = spec.get_mut("HostConfig").and_then(Value::as_object_mut) {
        let from = if from.is_empty() { Value::Null } else { Value::Array(from) };
        host.insert("VolumesFrom".to_owned(), from);
    }
    (spec, how)
}

fn sourceless(spec: &Value, place: &str) -> bool {
    list(spec, "/HostConfig/Mounts").any(|m| is_sourceless(m) && target(m) == place)
}

fn target(mount: &Value) -> String {
    place(mount.get("Target").and_then(Value::as_str).unwrap_or_default())
}

fn is_sourceless(mount: &Value) -> bool {
    mount.get("Source").and_then(Value::as_str).unwrap_or_default().is_empty()
        && mount.get("Type").and_then(Value::as_str) == Some("volume")
}

fn drop_sourceless(spec: &mut Value, kept: &[&(String, String)]) {
    let Some(mounts) = spec.pointer_mut("/HostConfig/Mounts").and_then(Value::as_array_mut) else {
        return;
    };
    mounts.retain(|m| !(is_sourceless(m) && kept.iter().any(|(_, place)| *place == target(m))));
}

/// Every place where something is mounted.
fn places(spec: &Value) -> BTreeSet<String> {
    let shown = list(spec, "/Mounts").filter_map(|m| m.get("Destination")?.as_str());
    let mut places: BTreeSet<String> = shown.map(str::to_owned).collect();
    places.extend(said(spec));
    places.extend(config_volumes(spec));
    places
}

/// Places for which image or `-v /place` ask for a volume.
fn config_volumes(spec: &Value) -> BTreeSet<String> {
    let volumes: Option<&Map<String, Value>> =
        spec.pointer("/Config/Volumes").and_then(Value::as_object);
    volumes.into_iter().flat_map(|map| map.keys().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Value {
        json!({
            "Config": {"Volumes": {"/cache": {}}},
            "HostConfig": {
                "Binds": ["data:/data"],
                "Mounts": [{"Type": "volume", "Target": "/scratch"}, {"Type": "bind", "Source": "/a", "Target": "/b"}],
                "VolumesFrom": ["other", "f00:ro"],
            },
            "Mounts": [
                {"Type": "volume", "Name": "data", "Destination": "/data"},
                {"Type": "volume", "Name": "c1", "Destination": "/cache"},
                {"Type": "volume", "Name": "s1", "Destination": "/scratch"},
                {"Type": "bind", "Source": "/a", "Destination": "/b"},
            ],
        })
    }

    #[test]
    fn what_nobody_named_is_anonymous() {
        let of = |name: &str, place: &str| (name.to_owned(), place.to_owned());
        assert_eq!(anonymous(&spec()), [of("c1", "/cache"), of("s1", "/scratch")]);
    }

    #[test]
    fn anonymous_volumes_come_from_the_one_before_and_an_older_one_of_ours_goes() {
        let ours = BTreeSet::from(["f00".to_owned()]);
        let (new, how) = inherited(&spec(), &spec(), "abc", &ours);
        assert_eq!(how, Kept::From);
        assert_eq!(new["HostConfig"]["VolumesFrom"], json!(["other", "abc"]));
        assert_eq!(
            new["HostConfig"]["Mounts"],
            json!([{"Type": "bind", "Source": "/a", "Target": "/b"}])
        );
    }

    #[test]
    fn where_a_mount_is_taken_away_the_others_are_named() {
        let mut is = spec();
        is["Mounts"][2]["RW"] = json!(false);
        let mut to_be = is.clone();
        to_be["HostConfig"]["Binds"] = json!([]);
        to_be["Mounts"].as_array_mut().unwrap().remove(0);
        let (new, how) = inherited(&is, &to_be, "abc", &BTreeSet::new());
        assert_eq!(how, Kept::Named(vec!["c1:/cache".into(), "s1:/scratch:ro".into()]));
        assert_eq!(new["HostConfig"]["Binds"], json!(["c1:/cache", "s1:/scratch:ro"]));
        assert_eq!(new["HostConfig"]["VolumesFrom"], json!(["other", "f00:ro"]));
        let mut without_cache = spec();
        without_cache["Config"]["Volumes"] = json!({});
        without_cache["Mounts"].as_array_mut().unwrap().remove(1);
        let (_, how) = inherited(&spec(), &without_cache, "abc", &BTreeSet::new());
        assert_eq!(how, Kept::Named(vec!["s1:/scratch".into()]));
    }

    #[test]
    fn nothing_comes_from_a_container_with_a_tmpfs_among_its_mounts() {
        let mut is = spec();
        let tmpfs = json!({"Type": "tmpfs", "Target": "/quick"});
        is["HostConfig"]["Mounts"].as_array_mut().unwrap().push(tmpfs);
        let (_, how) = inherited(&is, &is, "abc", &BTreeSet::new());
        assert_eq!(how, Kept::Named(vec!["c1:/cache".into(), "s1:/scratch".into()]));
    }

    #[test]
    fn without_anonymous_volumes_there_is_nothing_to_come() {
        let plain = json!({"Config": {}, "HostConfig": {"Binds": ["data:/data"], "VolumesFrom": null},
            "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"}]});
        let (new, how) = inherited(&plain, &plain, "abc", &BTreeSet::new());
        assert_eq!((how, &new["HostConfig"]["VolumesFrom"]), (Kept::Nothing, &Value::Null));
    }
}
