//! etcd of one's own: on free loopback ports, in a temporary folder, gone with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use gpuctl_ledger::store::{EtcdOptions, EtcdStore, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A cluster; killed when dropped.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    /// Removed after the members are killed: fields are dropped in order.
    _folder: tempfile::TempDir,
}

pub(crate) struct Member {
    pub(crate) address: String,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

/// The certificates of a cluster that speaks TLS.
pub(crate) struct Tls {
    pub(crate) folder: PathBuf,
}

impl Cluster {
    /// Starts so many members, with extra arguments; nothing when etcd is not installed.
    pub(crate) fn start(size: usize, extra: &[&str]) -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), size, extra, None)
    }

    pub(crate) fn start_in(
        folder: tempfile::TempDir,
        size: usize,
        extra: &[&str],
        tls: Option<&Tls>,
    ) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: etcd is not installed");
            return None;
        }
        let ports: Vec<_> = (0..2 * size).map(|_| free_address()).collect();
        let (clients, peers) = ports.split_at(size);
        let cluster: Vec<_> =
            peers.iter().enumerate().map(|(i, peer)| format!("m{i}=http://{peer}")).collect();
        let members = (0..size).map(|i| {
            let (client, peer) = (&clients[i], &peers[i]);
            let scheme = if tls.is_some() { "https" } else { "http" };
            let data = folder.path().join(format!("m{i}"));
            let mut arguments: Vec<String> = [
                ("--name", format!("m{i}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", format!("{scheme}://{client}")),
                ("--advertise-client-urls", format!("{scheme}://{client}")),
                ("--listen-peer-urls", format!("http://{peer}")),
                ("--initial-advertise-peer-urls", format!("http://{peer}")),
                ("--initial-cluster", cluster.join(",")),
            ]
            .into_iter()
            .flat_map(|(key, value)| [key.to_owned(), value])
            .collect();
            arguments.extend(extra.iter().map(|&a| a.to_owned()));
            if let Some(tls) = tls {
                let file = |name: &str| tls.folder.join(name).display().to_string();
                arguments.extend(["--cert-file".into(), file("server.pem")]);
                arguments.extend(["--key-file".into(), file("server.key")]);
                arguments.extend(["--trusted-ca-file".into(), file("ca.pem")]);
                arguments.push("--client-cert-auth".into());
            }
            let log = folder.path().join(format!("m{i}.log"));
            let mut member = Member { address: client.clone(), arguments, log, process: None };
            member.start();
            member
        });
        let cluster = Self { members: members.collect(), _folder: folder };
        if tls.is_none() {
            cluster.wait();
        }
        Some(cluster)
    }

    fn wait(&self) {
        for member in &self.members {
            let store = EtcdStore::open(options(&[&member.address], Duration::from_secs(30)));
            if let Err(why) = store.get("/") {
                panic!("etcd does not start: {why}\n{}", member.logged());
            }
        }
    }

    pub(crate) fn addresses(&self) -> Vec<&str> {
        self.members.iter().map(|m| m.address.as_str()).collect()
    }

    /// A new store on all members.
    pub(crate) fn store(&self, limit: Duration) -> EtcdStore {
        EtcdStore::open(options(&self.addresses(), limit))
    }
}

/// Options without TLS or user.
pub(crate) fn options(members: &[&str], timeout: Duration) -> EtcdOptions {
    EtcdOptions {
        members: members.iter().map(|&m| m.to_owned()).collect(),
        tls: None,
        user: None,
        timeout,
    }
}

impl Member {
    /// Starts it, or starts it again on its data.
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        // Should the test itself be killed, the kernel kills its etcd.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd"]).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Tls {
    /// An authority, a server's and a client's certificate; nothing without openssl.
    pub(crate) fn make(folder: &Path) -> Option<Self> {
        let script = "
            set -e
            new() { openssl req -newkey rsa:2048 -nodes -keyout $1.key -subj /CN=$1 -out $1.csr; }
            sign() { openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial \\
                -days 2 -extfile $1.ext -out $1.pem; }
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=ca -days 2 \\
                -addext basicConstraints=critical,CA:TRUE -out ca.pem
            echo 'subjectAltName=IP:127.0.0.1' > server.ext
            echo 'extendedKeyUsage=serverAuth,clientAuth' >> server.ext
            echo 'extendedKeyUsage=clientAuth' > client.ext
            new server; sign server; new client; sign client
            chmod 600 client.key";
        if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: openssl is not installed");
            return None;
        }
        let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(Self { folder: folder.to_owned() })
    }
}

/// A free loopback address. Below the range from which the kernel takes ports for connections, so
/// that none of those takes it meanwhile; another one each time, so that parallel tests differ.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = u16::try_from(std::process::id() * 64 % 20_000).unwrap();
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Waits for something that takes a moment.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
