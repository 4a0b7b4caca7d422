//! Whether an upper directory is all that was written: with some settings of overlay, part of it lies
//! elsewhere.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use gpuctl_ledger::node::files;

use super::LayerError;

const PARAMETERS: &str = "/sys/module/overlay/parameters";
/// Files with these have their content in a layer below.
pub(super) const METACOPY: [&CStr; 2] = [c"trusted.overlay.metacopy", c"user.overlay.metacopy"];

/// A setting that makes an upper directory less than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Metacopy,
    Index,
}

impl Setting {
    const ALL: [Self; 2] = [Self::Metacopy, Self::Index];

    fn name(self) -> &'static str {
        match self {
            Self::Metacopy => "metacopy",
            Self::Index => "index",
        }
    }
}

/// What overlays of this kernel have on where their mount does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) metacopy: bool,
    pub(super) index: bool,
}

impl Kernel {
    /// As it is now. A kernel that does not know a setting has it off.
    pub(super) fn read() -> Self {
        let on = |setting: Setting| {
            let value = files::read_bounded(&Path::new(PARAMETERS).join(setting.name()), 16);
            value.is_ok_and(|value| value.starts_with(b"Y"))
        };
        Self { metacopy: on(Setting::Metacopy), index: on(Setting::Index) }
    }

    fn has(self, setting: Setting) -> bool {
        match setting {
            Setting::Metacopy => self.metacopy,
            Setting::Index => self.index,
        }
    }
}

/// A mounted overlay that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    upper: PathBuf,
    options: Vec<String>,
}

/// The overlays in mountinfo's text that have an upper directory.
pub(super) fn mounted(mountinfo: &str) -> Vec<Mounted> {
    let overlays = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split_once(" - ")?.1.split(' ');
        (fields.next()? == "overlay").then_some(())?;
        let options: Vec<String> = fields.nth(1)?.split(',').map(str::to_owned).collect();
        let upper = options.iter().find_map(|option| option.strip_prefix("upperdir="))?;
        Some(Mounted { upper: unescape(upper).into(), options })
    });
    overlays.collect()
}

/// The kernel writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

impl Mounted {
    /// Whether this is its upper directory. Where many layers make the options too long, Docker mounts
    /// with paths that begin at its own folder.
    pub(super) fn is_on(&self, upper: &Path) -> bool {
        upper == self.upper || (self.upper.is_relative() && upper.ends_with(&self.upper))
    }

    /// Whether it is kept beside the other, by the same driver.
    fn is_beside(&self, upper: &Path) -> bool {
        self.upper.is_relative() || super::home(&self.upper) == super::home(upper)
    }

    /// What its mount says of a setting; the kernel shows only what is not its default.
    fn says(&self, setting: Setting) -> Option<bool> {
        self.options.iter().find_map(|option| {
            let value = option.strip_prefix(setting.name())?.strip_prefix('=')?;
            Some(value == "on")
        })
    }
}

