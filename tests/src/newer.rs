//! Engines newer than this machine's: another Debian's, in a folder of their own.

use std::path::{Path, PathBuf};

use gpuctl_sim::{Place, Root, engine, processes, sweep};

use crate::node::BASE;
use crate::{Node, Options, skip};

/// Compose as a plugin of the Docker CLI: this machine's, and those of kept Debians.
#[must_use]
pub fn composes() -> Vec<PathBuf> {
    let kept = std::env::var_os("GPUCTL_ROOTS").map(PathBuf::from);
    let roots =
        ["/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker"].map(PathBuf::from);
    let kept =
        kept.iter().flat_map(|k| ["trixie", "sid"].map(|s| k.join(s).join("usr/libexec/docker")));
    let all = roots.into_iter().chain(kept).map(|r| r.join("cli-plugins/docker-compose"));
    all.filter(|p| p.is_file()).collect()
}

/// Another Debian for the Engines of one test. Dropped, it is gone; what a killed test leaves of it
/// is swept like any place. `GPUCTL_ROOTS=FOLDER` keeps them in that folder for the next run.
pub struct Debian {
    root: Root,
    place: Option<Place>,
}

impl Debian {
    /// Makes one of a suite; `None`, and the reason said, where that cannot be had: no debootstrap,
    /// no mirror, or a day on which that suite cannot be installed.
    ///
    /// # Panics
    /// When the folder for it cannot be made.
    pub fn of(suite: &str) -> Option<Self> {
        if let Some(kept) = std::env::var_os("GPUCTL_ROOTS").map(PathBuf::from) {
            let folder = kept.join(suite);
            // Two may want it at once: the second takes what the first has made.
            std::fs::create_dir_all(&kept).expect("the folder of roots can be made");
            let lock = std::fs::File::create(kept.join(format!("{suite}.lock")));
            let lock = lock.expect("a lock beside the roots");
            lock.lock().expect("the lock of a root");
            if folder.join("usr/sbin/dockerd").is_file() {
                return Some(Self { root: Root::at(&folder), place: None });
            }
            return Self::made(suite, &folder, None);
        }
        sweep::sweep(Path::new(BASE)).expect("what killed tests left can be removed");
        let folder = Path::new(BASE).join(format!("{}-{suite}", std::process::id()));
        let place = Place::new(&folder).expect("a short name");
        std::fs::create_dir_all(&folder).expect("a folder for the root");
        sweep::claim(&place).expect("a note of who made it");
        let folder = place.at("root");
        Self::made(suite, &folder, Some(place))
    }

    fn made(suite: &str, folder: &Path, place: Option<Place>) -> Option<Self> {
        let mut debian = Self { root: Root::at(folder), place };
        match Root::make(suite, folder) {
            Ok(root) => debian.root = root,
            Err(why) => {
                skip(&format!("an Engine of Debian {suite}: {why}"));
                return None;
            }
        }
        Some(debian)
    }

    /// A node whose Engine is this Debian's, with containerd's image store.
    ///
    /// # Panics
    /// When it does not start.
    pub fn containerd_node(&self) -> Node {
        let root = Some(self.root());
        let engine = engine::Options { root, containerd_store: true, ..engine::Options::default() };
        Node::start(Options { engine, ..Options::default() })
    }

    /// Its root folder.
    pub fn root(&self) -> Root {
        self.root.clone()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if std::env::var_os("GPUCTL_KEEP").is_some() {
            return;
        }
        if let Some(place) = &self.place
            && let Err(why) = processes::remove(place)
        {
            eprintln!("{why}");
        }
    }
}
