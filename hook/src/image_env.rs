//! Whether a word in a container's environment is its image's own or its user's.
//!
//! dockerd merges both at create and keeps only the outcome (`Config.Env` in config.v2.json): first
//! what the user gave, in order, then what the image says of other names, in the image's order. So
//! with the image's own list at hand the order tells. It does not where the user repeats the image's
//! very word and nothing of the image's stands before it: that counts as the image's. So does a word
//! of an image that cannot be read (removed since, or in a store elsewhere).

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::{Config, ImageEnvPolicy};
use gpuctl_ledger::node::docker::{ContainerConfig, DockerFiles};
use gpuctl_ledger::node::files;
use serde_json::Value;

use crate::request;
use crate::spec::Spec;

/// Why a container whose image says `all` has no GPU.
pub const IGNORED: &str = "only its image asks for all GPUs, and policy.image_env is \"ignore\"";
/// Longest file of an image that is read, in bytes.
const LONGEST: u64 = 8 << 20;
/// The most manifests of one index that are looked at.
const MOST: usize = 64;
/// The platforms' own content stores: dockerd's own containerd below its root, and the system's.
const CONTENT: &str = "io.containerd.content.v1.content/blobs/sha256";
const SYSTEM_CONTAINERD: &str = "/var/lib/containerd";

/// What is made of the environment's `all`, where something honours it and it is the image's own word.
/// Only then are the image's files looked at. `heeded` are the variables that stood in its place.
pub fn policy(
    config: &Config,
    spec: &Spec,
    files: Option<&DockerFiles>,
    nvidia_runtime: bool,
    heeded: &[String],
) -> Option<ImageEnvPolicy> {
    let container = &files?.container;
    let honoured = nvidia_runtime || request::has_legacy_hook(spec);
    let says_all = (honoured && request::env_says_all(spec))
        || request::answered_all(spec, &container.config.env);
    if !says_all {
        return None;
    }
    let own = |name: &str| is_images_own(&config.docker.root, container, name);
    let images = match heeded {
        [] => own(request::VISIBLE),
        names => names.iter().all(|name| own(name)),
    };
    images.then_some(config.policy.image_env)
}

fn key(entry: &str) -> &str {
    entry.split('=').next().unwrap_or_default()
}

/// Whether `name` in a container's merged environment comes from its image: pure. See the module.
pub fn from_image(image: &[String], merged: &[String], name: &str) -> bool {
    let Some(at) = merged.iter().position(|entry| key(entry) == name) else {
        // Nobody says it: then neither does the user.
        return true;
    };
    let Some(of_image) = image.iter().position(|entry| key(entry) == name) else { return false };
    if image.get(of_image) != merged.get(at) {
        return false;
    }
    let (before, rest) = merged.split_at(at);
    // All that follows must be just what the image says behind it and nobody has said before.
    let said = |entry: &&String| before.iter().any(|b| key(b) == key(entry));
    let expected = image.iter().skip(of_image).filter(|entry| !said(entry));
    rest.iter().eq(expected)
}

/// The same for a container as Docker wrote it down.
pub fn is_images_own(docker_root: &Path, container: &ContainerConfig, name: &str) -> bool {
    let merged = &container.config.env;
    let digests = [container.image_manifest.digest.as_str(), container.image.as_str()];
    let images = digests.iter().find_map(|digest| envs(docker_root, digest));
    images.is_none_or(|images| images.iter().any(|image| from_image(image, merged, name)))
}