/// Refuses a layer that was, or may have been, written with a setting with which it is not whole.
/// A container that is not mounted is taken to be as those beside it are, if there are any: Docker and
/// containerd mount all with `index=off`. Pure.
pub(super) fn check_settings(
    kernel: &Kernel,
    mounted: &[Mounted],
    upper: &Path,
) -> Result<(), LayerError> {
    for setting in Setting::ALL {
        let default = kernel.has(setting);
        let beside: Vec<bool> = mounted
            .iter()
            .filter(|mount| mount.is_beside(upper))
            .map(|mount| mount.says(setting).unwrap_or(default))
            .collect();
        let own = mounted.iter().find(|mount| mount.is_on(upper));
        let on = match own {
            Some(own) => own.says(setting).unwrap_or(default),
            None if beside.is_empty() => default,
            None => beside.contains(&true),
        };
        if on {
            let name = setting.name();
            return Err(LayerError::refused(
                format!(
                    "overlays on this host have {name} on: a writable layer is not whole by itself then"
                ),
                format!(
                    "echo N >{PARAMETERS}/{name} turns it off for containers that are started from then on"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a layer whose overlay was once mounted with an index.
pub(super) fn check_index(upper: &Path) -> Result<(), LayerError> {
    let Some(index) = upper.parent().map(|above| above.join("work/index")) else { return Ok(()) };
    match std::fs::read_dir(&index).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(LayerError::refused(
            format!(
                "its overlay keeps an index in {}, and is not whole without it",
                index.display()
            ),
            "docker commit makes an image of it, which docker gpuctl run can start",
        )),
        _ => Ok(()),
    }
}

/// The refusal of a file whose content lies in a layer below.
pub(super) fn is_metacopy(file: &Path) -> LayerError {
    LayerError::refused(
        format!(
            "{file:?} in its writable layer is a name only, its content lies in a layer below (metacopy)"
        ),
        "docker commit makes an image of it, which docker gpuctl run can start",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPPER: &str = "/var/lib/docker/overlay2/one/diff";

    fn line(upper: &str, options: &str) -> String {
        format!(
            "99 1 0:50 / /m rw,relatime shared:1 - overlay overlay rw,lowerdir=/l,upperdir={upper},workdir=/w{options}\n"
        )
    }

    fn refused(kernel: Kernel, mounts: &str) -> bool {
        check_settings(&kernel, &mounted(mounts), Path::new(UPPER)).is_err()
    }

    const OFF: Kernel = Kernel { metacopy: false, index: false };
    const METACOPY: Kernel = Kernel { metacopy: true, index: false };
    const INDEX: Kernel = Kernel { metacopy: false, index: true };

    #[test]
    fn the_layers_own_mount_says_how_it_is_written() {
        let own = |options| line(UPPER, options);
        assert!(!refused(OFF, &own("")));
        assert!(refused(OFF, &own(",metacopy=on")));
        assert!(refused(OFF, &own(",index=on")));
        assert!(refused(METACOPY, &own("")) && refused(INDEX, &own("")));
        assert!(!refused(METACOPY, &own(",metacopy=off")));
        assert!(!refused(INDEX, &own(",index=off")));
    }

    #[test]
    fn where_it_is_not_mounted_those_beside_it_tell_else_the_kernel() {
        let beside = |options| line("/var/lib/docker/overlay2/two/diff", options);
        let elsewhere = line("/srv/other/deep/three/diff", ",index=off");
        assert!(!refused(OFF, ""));
        assert!(refused(METACOPY, "") && refused(INDEX, ""));
        assert!(!refused(INDEX, &beside(",index=off")));
        assert!(refused(INDEX, &elsewhere), "another driver's mounts say nothing of Docker's");
        assert!(refused(INDEX, &(beside(",index=off") + &beside(""))));
        assert!(refused(OFF, &beside(",metacopy=on")));
    }

    #[test]
    fn an_upper_directory_is_known_by_its_whole_path_or_its_end() {
        let of = |upper| mounted(&line(upper, "")).pop().unwrap();
        assert!(of(UPPER).is_on(Path::new(UPPER)));
        assert!(of("one/diff").is_on(Path::new(UPPER)));
        assert!(!of("e/diff").is_on(Path::new(UPPER)));
        assert!(!of("/overlay2/one/diff").is_on(Path::new(UPPER)));
        assert!(of("/a\\040b/diff").is_on(Path::new("/a b/diff")));
        let none = "99 1 0:50 / /m ro - overlay overlay ro,lowerdir=/l:/m\n1 0 0:1 / /r rw - tmpfs tmpfs rw,upperdir=/x\n";
        assert_eq!(mounted(none), []);
    }

    #[test]
    fn an_index_beside_the_layer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("diff");
        std::fs::create_dir_all(&upper).unwrap();
        assert_eq!(check_index(&upper), Ok(()));
        std::fs::create_dir_all(dir.path().join("work/index")).unwrap();
        assert_eq!(check_index(&upper), Ok(()));
        std::fs::write(dir.path().join("work/index/00fb"), "").unwrap();
        assert!(check_index(&upper).unwrap_err().to_string().contains("keeps an index"));
    }
}
