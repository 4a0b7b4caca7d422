//! The size backend: Docker's local driver with its option `size`, which sets a project quota of XFS.
//! See docs/adr/0016.

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::{ByteSize, DockerName, Token};
use serde_json::{Value, json};

use super::usage::{self, Usage};
use super::{GivenUp, MakeError, OPERATION_LABEL, Sizing, Spec, mount_of, rules};
use crate::docker::Docker;
use crate::engine::api::Failure;
use crate::faults;

/// The image from which a container is created that mounts a new volume once; it is removed again.
const IMAGE: &str = "gpuctl-volume";
/// The folder in it.
const FOLDER: &str = "v";

/// The backend.
#[derive(Debug)]
pub(crate) struct Sized<'a> {
    /// The Engine.
    pub(crate) docker: &'a Docker,
}

/// Why Docker cannot keep volumes below its root to a size; `None` where it can.
pub(crate) fn why_not(docker_root: &Path) -> Option<String> {
    let root = docker_root.display();
    let mount = match mount_of(docker_root) {
        Ok(Some(mount)) => mount,
        _ => return Some(format!("what {root} lies on cannot be found out")),
    };
    if mount.kind != "xfs" {
        return Some(format!("{root} is on {}, and only xfs has the quotas it needs", mount.kind));
    }
    let has = mount.options.split(',').any(|o| matches!(o, "prjquota" | "pquota"));
    (!has).then(|| format!("{root} is on xfs without project quotas: mount it with pquota"))
}

impl Sized<'_> {
    /// Where Docker has the volume's files.
    fn folder(&self, spec: &Spec) -> Result<PathBuf, Failure> {
        let name = &spec.docker_name;
        let shown = self.docker.volume(name)?;
        let path = shown.as_ref().and_then(|v| v["Mountpoint"].as_str()).map(PathBuf::from);
        path.ok_or_else(|| {
            Failure::new(format!("Docker has no volume {name} any more"))
                .hint("docker gpuctl doctor tells more")
        })
    }

    /// Has Docker mount the volume once, by a container that is created and never started: only then
    /// does it set the limit, and only what is written after that counts.
    fn mount_once(&self, spec: &Spec, token: &Token) -> Result<(), Failure> {
        let tag = token.as_str();
        let reference = format!("{IMAGE}:{tag}");
        self.docker.import_image(IMAGE, tag, &tar_of_one_folder(FOLDER))?;
        faults::point("size:image");
        let body = json!({
            "Image": reference,
            "Cmd": ["-"],
            "Labels": {OPERATION_LABEL: tag},
            "NetworkDisabled": true,
            "HostConfig": {
                "NetworkMode": "none",
                "Binds": [format!("{}:/{FOLDER}", spec.docker_name)],
            },
        });
        let made =
            container_name(token).and_then(|name| Ok(self.docker.create_plain(&name, &body)?));
        faults::point("size:mounted");
        let removed = made.and_then(|id| Ok(self.docker.remove(id.as_str(), true, false)?));
        faults::point("size:container");
        let image = self.docker.remove_image(&reference);
        removed?;
        Ok(image?)
    }

    /// Whether the limit holds: below a folder with a project, XFS shows its limit as the size of the
    /// filesystem.
    fn is_limited(&self, spec: &Spec, folder: &Path) -> bool {
        let wanted = rules::whole_blocks(spec.size);
        usage::free(folder)
            .is_ok_and(|(_, all)| all == wanted || all == spec.size.0 / rules::BLOCK * rules::BLOCK)
    }

    /// Removes what a [`Self::mount_once`] that was broken off has left.
    fn remove_helper(&self, token: &Token) -> Result<(), Failure> {
        let name = container_name(token)?;
        if let Some(there) = self.docker.inspect(name.as_str())?
            && there.label(OPERATION_LABEL) == Some(token.as_str())
            && let Some(id) = there.id()
        {
            self.docker.remove(id.as_str(), true, false)?;
        }
        match self.docker.remove_image(&format!("{IMAGE}:{token}")) {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn container_name(token: &Token) -> Result<DockerName, Failure> {
    DockerName::new(format!("{IMAGE}-{token}")).map_err(|e| Failure::new(e.to_string()))
}

impl Sizing for Sized<'_> {
    fn check_free(&self, spec: &Spec) -> Result<(), Failure> {
        super::check_docker_free(self.docker, &spec.docker_name)
    }

    fn make(&self, spec: &Spec, token: &Token, _: GivenUp<'_>) -> Result<Value, MakeError> {
        let size = [("size", rules::docker_size(spec.size))];
        super::docker_volume(self.docker, spec, token, &size)?;
        faults::point("size:volume");
        self.mount_once(spec, token)?;
        if self.is_limited(spec, &self.folder(spec)?) {
            return Ok(Value::Null);
        }
        Err(MakeError::Unlimited)
    }

    fn content(&self, spec: &Spec) -> Result<PathBuf, Failure> {
        self.folder(spec)
    }

    fn usage(&self, spec: &Spec) -> Result<Option<Usage>, Failure> {
        let folder = self.folder(spec)?;
        if !self.is_limited(spec, &folder) {
            let used = usage::of_tree(&folder)?;
            return Ok(Some(Usage { size: spec.size, used }));
        }
        let read = usage::free(&folder).map_err(|e| {
            Failure::new(format!("{} cannot be read: {}", folder.display(), plain_io_error(&e)))
        });
        let (free, all) = read?;
        Ok(Some(Usage { size: spec.size, used: ByteSize(all.saturating_sub(free)) }))
    }

    fn sync(&self, spec: &Spec) -> Result<(), Failure> {
        let folder = self.folder(spec)?;
        let shown = folder.display();
        let opened = std::fs::File::open(&folder)
            .map_err(|e| Failure::new(format!("{shown} cannot be read: {}", plain_io_error(&e))))?;
        nix::unistd::syncfs(&opened).map_err(|e| {
            Failure::new(format!("{shown} could not be written to the disk: {}", e.desc()))
                .hint("is Docker's disk full?")
        })
    }

    fn remove(&self, spec: &Spec, token: Option<&Token>) -> Result<(), Failure> {
        if let Some(token) = token {
            self.remove_helper(token)?;
        }
        super::remove_docker_volume(self.docker, &spec.docker_name, token)
    }
}

/// A tar archive of one empty folder, root's.
fn tar_of_one_folder(name: &str) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| {
        if let Some(field) = header.get_mut(at..at + text.len()) {
            field.copy_from_slice(text.as_bytes());
        }
    };
    put(0, &format!("{name}/"));
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, "00000000000\0");
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "5");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(sum.as_bytes());
    }
    let mut archive = header.to_vec();
    // Two empty blocks end it.
    archive.resize(512 * 3, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        std::fs::write(&file, tar_of_one_folder("v")).unwrap();
        let out = std::process::Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && text.starts_with("drwxr-xr-x 0/0"), "{text}");
        assert!(text.trim_end().ends_with(" v/"), "{text}");
    }

    #[test]
    fn what_is_no_xfs_has_no_such_quotas() {
        let why = why_not(Path::new("/proc")).unwrap();
        assert!(why.contains("/proc is on proc"), "{why}");
    }
}
