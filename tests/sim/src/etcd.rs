//! A private etcd of one or more members on ports of its own.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Doing as _, Result, command};

/// How long a cluster may take until it answers.
const UP: Duration = Duration::from_secs(30);

/// A cluster. Dropped, it ends; its files lie in the folder that it was given.
#[derive(Debug)]
pub struct Etcd {
    folder: PathBuf,
    members: Vec<Member>,
    keep: bool,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

/// A port that nobody has just now.
fn free_port() -> Result<u16> {
    let socket = TcpListener::bind("127.0.0.1:0").doing("find a free port")?;
    Ok(socket.local_addr().doing("find a free port")?.port())
}

impl Etcd {
    /// Starts a cluster of so many members in a folder of its own and waits until it answers.
    ///
    /// # Errors
    /// When etcd is not installed or does not come up.
    pub fn start(folder: &Path, members: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).doing("make etcd's folder")?;
        let member = || Ok(Member { client: free_port()?, peer: free_port()?, child: None });
        let members = (0..members).map(|_| member()).collect::<Result<Vec<_>>>()?;
        let mut etcd = Self { folder: folder.to_owned(), members, keep: false };
        for index in 0..etcd.members.len() {
            etcd.spawn(index)?;
        }
        etcd.wait()?;
        Ok(etcd)
    }

    /// The URL for the product's config.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.members.iter().map(|m| format!("127.0.0.1:{}", m.client)).collect();
        format!("etcd://{}", hosts.join(","))
    }

    /// The processes of the members that run.
    pub fn pids(&self) -> Vec<i32> {
        let children = self.members.iter().filter_map(|m| m.child.as_ref());
        children.filter_map(|c| i32::try_from(c.id()).ok()).collect()
    }

    /// From now on it outlives this value.
    pub fn keep(mut self) {
        self.keep = true;
    }

    fn member(&mut self, index: usize) -> Result<&mut Member> {
        self.members.get_mut(index).ok_or_else(|| format!("etcd has no member {index}"))
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("m{index}.log")))
            .doing("open etcd's log")?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            self.members.iter().enumerate().map(|(i, m)| format!("m{i}={}", url(m.peer))).collect();
        let folder = self.folder.join(format!("m{index}"));
        let member = self.member(index)?;
        let child = Command::new("setsid")
            .arg(command::find(&["etcd"])?)
            .arg("--name")
            .arg(format!("m{index}"))
            .arg("--data-dir")
            .arg(&folder)
            .args(["--listen-client-urls", &url(member.client)])
            .args(["--advertise-client-urls", &url(member.client)])
            .args(["--listen-peer-urls", &url(member.peer)])
            .args(["--initial-advertise-peer-urls", &url(member.peer)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-token", &folder.display().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().doing("share etcd's log")?)
            .stderr(log)
            .spawn()
            .doing("start etcd")?;
        member.child = Some(child);
        Ok(())
    }

    /// etcdctl for this cluster.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<command::Output> {
        let mut ctl = Command::new(command::find(&["etcdctl"])?);
        ctl.env("ETCDCTL_API", "3");
        ctl.arg("--endpoints").arg(self.url().trim_start_matches("etcd://")).args(arguments);
        command::run(&mut ctl, Duration::from_secs(15))
    }

    /// Waits until a write goes through.
    ///
    /// # Errors
    /// When none does in half a minute.
    pub fn wait(&self) -> Result<()> {
        let until = Instant::now() + UP;
        loop {
            let tried = self.ctl(&["put", "up", "1"])?;
            if tried.code == 0 {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("etcd does not come up\n{tried}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// kill -9 of one member.
    ///
    /// # Errors
    /// When there is none such.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.member(index)?.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    }

    /// Starts a member that was killed, with the data it had.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.kill(index)?;
        self.spawn(index)
    }

    /// Stands still (`true`) or goes on: it accepts connections and never answers.
    ///
    /// # Errors
    /// When a signal cannot be sent.
    pub fn pause(&self, still: bool) -> Result<()> {
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.pids()
            .into_iter()
            .try_for_each(|pid| kill(Pid::from_raw(pid), signal).doing("signal etcd"))
    }

    /// Puts a cluster of one back to a snapshot.
    ///
    /// # Errors
    /// When etcdctl cannot, or it does not come up.
    pub fn restore(&mut self, index: usize, snapshot: &Path) -> Result<()> {
        let peer = format!("http://127.0.0.1:{}", self.member(index)?.peer);
        self.kill(index)?;
        let data = self.data(index);
        std::fs::remove_dir_all(&data).doing("remove etcd's data")?;
        let text = |path: &Path| path.display().to_string();
        let name = format!("m{index}");
        self.ctl(&[
            "snapshot",
            "restore",
            &text(snapshot),
            "--name",
            &name,
            "--data-dir",
            &text(&data),
            "--initial-cluster",
            &format!("{name}={peer}"),
            "--initial-cluster-token",
            &text(&data),
            "--initial-advertise-peer-urls",
            &peer,
        ])?
        .ok()?;
        self.spawn(index)?;
        self.wait()
    }

    /// Where a member keeps its data.
    pub fn data(&self, index: usize) -> PathBuf {
        self.folder.join(format!("m{index}"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if !self.keep {
            for index in 0..self.members.len() {
                let _ = self.kill(index);
            }
        }
    }
}
