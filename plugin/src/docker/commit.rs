//! An image of a container.

use std::time::Duration;

use gpuctl_ledger::model::ContainerId;
use serde_json::Value;

use super::{Docker, DockerError};

/// The limit of a commit: the Engine reads, packs and writes the whole writable layer.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How an image is made of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// What it is called: `repository[:tag]`.
    pub image: Option<String>,
    /// Who made it.
    pub author: String,
    /// What it is.
    pub message: String,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    /// Whether the container is paused meanwhile.
    pub pause: bool,
}

impl Docker {
    /// Makes an image of a container, running or not; the image's id.
    ///
    /// # Errors
    /// [`DockerError`]: of a name that is none, a change that is none.
    pub fn commit(&self, id: &ContainerId, how: &Commit) -> Result<String, DockerError> {
        let image = self.raw("POST", &path(id, how), None, LIMIT)?;
        let id = image.get("Id").and_then(Value::as_str).filter(|id| !id.is_empty());
        id.map(str::to_owned).ok_or_else(|| DockerError::Odd("commit gave no id".into()))
    }
}

fn path(id: &ContainerId, how: &Commit) -> String {
    let mut path = format!("/commit?container={id}&pause={}", u8::from(how.pause));
    let mut add = |key: &str, value: &str| path.push_str(&format!("&{key}={}", encoded(value)));
    if let Some(image) = &how.image {
        let (repository, tag) = parts(image);
        add("repo", repository);
        add("tag", tag);
    }
    add("author", &how.author);
    add("comment", &how.message);
    for change in &how.changes {
        add("changes", change);
    }
    path
}

/// Whether an image can be called so: the CLI looks at that, and the Engine makes the image first and then
/// finds no name for it.
pub fn is_name(image: &str) -> bool {
    let (repository, tag) = parts(image);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tag_fits = tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'));
    let tag_fits = tag_fits || tag.is_empty() && !image.ends_with(':');
    let path_fits = |part: &str| {
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends = part.starts_with(small) && part.ends_with(small);
        let twice = ["..", "._", "_.", ".-", "-.", "_-", "-_", "___"];
        ends && !twice.iter().any(|two| part.contains(two))
            && part.chars().all(|c| small(c) || matches!(c, '.' | '_' | '-'))
    };
    // The first of several may be a host: it has a dot or a port, or is localhost.
    let host_fits = |part: &str| {
        let (name, port) = part.split_once(':').unwrap_or((part, "0"));
        let is_host = part.contains(['.', ':']) || part == "localhost";
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let port_fits = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
        is_host && !name.is_empty() && name.chars().all(known) && port_fits
    };
    let repository_fits = match repository.split_once('/') {
        Some((first, rest)) => {
            (host_fits(first) || path_fits(first)) && rest.split('/').all(path_fits)
        }
        None => path_fits(repository),
    };
    tag_fits && repository_fits && repository.len() <= 255
}

/// `host:5000/train:v1` is `host:5000/train` and `v1`.
fn parts(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let of = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_engine_says_everything_and_breaks_out_of_nothing() {
        let how = Commit {
            image: Some("host:5000/a/train:v1".into()),
            author: "Ada <ada@x>&pause=0".into(),
            message: "größer\n".into(),
            changes: vec!["ENV A=b c".into(), "LABEL x=".into()],
            pause: true,
        };
        let id = ContainerId::new("a".repeat(64)).unwrap();
        let expected = format!(
            "/commit?container={id}&pause=1&repo=host%3A5000%2Fa%2Ftrain&tag=v1\
             &author=Ada%20%3Cada%40x%3E%26pause%3D0&comment=gr%C3%B6%C3%9Fer%0A\
             &changes=ENV%20A%3Db%20c&changes=LABEL%20x%3D"
        );
        assert_eq!(path(&id, &how), expected);
        let without = path(&id, &Commit::default());
        assert_eq!(without, format!("/commit?container={id}&pause=0&author=&comment="));
    }

    #[test]
    fn a_name_is_told_from_what_the_engine_would_make_an_image_without_one_for() {
        let good = [
            "a",
            "train:v1",
            "host:5000/a/b",
            "host:5000/a:V_1.x-",
            "Host.Example/a",
            "localhost/x",
            "a_b/c__d/e-f--g.h",
            "library/a",
        ];
        for name in good {
            assert!(is_name(name), "{name}");
        }
        let long = format!("a:{}", "t".repeat(129));
        let bad = [
            "",
            ":",
            "a:",
            ":v1",
            "UPPER",
            "x:y:z",
            "a:b/c:d",
            "x@sha256:aaaa",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a b",
            "a:v 1",
            "a:-v",
            "é",
            "Host/a",
            &long,
        ];
        for name in bad {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(parts("train"), ("train", ""));
        assert_eq!(parts("train:v1"), ("train", "v1"));
        assert_eq!(parts("host:5000/train"), ("host:5000/train", ""));
    }
}
