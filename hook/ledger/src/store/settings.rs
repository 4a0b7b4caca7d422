//! From `[ledger]` of the config to an open store.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{EtcdOptions, EtcdStore, SqliteStore, Store, StoreError};
use crate::config::LedgerConfig;

/// A password or PEM file longer than this is refused, in bytes.
const LONGEST_FILE: u64 = 256 * 1024;

/// Opens the store that the config names. SQLite's file is created if it is not there; etcd is not
/// asked before the first call.
///
/// # Errors
/// [`StoreError::Settings`] for a wrong config or an untrustworthy file that it names, and what
/// [`SqliteStore::open`] says.
pub fn open(config: &LedgerConfig) -> Result<Box<dyn Store>, StoreError> {
    match Url::parse(&config.url)? {
        Url::Memory => Ok(Box::new(SqliteStore::in_memory(config.timeout())?)),
        Url::File(path) => Ok(Box::new(SqliteStore::open(&path, config.timeout())?)),
        Url::Etcd { tls, members } => {
            Ok(Box::new(EtcdStore::open(etcd_options(config, tls, members)?)))
        }
    }
}

/// The url of the config, understood.
#[derive(Debug, PartialEq, Eq)]
enum Url {
    Memory,
    File(PathBuf),
    Etcd { tls: bool, members: Vec<String> },
}

impl Url {
    fn parse(url: &str) -> Result<Self, StoreError> {
        if url == "sqlite::memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = url.strip_prefix("sqlite://") {
            let path = PathBuf::from(path);
            let named = path.file_name().is_some() && !url.ends_with('/');
            return if path.is_absolute() && named {
                Ok(Self::File(path))
            } else {
                Err(StoreError::Settings("url needs an absolute path, as in sqlite:///path/file"))
            };
        }
        let (tls, rest) = match (url.strip_prefix("etcd://"), url.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(StoreError::Settings("url is sqlite:///path, etcd:// or etcds://")),
        };
        if rest.contains('@') {
            return Err(StoreError::Settings("no password in url: set user and password_file"));
        }
        let members = rest.trim_end_matches('/').split(',').map(member).collect::<Option<_>>();
        members
            .map(|members| Self::Etcd { tls, members })
            .ok_or(StoreError::Settings("url names members as host:port,host2:port"))
    }
}

/// A member as host and port; the port is 2379 if none is said.
fn member(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        // An IPv6 address stands in brackets.
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return None;
            }
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
            if host.is_empty() || !host.bytes().all(plain) {
                return None;
            }
            (host.to_owned(), port)
        }
    };
    let port: u16 = port.unwrap_or("2379").parse().ok()?;
    (port != 0).then(|| format!("{host}:{port}"))
}

fn etcd_options(
    config: &LedgerConfig,
    tls: bool,
    members: Vec<String>,
) -> Result<EtcdOptions, StoreError> {
    let user = match (&config.user, &config.password_file) {
        (None, None) => None,
        (Some(user), Some(file)) => {
            let wrong = "password_file must hold one line";
            let text = String::from_utf8(read(file, true, "password_file")?)
                .map_err(|_| StoreError::Settings(wrong))?;
            let password = text.strip_suffix('\n').unwrap_or(&text);
            if password.is_empty() || password.contains('\n') {
                return Err(StoreError::Settings(wrong));
            }
            Some((user.clone(), password.to_owned()))
        }
        _ => return Err(StoreError::Settings("user and password_file go together")),
    };
    let pem = |file: &Option<PathBuf>, secret, key| {
        file.as_ref().map(|file| read(file, secret, key)).transpose()
    };
    let authority = pem(&config.ca_file, false, "ca_file")?;
    let identity = match (
        pem(&config.cert_file, false, "cert_file")?,
        pem(&config.key_file, true, "key_file")?,
    ) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert, key)),
        _ => return Err(StoreError::Settings("cert_file and key_file go together")),
    };
    let tls = match (tls, authority) {
        (true, Some(authority)) => Some((authority, identity)),
        (true, None) => return Err(StoreError::Settings("etcds:// needs ca_file")),
        (false, None) if identity.is_none() => None,
        // Else somebody believes that the line is encrypted, and it is not.
        (false, _) => return Err(StoreError::Settings("ca_file, cert_file: url must be etcds://")),
    };
    Ok(EtcdOptions { members, tls, user, timeout: config.timeout() })
}

