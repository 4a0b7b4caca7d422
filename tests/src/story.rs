//! Runs the pages of the documentation on nodes of their own, as a reader would type them: where the
//! product's files have their usual paths, and users have names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::pages::{self, Block, Step};
use crate::{Node, programs};

/// The longest that one command of a page may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The users of the stories, with their uids; members of the group docker.
const USERS: [(&str, u32); 2] = [("ann", 4001), ("bob", 4002)];
/// One who is not.
const STRANGER: (&str, u32) = ("eve", 4003);

/// A copy of /etc, /var/lib and what else is named that only this thread and what it starts sees, and that goes with it.
/// To be made before the nodes, and dropped after them.
pub struct Aside {
    folder: tempfile::TempDir,
    paths: Vec<&'static str>,
}

impl Aside {
    /// Makes it.
    ///
    /// # Panics
    /// When this process may not.
    pub fn new() -> Self {
        Self::of(&["/etc", "/var/lib"])
    }

    /// As [`Aside::new`], and so much more that packages can be installed there: the programs too, with a
    /// /run in which neither systemd nor udev of this machine is heard.
    ///
    /// # Panics
    /// As [`Aside::new`].
    pub fn with_programs() -> Self {
        let aside = Self::of(&["/etc", "/var/lib", "/usr", "/var/cache", "/var/log"]);
        let none: Option<&str> = None;
        let run = aside.folder.path().join("run");
        fs::create_dir(&run).expect("a folder");
        mount(Some("run"), &run, Some("tmpfs"), MsFlags::empty(), none).expect("a /run of our own");
        // The lock of iptables is one for the whole machine.
        let lock = |run: &Path| run.join("xtables.lock");
        for file in [lock(Path::new("/run")), lock(&run)] {
            fs::OpenOptions::new().create(true).append(true).open(file).expect("a lock");
        }
        let bound = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&lock(Path::new("/run"))), &lock(&run), none, bound, none).expect("the lock");
        fs::create_dir(run.join("lock")).expect("a folder");
        mount(Some(&run), "/run", none, bound, none).expect("a /run of our own");
        aside
    }

    fn of(paths: &[&'static str]) -> Self {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace of its own");
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .expect("mounts of our own");
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        for path in paths {
            let name = path.trim_start_matches('/').replace('/', "-");
            let at = |kind: &str| folder.path().join(format!("{name}-{kind}"));
            for kind in ["upper", "work"] {
                fs::create_dir(at(kind)).expect("a folder");
            }
            let layers = format!(
                "lowerdir={path},upperdir={},workdir={}",
                at("upper").display(),
                at("work").display()
            );
            mount(Some("overlay"), *path, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
                .expect("an overlay");
        }
        let mut passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        for (name, uid) in USERS.into_iter().chain([STRANGER]) {
            passwd += &format!("{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n");
        }
        fs::write("/etc/passwd", passwd).expect("/etc/passwd of our own");
        for path in ["/etc/gpuctl", "/var/lib/gpuctl"] {
            let _ = fs::remove_dir_all(path);
        }
        fs::create_dir("/etc/gpuctl").expect("a folder");
        Self { folder, paths: paths.to_vec() }
    }

    /// Makes ann and bob members of the group that may use a node's Engine, for who logs in; eve is none.
    ///
    /// # Panics
    /// When that cannot be.
    pub fn members(&self, node: &Node) {
        let gid = group_of(&node.place().docker_socket()).to_string();
        let groups = fs::read_to_string("/etc/group").expect("/etc/group");
        let mut lines: Vec<String> = groups.lines().map(str::to_owned).collect();
        let its = |line: &&mut String| line.split(':').nth(2) == Some(gid.as_str());
        let members = USERS.map(|(name, _)| name).join(",");
        match lines.iter_mut().find(its) {
            Some(line) if line.ends_with(':') => *line += &members,
            Some(line) => *line += &format!(",{members}"),
            None => lines.push(format!("enginegroup:x:{gid}:{members}")),
        }
        fs::write("/etc/group", lines.join("\n") + "\n").expect("/etc/group of our own");
    }

    /// Gives a node's files their usual paths.
    ///
    /// # Panics
    /// When that cannot be.
    pub fn shows(&self, node: &Node) {
        for (file, usual) in [
            (node.place().config(), "/etc/gpuctl/config.toml"),
            (node.place().state(), "/var/lib/gpuctl"),
        ] {
            let _ = fs::remove_file(usual);
            std::os::unix::fs::symlink(file, usual).expect("a link");
        }
    }
}

impl Default for Aside {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = umount2(*path, MntFlags::MNT_DETACH);
        }
        let run = self.folder.path().join("run");
        if run.exists() {
            let _ = umount2("/run", MntFlags::MNT_DETACH);
            let _ = umount2(&run, MntFlags::MNT_DETACH);
        }
        // The overlay's own folder has no rights for anybody.
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

/// The nodes of a story, by what stands before the `$`.
pub struct Story<'a> {
    nodes: BTreeMap<&'static str, &'a Node>,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    happenings: BTreeMap<&'static str, Box<dyn Fn() + 'a>>,
}

