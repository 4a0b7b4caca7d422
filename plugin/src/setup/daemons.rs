//! dockerd and containerd as processes: who listens on a socket, with which flags and which PATH.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use gpuctl_ledger::model::ContainerId;
use gpuctl_ledger::node::files;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::Value;

use super::observed::Daemon;

/// Longest file of /proc that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// Longest config.json, in bytes.
const LONGEST_SPEC: u64 = 16 << 20;

fn read(pid: i32, file: &str) -> Option<Vec<u8>> {
    files::read_bounded(&PathBuf::from(format!("/proc/{pid}/{file}")), LONGEST).ok()
}

fn strings(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|b| *b == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// A process's command line.
pub(super) fn words(pid: i32) -> Vec<String> {
    read(pid, "cmdline").map(|bytes| strings(&bytes)).unwrap_or_default()
}

fn is(pid: i32, name: &str) -> bool {
    read(pid, "comm").is_some_and(|comm| String::from_utf8_lossy(&comm).trim() == name)
}

/// The daemon of that name that listens on a socket. Where systemd listens for it, the one that has
/// the socket from systemd.
pub(super) fn behind(socket: &Path, name: &str) -> Option<Daemon> {
    let peer = UnixStream::connect(socket)
        .ok()
        .and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    let pid = peer
        .map(|peer| peer.pid())
        .filter(|pid| is(*pid, name))
        .or_else(|| inherited(socket, name))?;
    let environment = read(pid, "environ").map(|bytes| strings(&bytes)).unwrap_or_default();
    let variable = |name: &str| {
        environment.iter().find_map(|e| e.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    Some(Daemon {
        pid,
        root: std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == 0),
        path: variable("PATH").unwrap_or_default(),
        config: variable("GPUCTL_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from),
    })
}

/// The process of that name that has a listening socket open.
fn inherited(socket: &Path, name: &str) -> Option<i32> {
    let real = std::fs::canonicalize(socket).ok()?;
    let table = files::read_bounded(Path::new("/proc/net/unix"), LONGEST).ok()?;
    let table = String::from_utf8_lossy(&table).into_owned();
    let inodes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let inode = fields.nth(6)?;
            let path = fields.next()?;
            let same = std::fs::canonicalize(path).is_ok_and(|path| path == real);
            same.then(|| format!("socket:[{inode}]"))
        })
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is(*pid, name)).find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
    })
}

/// The final config.json of a running container: its shim works in the bundle's folder.
pub(super) fn bundle(pid: i32, id: &ContainerId) -> Option<Value> {
    let stat = String::from_utf8_lossy(&read(pid, "stat")?).into_owned();
    // The program's name may hold anything; the parent is the second field after its last parenthesis.
    let shim: i32 = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok()?;
    let folder = std::fs::read_link(format!("/proc/{shim}/cwd")).ok()?;
    if folder.file_name()?.to_str()? != id.as_str() {
        return None;
    }
    // Through the shim's own root: it may live in another mount namespace than we do.
    let root = PathBuf::from(format!("/proc/{shim}/root"));
    let file = root.join(folder.strip_prefix("/").ok()?).join("config.json");
    serde_json::from_slice(&files::read_bounded(&file, LONGEST_SPEC).ok()?).ok()
}