/// Reads a small file. A secret one must be its owner's alone, and the owner root or, where we are
/// not root, ourselves; asked of the opened file, so that it is the one that is read.
fn read(path: &Path, secret: bool, key: &'static str) -> Result<Vec<u8>, StoreError> {
    let (unreadable, shared) = match key {
        "password_file" => (
            "password_file cannot be read",
            "password_file is not root's alone: chown root and chmod 600 it",
        ),
        "key_file" => {
            ("key_file cannot be read", "key_file is not root's alone: chown root and chmod 600 it")
        }
        "ca_file" => ("ca_file cannot be read", ""),
        _ => ("cert_file cannot be read", ""),
    };
    let unreadable = StoreError::Settings(unreadable);
    let open = || -> std::io::Result<(File, std::fs::Metadata)> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK)
            .open(path)?;
        let meta = file.metadata()?;
        Ok((file, meta))
    };
    let (file, meta) = open().map_err(|_| unreadable.clone())?;
    if !meta.is_file() || meta.len() > LONGEST_FILE {
        return Err(unreadable);
    }
    let ours = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    if secret && !(ours && meta.mode() & 0o077 == 0) {
        return Err(StoreError::Settings(shared));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE).read_to_end(&mut bytes).map_err(|_| unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn urls_are_understood() {
        assert_eq!(Url::parse("sqlite::memory:"), Ok(Url::Memory));
        assert_eq!(Url::parse("sqlite:///a/b.db"), Ok(Url::File("/a/b.db".into())));
        let members = vec!["h:1".to_owned(), "[::1]:2379".to_owned(), "h-2.x:2379".to_owned()];
        assert_eq!(
            Url::parse("etcds://h:1,[::1],h-2.x:2379"),
            Ok(Url::Etcd { tls: true, members })
        );
    }

    #[test]
    fn wrong_urls_are_refused() {
        for bad in [
            "",
            "sqlite://",
            "sqlite://a/b",
            "sqlite:///",
            "sqlite:///a/",
            "sqlite:a",
            "http://h",
            "etcd://",
            "etcd://h:0",
            "etcd://h:x",
            "etcd://h:1,,g:1",
            "etcd://u:p@h:1",
            "etcd://h/x",
            "etcd://[::1",
            "etcd://[]:1",
            "etcd://::1",
        ] {
            assert!(matches!(Url::parse(bad), Err(StoreError::Settings(_))), "{bad}");
        }
    }

    fn with_password(mode: u32, text: &str) -> Result<EtcdOptions, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let config = LedgerConfig {
            user: Some("gpu1".into()),
            password_file: Some(file),
            ..LedgerConfig::default()
        };
        etcd_options(&config, false, vec!["h:1".into()])
    }

    #[test]
    fn a_password_is_read_only_from_a_file_of_our_own() {
        let options = with_password(0o600, "secret\n").unwrap();
        assert_eq!(options.user, Some(("gpu1".into(), "secret".into())));
        assert!(!format!("{options:?}").contains("secret"));
        for mode in [0o644, 0o640, 0o604] {
            assert!(with_password(mode, "secret\n").is_err(), "{mode:o}");
        }
        for text in ["", "\n", "a\nb\n"] {
            assert!(with_password(0o600, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn settings_that_would_not_do_what_they_seem_to_are_refused() {
        let options = |change: fn(&mut LedgerConfig), tls| {
            let mut config = LedgerConfig::default();
            change(&mut config);
            etcd_options(&config, tls, vec!["h:1".into()])
        };
        assert!(options(|_| (), false).is_ok());
        assert!(options(|_| (), true).is_err(), "TLS without an authority");
        assert!(options(|c| c.user = Some("u".into()), false).is_err(), "user without password");
        assert!(options(|c| c.ca_file = Some("/etc/hostname".into()), false).is_err(), "not TLS");
        assert!(options(|c| c.cert_file = Some("/etc/hostname".into()), false).is_err(), "no key");
    }
}