impl<'a> Story<'a> {
    /// A story on one node.
    pub fn on(node: &'a Node) -> Self {
        Self::of(&[("", node)])
    }

    /// A story on several; the first one's are commands with a bare `$`, and users.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(nodes: &[(&'static str, &'a Node)]) -> Self {
        let nodes: BTreeMap<_, _> = nodes.iter().copied().collect();
        let first = nodes.values().next().expect("a node");
        let folder = first.place().at("story");
        fs::create_dir_all(folder.join("bin")).expect("a folder");
        // All that a page types as root is typed by root here.
        let sudo = folder.join("bin/sudo");
        gpuctl_sim::files::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").expect("written");
        gpuctl_sim::files::install(&sudo.clone(), &sudo).expect("written");
        Self { nodes, folder, environment: vec![], happenings: BTreeMap::new() }
    }

    /// One more variable for all commands.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    /// What is done where the page says that it happens.
    #[must_use]
    pub fn when(mut self, what: &'static str, so: impl Fn() + 'a) -> Self {
        self.happenings.insert(what, Box::new(so));
        self
    }

    /// A program that stands for one of the host's: a script of sh, first on the PATH of all commands.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn program(self, name: &str, script: &str) -> Self {
        let file = self.folder.join("bin").join(name);
        gpuctl_sim::files::write(&file, &format!("#!/bin/sh\n{script}\n")).expect("written");
        gpuctl_sim::files::install(&file.clone(), &file).expect("written");
        self
    }

    /// The folder in which all commands run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a page of the repository from its first line to its last, but for what is run apart.
    ///
    /// # Panics
    /// When a command does not do what the page shows.
    pub fn runs(&self, page: &str) {
        let blocks = |block: Block| (!matches!(block, Block::Apart { .. })).then_some(block);
        self.all(page, blocks);
    }

    /// Runs those blocks of a page that are run apart, by this name.
    ///
    /// # Panics
    /// As [`Story::runs`]; when there are none.
    pub fn runs_apart(&self, page: &str, by: &str) {
        self.all(page, |block| match block {
            Block::Apart { name, steps } if name == by => Some(Block::Story(steps)),
            _ => None,
        });
    }

    fn all(&self, page: &str, chosen: impl Fn(Block) -> Option<Block>) {
        let text = fs::read_to_string(programs::repository().join(page)).expect("the page");
        let blocks = pages::read(&text).unwrap_or_else(|why| panic!("{page}: {why}"));
        let mut ran: Vec<(Step, Option<(String, i32)>)> = vec![];
        for block in blocks.into_iter().filter_map(chosen) {
            match block {
                Block::Story(steps) => ran.extend(steps.into_iter().map(|step| {
                    let other = self.step(page, &step);
                    (step, other)
                })),
                Block::File { name, text } => {
                    fs::write(self.folder.join(name), text).expect("written");
                }
                Block::Happens(what) => match self.happenings.get(what.as_str()) {
                    Some(so) => so(),
                    None => panic!("{page}: no test makes it happen: {what}"),
                },
                Block::Config { .. } | Block::NotRun(_) | Block::Apart { .. } => {}
            }
        }
        assert!(!ran.is_empty(), "{page} has no command that runs");
        eprintln!("{page}: {} commands", ran.len());
        // From the end, so that the lines before stay where they are.
        let renewed = ran.iter().rev().fold(text.clone(), |text, (step, other)| match other {
            Some((out, code)) => pages::with_output(&text, step, out, *code),
            None => text,
        });
        if renewed != text {
            fs::write(programs::repository().join(page), renewed).expect("written");
        }
    }

    /// Runs one command. Where the page is to be renewed, what came if it is not what is shown.
    fn step(&self, page: &str, step: &Step) -> Option<(String, i32)> {
        let user = USERS.iter().find(|(name, _)| *name == step.who);
        let who = if user.is_some() { "" } else { step.who.as_str() };
        let node =
            self.nodes.get(who).or_else(|| self.nodes.values().next().filter(|_| who.is_empty()));
        let Some(node) = node else { panic!("{page}:{}: who is {who}?", step.line) };
        let mut shell = match user {
            Some((_, uid)) => {
                let mut command = Command::new("setpriv");
                let group = group_of(&node.place().docker_socket()).to_string();
                let words =
                    ["--reuid", &uid.to_string(), "--regid", &group, "--clear-groups", "bash"];
                command.args(words);
                command
            }
            None => Command::new("bash"),
        };
        shell.arg("-c").arg(format!("exec 2>&1; {}", step.command)).current_dir(&self.folder);
        for (name, value) in node.site().engine().environment() {
            shell.env(name, value);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:/usr/bin:{path}", self.folder.join("bin").display()));
        shell.env("DOCKER_CLI_HINTS", "false").env("LANG", "C.UTF-8").env_remove("DOCKER_CONTEXT");
        shell.envs(self.environment.iter().map(|(n, v)| (*n, v)));
        let got = gpuctl_sim::command::run(&mut shell, LIMIT).expect("bash starts");
        let out = usual(node, &got.stdout);
        let at = format!("{page}:{}: {}$ {}", step.line, step.who, step.command);
        let why = match pages::compare(&step.shown, &out) {
            _ if got.code != step.code => "ended otherwise than the page shows".into(),
            Err(why) if !step.shown.is_empty() => why,
            _ => return None,
        };
        if std::env::var_os("GPUCTL_WRITE_DOCS").is_some() {
            return Some((out, got.code));
        }
        let shown = step.shown.join("\n");
        panic!(
            "{at}\n{why}\n--- came, exit {}\n{out}--- is shown, exit {}\n{shown}",
            got.code, step.code
        );
    }
}