/// The environments that an image may have, one for each platform; `None` where it cannot be read.
fn envs(docker_root: &Path, digest: &str) -> Option<Vec<Vec<String>>> {
    let hex = digest.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    // The classic store keeps the config itself under the image's id.
    let image = docker_root.join("image");
    for driver in std::fs::read_dir(image).into_iter().flatten().take(MOST).flatten() {
        if let Some(config) = read(driver.path().join("imagedb/content/sha256").join(hex)) {
            return env_of(&config).map(|env| vec![env]);
        }
    }
    let stores = [docker_root.join("containerd/daemon"), PathBuf::from(SYSTEM_CONTAINERD)];
    let blob = |hex: &str| stores.iter().find_map(|s| read(s.join(CONTENT).join(hex)));
    let referred = |value: &Value| -> Option<Value> {
        let hex = value.get("digest")?.as_str()?.strip_prefix("sha256:")?;
        blob(Some(hex).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?)
    };
    let top = blob(hex)?;
    let manifests: Vec<Value> = match top.get("manifests").and_then(Value::as_array) {
        Some(list) => list.iter().take(MOST).filter_map(referred).collect(),
        None => vec![top],
    };
    let configs = manifests.iter().filter_map(|m| referred(m.get("config")?));
    let found: Vec<Vec<String>> = configs.filter_map(|config| env_of(&config)).collect();
    (!found.is_empty()).then_some(found)
}

fn read(path: PathBuf) -> Option<Value> {
    serde_json::from_slice(&files::read_trusted(&path, LONGEST).ok()?).ok()
}

/// `config.Env` of an image's config; no list is an empty one.
fn env_of(config: &Value) -> Option<Vec<String>> {
    let list = config.get("config")?.get("Env").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    Some(texts.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "NVIDIA_VISIBLE_DEVICES";

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// As dockerd does it.
    fn merged(user: &str, image: &str) -> Vec<String> {
        let mut env = list(user);
        for entry in list(image) {
            if !env.iter().any(|e| key(e) == key(&entry)) {
                env.push(entry);
            }
        }
        env
    }

    #[test]
    fn the_order_tells_the_users_word_from_the_images() {
        let image = "PATH=/bin NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute";
        for (user, own) in [
            ("", true),
            ("A=1", true),
            ("PATH=/x NVIDIA_DRIVER_CAPABILITIES=all", true),
            ("NVIDIA_VISIBLE_DEVICES=all", false),
            ("A=1 NVIDIA_VISIBLE_DEVICES=all B=2", false),
            ("NVIDIA_VISIBLE_DEVICES=0", false),
            ("NVIDIA_VISIBLE_DEVICES=all PATH=/x", false),
            ("PATH=/bin NVIDIA_VISIBLE_DEVICES=all B=1", false),
        ] {
            assert_eq!(from_image(&list(image), &merged(user, image), NAME), own, "{user}");
        }
        // The image says nothing of it.
        assert!(!from_image(
            &list("PATH=/bin"),
            &merged("NVIDIA_VISIBLE_DEVICES=all", "PATH=/bin"),
            NAME
        ));
        // An old CUDA image, which says nothing and means all.
        assert!(from_image(&list("CUDA_VERSION=8"), &merged("A=1", "CUDA_VERSION=8"), NAME));
    }

    #[test]
    fn what_cannot_be_told_apart_counts_as_the_images() {
        let image = "NVIDIA_VISIBLE_DEVICES=all PATH=/bin";
        let same = merged("NVIDIA_VISIBLE_DEVICES=all", image);
        assert_eq!(same, merged("", image));
        assert!(from_image(&list(image), &same, NAME));
    }

    #[test]
    fn both_stores_are_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |folder: &str, hex: &str, value: Value| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(hex), value.to_string()).unwrap();
        };
        let id = |c: char| c.to_string().repeat(64);
        let config = serde_json::json!({"config": {"Env": ["PATH=/bin", "A=1"]}});
        write("image/overlay2/imagedb/content/sha256", &id('a'), config.clone());
        let digest = |c| serde_json::json!({"digest": format!("sha256:{}", id(c))});
        let blobs = format!("containerd/daemon/{CONTENT}");
        write(&blobs, &id('b'), serde_json::json!({"manifests": [digest('c'), digest('f')]}));
        write(&blobs, &id('c'), serde_json::json!({"config": digest('d')}));
        write(&blobs, &id('d'), config);
        let of = |c| envs(root.path(), &format!("sha256:{}", id(c)));
        for c in ['a', 'b', 'c'] {
            assert_eq!(of(c), Some(vec![list("PATH=/bin A=1")]), "{c}");
        }
        assert_eq!(of('e'), None);
        assert_eq!(envs(root.path(), "sha256:../x"), None);
    }
}
