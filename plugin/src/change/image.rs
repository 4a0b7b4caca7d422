//! What of a container's config its image implies.

use serde_json::{Map, Value};

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