fn group_of(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).expect("a socket").gid()
}

/// A node's output, with the paths that its files have on a host.
fn usual(node: &Node, text: &str) -> String {
    let place = node.place();
    // What the Docker CLI says or not, by its version and by who is quicker.
    let idle = |line: &&str| {
        !line.ends_with("msg=\"error waiting for container: context canceled\"")
            && !line.starts_with("Run 'docker run --help'")
            // A test's Engine leaves the host's forwarding as it is: on a new machine, off.
            && *line != "WARNING: IPv4 forwarding is disabled. Networking will not work."
    };
    let mut text: String = text.split_inclusive('\n').filter(|l| idle(&l.trim_end())).collect();
    // What is the beginning of another comes after it.
    for (path, usual) in [
        (place.docker_socket(), "/var/run/docker.sock"),
        (place.state(), "/var/lib/gpuctl"),
        (place.config(), "/etc/gpuctl/config.toml"),
        (place.data(), "/var/lib/docker"),
        (place.libexec().join("runc"), "/usr/bin/runc"),
        (place.libexec(), "/usr/libexec/gpuctl"),
        (place.socket(), "/run/gpuctl/gpuctl.sock"),
        (place.run(), "/run/gpuctl"),
        (place.at("volumes"), "/var/lib/gpuctl/volumes"),
        (place.cdi(), "/etc/cdi"),
        (place.dev(), "/dev"),
        (place.proc(), "/proc/driver/nvidia"),
    ] {
        text = text.replace(&path.display().to_string(), usual);
    }
    text
}
