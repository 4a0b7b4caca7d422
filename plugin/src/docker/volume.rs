//! Docker's volumes, and which containers mount them.

use gpuctl_ledger::model::{ContainerId, DockerName, VolumeName};
use serde_json::{Map, Value, json};

use super::{Docker, DockerError, START_LIMIT};

/// A container that mounts a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The volume's name.
    pub volume: String,
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it runs, or may at any moment.
    pub running: bool,
    /// Whether it may write there.
    pub writes: bool,
}

/// The longest name of a volume that can stand in a path.
fn checked(name: &str) -> Result<&str, DockerError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if first && name.len() <= 255 && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(DockerError::NotFound(match VolumeName::new(name) {
        Err(why) => why.to_string(),
        Ok(_) => format!("no volume {name}"),
    }))
}

impl Docker {
    /// What inspect shows of a volume; `None` where there is none.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn volume(&self, name: &str) -> Result<Option<Value>, DockerError> {
        let Ok(name) = checked(name) else { return Ok(None) };
        match self.raw("GET", &format!("/volumes/{name}"), None, self.limit) {
            Ok(shown @ Value::Object(_)) => Ok(Some(shown)),
            Ok(_) => Err(DockerError::Odd("a volume is no object".into())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What inspect shows of all volumes.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn volumes(&self) -> Result<Vec<Value>, DockerError> {
        let mut answer = self.raw("GET", "/volumes", None, self.limit)?;
        match answer.get_mut("Volumes").map(Value::take) {
            Some(Value::Array(all)) => Ok(all),
            _ => Ok(Vec::new()),
        }
    }

    /// Makes a volume of the local driver. One that is there already is left as it is and shown.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn create_volume(
        &self,
        name: &str,
        options: &[(&str, String)],
        labels: &[(String, String)],
    ) -> Result<Value, DockerError> {
        let options: Map<String, Value> =
            options.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect();
        let labels: Map<String, Value> =
            labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let name = checked(name)?;
        let body =
            json!({"Name": name, "Driver": "local", "DriverOpts": options, "Labels": labels});
        self.raw("POST", "/volumes/create", Some(&body), self.limit)
    }

    /// Removes a volume that no container names.
    ///
    /// # Errors
    /// [`DockerError::Conflict`] where one does.
    pub fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let path = format!("/volumes/{}", checked(name)?);
        // What is in it goes with it.
        self.raw("DELETE", &path, None, START_LIMIT.max(self.limit) * 10).map(drop)
    }

    /// Makes an image of a tar archive.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn import_image(&self, name: &str, tag: &str, tar: &[u8]) -> Result<(), DockerError> {
        let path =
            format!("/images/create?fromSrc=-&repo={}&tag={}", checked(name)?, checked(tag)?);
        let body = ("application/x-tar", hyper::body::Bytes::copy_from_slice(tar));
        let version = self.client()?.1;
        self.exchange_bytes("POST", &path, body, Some(version), START_LIMIT)?;
        // What went wrong stands in the middle of its good answer.
        match self.image_id(&format!("{name}:{tag}"))? {
            Some(_) => Ok(()),
            None => Err(DockerError::Odd("the image that was imported is not there".into())),
        }
    }

    /// Removes an image, or only its name where it has others.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn remove_image(&self, reference: &str) -> Result<(), DockerError> {
        let (name, tag) = reference.split_once(':').unwrap_or((reference, "latest"));
        let path = format!("/images/{}:{}", checked(name)?, checked(tag)?);
        self.raw("DELETE", &path, None, START_LIMIT).map(drop)
    }

    /// Creates a container from the body of a create.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn create_plain(
        &self,
        name: &DockerName,
        body: &Value,
    ) -> Result<ContainerId, DockerError> {
        let path = format!("/containers/create?name={name}");
        let answer = self.raw("POST", &path, Some(body), START_LIMIT)?;
        super::create::created_id(&answer)
            .ok_or_else(|| DockerError::Odd("create gave no id".into()))
    }

    /// Every mount of a volume by a container, running or not.
    ///
    /// # Errors
    /// [`DockerError`].
    pub fn volume_users(&self) -> Result<Vec<User>, DockerError> {
        let all = self.raw("GET", "/containers/json?all=1", None, self.limit)?;
        Ok(all.as_array().into_iter().flatten().flat_map(users).collect())
    }
}

fn users(container: &Value) -> Vec<User> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let names = container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // A link shows as another name with a slash in it.
    let mut names = names.map(|n| n.trim_start_matches('/')).filter(|n| !n.contains('/'));
    let name = names.next().unwrap_or_default();
    let idle = ["created", "exited", "dead"];
    let running = !idle.contains(&container["State"].as_str().unwrap_or_default());
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    mounts
        .filter(|mount| mount["Type"] == "volume")
        .map(|mount| User {
            volume: text(mount, "Name"),
            id: text(container, "Id"),
            name: name.to_owned(),
            running,
            writes: mount["RW"].as_bool().unwrap_or(true),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_shown_with_every_volume_that_it_mounts() {
        let container = json!({
            "Id": "ab", "Names": ["/x/link", "/train-0"], "State": "paused",
            "Mounts": [
                {"Type": "volume", "Name": "data-0", "RW": true},
                {"Type": "bind", "Source": "/data-0", "RW": true},
                {"Type": "volume", "Name": "models-1", "RW": false},
            ],
        });
        let found = users(&container);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].volume.as_str(), found[0].name.as_str()), ("data-0", "train-0"));
        assert!(found[0].running && found[0].writes && !found[1].writes);
        let stopped =
            json!({"Id": "ab", "State": "exited", "Mounts": [{"Type": "volume", "Name": "d"}]});
        assert!(!users(&stopped)[0].running);
    }

    #[test]
    fn no_name_leaves_its_path() {
        for bad in ["", "..", "a/b", "-a", "a%2fb", "a b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert!(checked("data-0").is_ok());
    }
}
