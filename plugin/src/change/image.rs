//! What of a container's config its image implies.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::model::Change;
use super::mounts::{anonymous, place};
use super::{Mount, Wrong};

/// Fields that a create without them takes from the image.
const IMPLIED: [&str; 7] =
    ["User", "WorkingDir", "Healthcheck", "StopSignal", "Shell", "ArgsEscaped", "OnBuild"];
/// Fields that are sets of names, of which the image's are added to what a create says.
const ADDED: [&str; 3] = ["ExposedPorts", "Volumes", "Labels"];

/// The spec without what the old image (`Config` of its inspect) implies: made from another image, the
/// container takes that from there.
pub fn without_image(spec: &Value, image: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(config) = spec.get_mut("Config").and_then(Value::as_object_mut) else { return spec };
    for field in IMPLIED {
        if config.get(field) == image.get(field) {
            config.remove(field);
        }
    }
    // A command without the image's entrypoint is another command.
    let own = |field: &str| none_if_empty(config.get(field)) != none_if_empty(image.get(field));
    let (entrypoint, command) = (own("Entrypoint"), own("Cmd"));
    if !entrypoint {
        config.remove("Entrypoint");
        if !command {
            config.remove("Cmd");
        }
    }
    for field in ADDED {
        let theirs = image.get(field).and_then(Value::as_object);
        let Some(ours) = config.get_mut(field).and_then(Value::as_object_mut) else { continue };
        drop_equal(ours, theirs);
    }
    let theirs: Vec<&Value> =
        image.get("Env").and_then(Value::as_array).into_iter().flatten().collect();
    if let Some(env) = config.get_mut("Env").and_then(Value::as_array_mut) {
        env.retain(|entry| !theirs.contains(&entry));
    }
    spec
}

/// What is taken away of what the image says too: where the container has another value, the image's counts from
/// now on, and so it is in `spec`. `is` is what the container is, `image` the `Config` of the image's inspect.
///
/// # Errors
/// [`Wrong`] where the container has just what its image says: Docker gives each container that.
pub fn back_to_image(
    spec: &mut Value,
    is: &Value,
    change: &Change,
    image: &Value,
) -> Result<(), Wrong> {
    let entries = |of: &Value| -> Vec<String> {
        let list = of.get("Env").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|entry| entry.as_str().map(str::to_owned)).collect()
    };
    let own = is.get("Config").unwrap_or(&Value::Null);
    let (theirs, ours) = (entries(image), entries(own));
    let set = |name: &String| change.env.iter().any(|(set, _)| set == name);
    for name in change.env_rm.iter().filter(|name| !set(name)) {
        let of = |entry: &&String| entry.split('=').next() == Some(name.as_str());
        let Some(entry) = theirs.iter().find(of) else { continue };
        if ours.contains(entry) {
            return Err(Wrong::new(format!(
                "--env-rm {name}: the image sets it, in every container"
            ))
            .hint(format!("--env {name}= sets it to nothing")));
        }
        if let Some(env) = spec.pointer_mut("/Config/Env").and_then(Value::as_array_mut) {
            env.push(Value::String(entry.clone()));
        }
    }
    let set = |name: &String| change.labels.iter().any(|(set, _)| set == name);
    for name in change.label_rm.iter().filter(|name| !set(name)) {
        let of = |config: &Value| config.get("Labels")?.get(name).cloned();
        let Some(value) = of(image) else { continue };
        if of(own).as_ref() == Some(&value) {
            return Err(Wrong::new(format!(
                "--label-rm {name}: the image has it, and so has every container"
            ))
            .hint(format!("--label {name}= sets it to nothing")));
        }
        if let Some(labels) = spec.pointer_mut("/Config/Labels").and_then(Value::as_object_mut) {
            labels.insert(name.clone(), value);
        }
    }
    let nameless: BTreeSet<String> = anonymous(is).into_iter().map(|(_, at)| at).collect();
    let added: BTreeSet<String> = change.mount_add.iter().map(Mount::target).map(place).collect();
    let volumes = image.get("Volumes").and_then(Value::as_object);
    let of_image: BTreeSet<String> =
        volumes.into_iter().flat_map(Map::keys).map(|at| place(at)).collect();
    for target in &change.mount_rm {
        let at = place(target);
        if of_image.contains(&at) && nameless.contains(&at) && !added.contains(&at) {
            return Err(Wrong::new(format!(
                "--mount-rm {target}: the image asks for a volume there, and Docker would make an empty one"
            ))
            .hint(format!("--mount-rm {target} --mount-add VOLUME:{target} mounts another one there")));
        }
    }
    Ok(())
}

