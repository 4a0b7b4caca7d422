//! Directories by descriptor. Paths are never handed to the system whole, for they may be longer than
//! it takes, and no link is followed.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::error::{TreeError, path_of};
use super::meta::Meta;

/// How a directory is opened: not through a link, and its time of access stays.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC);
/// Longest path handed to the system at once, in bytes; it takes 4096.
const PIECE: usize = 4000;
/// How many open directories a thread keeps for the next job.
const KEPT: usize = 4;

/// A name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Any bytes but a slash.
    pub(super) name: CString,
    /// Its inode.
    pub(super) ino: u64,
}

/// Opens the root of a tree: links before the last name are followed.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, TreeError> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
        .map_err(|why| TreeError::system("open", path, why))
}

/// Opens a directory in another.
pub(super) fn open_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}

/// Opens a directory far below another.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    for piece in pieces(path) {
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let opened = open_piece(from, piece)?;
        at = Some(opened);
    }
    at.map_or_else(|| open_in(root, c"."), Ok)
}

fn open_piece(from: BorrowedFd<'_>, piece: &[u8]) -> Result<OwnedFd, Errno> {
    let no_links = ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(from, piece, DIRECTORY, Mode::empty(), no_links) {
        // Linux before 5.6, or a filter that knows only what is older.
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return other,
    }
    let mut at: Option<OwnedFd> = None;
    for name in piece.split(|byte| *byte == b'/') {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let opened = open_in(at.as_ref().map_or(from, AsFd::as_fd), &name)?;
        at = Some(opened);
    }
    at.ok_or(Errno::INVAL)
}

/// Cuts a path at slashes into pieces that the system takes.
fn pieces(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.len() <= PIECE {
            return Some(std::mem::take(&mut rest));
        }
        // A name has at most 255 bytes, so there is a slash.
        let (front, _) = rest.split_at(PIECE);
        let cut = front.iter().rposition(|byte| *byte == b'/').unwrap_or(PIECE);
        let (piece, left) = rest.split_at(cut);
        rest = left.strip_prefix(b"/").unwrap_or(left);
        Some(piece)
    })
}

/// The names in a directory, in the order of their inodes: so a disk is read in order.
pub(super) fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>, Errno> {
    let mut room = [MaybeUninit::uninit(); 32 * 1024];
    let mut listing = RawDir::new(dir, &mut room);
    let mut found = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push(Entry { name: name.to_owned(), ino: entry.ino() });
        }
    }
    found.sort_unstable_by_key(|entry| entry.ino);
    Ok(found)
}

/// The directories of a tree, or of several trees of one shape, by number; 0 is the root. Only names
/// are kept, so that a tree of any depth and width is walked with few files open.
#[derive(Debug)]
pub(super) struct Dirs<const N: usize> {
    roots: [OwnedFd; N],
    devices: [u64; N],
    nodes: Mutex<Vec<Node>>,
}

#[derive(Debug)]
struct Node {
    above: usize,
    name: CString,
}

/// A directory, open in each tree.
#[derive(Debug)]
pub(super) struct Opened<const N: usize> {
    /// Its number.
    pub(super) id: usize,
    /// One descriptor a tree.
    pub(super) fds: [OwnedFd; N],
}

/// What a thread has open.
#[derive(Debug)]
pub(super) struct Kept<const N: usize>(Vec<Arc<Opened<N>>>);

impl<const N: usize> Default for Kept<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<const N: usize> Dirs<N> {
    /// Of these roots.
    pub(super) fn new(roots: [OwnedFd; N]) -> Result<Self, Errno> {
        let mut devices = [0; N];
        for (device, root) in devices.iter_mut().zip(&roots) {
            *device = Meta::of(root.as_fd())?.dev;
        }
        let nodes = Mutex::new(vec![Node { above: 0, name: CString::default() }]);
        Ok(Self { roots, devices, nodes })
    }

    /// The roots.
    pub(super) fn roots(&self) -> &[OwnedFd; N] {
        &self.roots
    }

    /// One more directory: its number.
    pub(super) fn add(&self, above: usize, name: CString) -> usize {
        let mut nodes = self.nodes();
        nodes.push(Node { above, name });
        nodes.len() - 1
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, id: usize) -> Vec<u8> {
        let nodes = self.nodes();
        let mut names = Vec::new();
        let mut at = id;
        while at != 0 {
            let Some(node) = nodes.get(at) else { break };
            names.push(node.name.to_bytes());
            at = node.above;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Where a directory is, below the root.
    pub(super) fn path(&self, id: usize) -> PathBuf {
        if id == 0 { PathBuf::from(".") } else { path_of(&self.bytes(id)).to_owned() }
    }

    /// Where a name in a directory is, below the root.
    pub(super) fn path_in(&self, id: usize, name: &CStr) -> PathBuf {
        if name.is_empty() {
            return self.path(id);
        }
        let mut path = path_of(&self.bytes(id)).to_owned();
        path.push(super::error::name_path(name));
        path
    }

    /// Opens a directory in every tree.
    pub(super) fn open(&self, id: usize, kept: &mut Kept<N>) -> Result<Arc<Opened<N>>, TreeError> {
        if let Some(found) = kept.0.iter().find(|opened| opened.id == id) {
            return Ok(Arc::clone(found));
        }
        let failed = |why| TreeError::system("open", &self.path(id), why);
        let above = {
            let nodes = self.nodes();
            let node = nodes.get(id).filter(|_| id != 0);
            node.and_then(|node| {
                let above = kept.0.iter().find(|opened| opened.id == node.above)?;
                Some((Arc::clone(above), node.name.clone()))
            })
        };
        let fds = match above {
            Some((above, name)) => each(&above.fds, |fd| open_in(fd.as_fd(), &name)),
            None => {
                let path = self.bytes(id);
                each(&self.roots, |root| open_below(root.as_fd(), &path))
            }
        };
        let fds = fds.map_err(failed)?;
        for (fd, device) in fds.iter().zip(self.devices) {
            let meta = Meta::of(fd.as_fd()).map_err(failed)?;
            if meta.dev != device || (id != 0 && meta.is_mount()) {
                return Err(TreeError::Mount { path: self.path(id) });
            }
        }
        let opened = Arc::new(Opened { id, fds });
        if kept.0.len() == KEPT {
            kept.0.remove(0);
        }
        kept.0.push(Arc::clone(&opened));
        Ok(opened)
    }
}

/// As `map` of an array, of what can fail.
fn each<const N: usize>(
    of: &[OwnedFd; N],
    open: impl Fn(&OwnedFd) -> Result<OwnedFd, Errno>,
) -> Result<[OwnedFd; N], Errno> {
    let opened = of.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    opened.try_into().map_err(|_| Errno::INVAL)
}
