//! What Docker refuses only once the old container is down, refused while it runs.

mod ties;

use serde_json::Value;

use crate::engine::api::Failure;
use crate::engine::change::Subject;
use crate::engine::context::Context;
use crate::engine::ports;
use crate::volume::engine_hides;

/// The spec for the new container as it can be made. Read only.
///
/// # Errors
/// When it cannot, and the Engine's and the ledger's.
pub(super) fn possible(ctx: &Context, subject: &Subject, spec: &Value) -> Result<Value, Failure> {
    let spec = ties::followed(ctx, spec)?;
    let host = ctx.docker()?.host().to_owned();
    if let Some(source) = missing(&spec, |path| engine_hides(&host, path.as_ref())) {
        return Err(Failure::new(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {source}"
        ))
        .hint("make it first; -v's form, SOURCE:TARGET, has Docker make it"));
    }
    let name = &subject.found.record.record.name;
    ports::free::check(ctx, name, (&subject.shown, &subject.is), &spec)?;
    Ok(spec)
}

/// A folder that is not there, which Docker does not make: it does for `-v`, and where it is told to.
fn missing(spec: &Value, hidden: impl Fn(&str) -> bool) -> Option<&str> {
    let mounts = spec.pointer("/HostConfig/Mounts").and_then(Value::as_array);
    mounts.into_iter().flatten().find_map(|mount| {
        let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        let made = mount.pointer("/BindOptions/CreateMountpoint") == Some(&Value::Bool(true));
        let source = text("Source");
        (text("Type") == "bind" && !made && hidden(source)).then_some(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_that_docker_makes_is_not_missing() {
        let bind = |source: &str, made: bool| {
            json!({"Type": "bind", "Source": source, "Target": "/t",
            "BindOptions": {"CreateMountpoint": made}})
        };
        let of = |mount: Value| {
            let spec = json!({"HostConfig": {"Binds": ["/none:/b"], "Mounts": [mount]}});
            missing(&spec, |path| path.starts_with("/none")).map(str::to_owned)
        };
        assert_eq!(of(bind("/none", false)), Some("/none".to_owned()));
        assert_eq!(of(bind("/there", false)), None);
        assert_eq!(of(bind("/none", true)), None);
        assert_eq!(of(json!({"Type": "volume", "Source": "data", "Target": "/t"})), None);
        assert_eq!(of(json!({"Type": "tmpfs", "Target": "/t"})), None);
    }
}