fn none_if_empty(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty()))
}

fn drop_equal(ours: &mut Map<String, Value>, theirs: Option<&Map<String, Value>>) {
    if let Some(theirs) = theirs {
        ours.retain(|key, value| theirs.get(key) != Some(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image() -> Value {
        json!({"Env": ["PATH=/bin", "MODE=a"], "Cmd": ["sh"], "Entrypoint": ["/init"],
            "Labels": {"vendor": "x"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": null,
            "User": "", "WorkingDir": "/w", "StopSignal": "SIGINT"})
    }

    #[test]
    fn what_the_image_implied_goes_and_what_the_user_said_stays() {
        let spec = json!({"Config": {"Env": ["PATH=/bin", "MODE=b"], "Cmd": ["sh"], "Entrypoint": ["/init"],
            "Labels": {"vendor": "x", "mine": "y"}, "ExposedPorts": {"80/tcp": {}, "22/tcp": {}},
            "User": "ada", "WorkingDir": "/w", "StopSignal": "SIGINT", "Image": "old"}});
        let left = without_image(&spec, &image());
        assert_eq!(
            left["Config"],
            json!({"Env": ["MODE=b"], "Labels": {"mine": "y"}, "ExposedPorts": {"22/tcp": {}},
                "User": "ada", "Image": "old"})
        );
    }

    #[test]
    fn what_the_image_says_is_not_taken_away_and_counts_where_something_else_is() {
        let image =
            json!({"Env": ["MODE=a"], "Labels": {"vendor": "x"}, "Volumes": {"/cache/": {}}});
        let is = |mode: &str, vendor: &str| {
            json!({"Config": {"Env": [format!("MODE={mode}")], "Labels": {"vendor": vendor}},
                "Mounts": [{"Type": "volume", "Name": "c1", "Destination": "/cache"}]})
        };
        let asked = |env: &str, label: &str, mount: &str| {
            let list = |text: &str| match text {
                "" => Vec::new(),
                text => vec![text.to_owned()],
            };
            Change {
                env_rm: list(env),
                label_rm: list(label),
                mount_rm: list(mount),
                ..Change::default()
            }
        };
        let done = |is: &Value, change: &Change| {
            let mut spec = crate::change::apply(is, change).unwrap();
            back_to_image(&mut spec, is, change, &image).map(|()| spec)
        };
        let same = is("a", "x");
        for change in [asked("MODE", "", ""), asked("", "vendor", ""), asked("", "", "/cache")] {
            assert!(done(&same, &change).unwrap_err().hint.is_some(), "{change:?}");
        }
        let spec = done(&is("b", "y"), &asked("MODE", "vendor", "")).unwrap();
        assert_eq!(spec["Config"], same["Config"]);
        // Another one there, and another value, are no such thing.
        let mut change = asked("MODE", "vendor", "/cache");
        change.env = vec![("MODE".into(), String::new())];
        change.labels = vec![("vendor".into(), String::new())];
        change.mount_add = vec![Mount::Bind("data:/cache".into())];
        assert_eq!(done(&same, &change).unwrap()["Config"]["Env"], json!(["MODE="]));
        // Nor is what somebody named.
        let mut named = same.clone();
        named["HostConfig"] = json!({"Binds": ["c1:/cache"]});
        assert!(done(&named, &asked("", "", "/cache")).is_ok());
    }

    #[test]
    fn a_command_that_the_user_gave_stays_with_its_entrypoint() {
        let of = |entrypoint: Value, cmd: Value| {
            let spec = json!({"Config": {"Entrypoint": entrypoint, "Cmd": cmd}});
            without_image(&spec, &image())["Config"].clone()
        };
        assert_eq!(of(json!(["/init"]), json!(["top"])), json!({"Cmd": ["top"]}));
        let own = json!({"Entrypoint": ["/bin/x"], "Cmd": ["sh"]});
        assert_eq!(of(json!(["/bin/x"]), json!(["sh"])), own);
    }
}
