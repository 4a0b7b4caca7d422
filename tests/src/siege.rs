//! A node in strict mode under attack: a victim that holds GPUs, and after every attack the same
//! questions. An attacker writes Dockerfiles, `docker run` lines and API calls; what he cannot do is
//! in docs/security.md.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_sim::{Root, engine, processes};
use serde_json::Value;

use crate::node::wait_for;
use crate::{Node, Options, Output, probe};

/// The longest that an attack may keep Docker: the hook's limit for the ledger twice (it may be asked
/// and read back), and what runc needs for a spec of this size on two slow cores.
pub const BOUND: Duration = Duration::from_secs(25);
/// The victim's name.
pub const VICTIM: &str = "victim";
/// Files of the host that are worth a link: none of ours.
const PRIZES: [&str; 12] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/crontab",
    "/etc/ld.so.preload",
    "/etc/ld.so.conf",
    "/etc/machine-id",
    "/etc/docker/daemon.json",
    "/etc/gpuctl/config.toml",
    "/root/.profile",
];
/// What may come into the product's two folders.
const OWN: [&str; 10] = [
    "audit.log",
    "bindings",
    "grants",
    "inventory.json",
    "ledger.db",
    "ledger.db-shm",
    "ledger.db-wal",
    "locks",
    "quarantine.json",
    "watch.json",
];

/// Who keeps the attacker out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    /// Only the `runc` that is first on dockerd's PATH: no runtime of ours is the default.
    PathAlone,
    /// That, and `gpuctl-gate` as the default runtime.
    Both,
}

/// What an attack came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A container runs and can open these GPUs, all of them its own.
    Opens(BTreeSet<u32>),
    /// It does not run: the gate said why, on one line.
    Refused(String),
    /// It does not run: Docker or runc said why.
    NotOurs(String),
}

/// See the module.
pub struct Siege {
    /// The node.
    pub node: Node,
    taken: BTreeSet<u32>,
    before: BTreeMap<PathBuf, u64>,
    count: Cell<u32>,
}

impl Siege {
    /// Starts a node and a victim that holds two GPUs.
    ///
    /// # Panics
    /// When either does not come up.
    pub fn begin(strict: Strict) -> Self {
        Self::begin_on(strict, None)
    }

    /// As [`Siege::begin`], with another Debian's Engine.
    ///
    /// # Panics
    /// As there.
    pub fn begin_on(strict: Strict, root: Option<Root>) -> Self {
        let more = match strict {
            // Given last, it counts.
            Strict::PathAlone => vec!["--default-runtime".into(), "runc".into()],
            Strict::Both => Vec::new(),
        };
        let engine = engine::Options {
            first_on_path: Some("strict".into()),
            more,
            root,
            ..engine::Options::default()
        };
        let node = Node::start(Options { engine, ..Options::default() });
        let canary = node.place().at("canary");
        for folder in ["", "folder"] {
            fs::create_dir_all(canary.join(folder)).expect("a folder of the host");
        }
        fs::write(canary.join("file"), "as it was").expect("a file of the host");
        let got = crate::node::run(&node, VICTIM, &["--gpus", "2", "-v", "shared:/shared"]);
        assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
        let taken = probe::opens(&node, VICTIM);
        assert_eq!(taken.len(), 2, "the victim has its GPUs");
        let mut siege = Self { node, taken, before: BTreeMap::new(), count: Cell::new(0) };
        siege.before = siege.files();
        siege
    }

    /// A minor of the victim's.
    pub fn minor(&self) -> u32 {
        *self.taken.first().expect("two")
    }

    /// The UUID and the index of that GPU.
    pub fn prize(&self) -> (String, usize) {
        let gpus = self.node.gpus();
        let index = gpus.iter().position(|g| g.minor == self.minor()).expect("a GPU");
        (gpus[index].uuid.clone(), index)
    }

    /// A folder of the host that is nobody's: what is written there was written by a fault.
    pub fn canary(&self) -> PathBuf {
        self.node.place().at("canary")
    }

    /// Takes what the test itself has laid out since for what was there before.
    #[must_use]
    pub fn afresh(mut self) -> Self {
        self.before = self.files();
        self
    }

    /// A name that no container has.
    pub fn name(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("a{}", self.count.get())
    }

    /// `docker run FLAGS IMAGE` of the probe, then all the questions. What it could open must be what
    /// the audit log says that it was granted.
    ///
    /// # Panics
    /// When the attack came to something.
    #[track_caller]
    pub fn run(&self, flags: &[&str], image: &str) -> End {
        let name = self.name();
        let script = probe::script();
        let line =
            [&["run", "--rm", "--name", &name], flags, &[image, "sh", "-c", &script]].concat();
        let got = self.docker(&line);
        let end = if got.code == 0 {
            let opens = probe::read(&got.stdout);
            assert!(opens.is_disjoint(&self.taken), "{flags:?} opens {opens:?} of the victim's");
            assert_eq!(self.granted(&name), opens, "{flags:?}: granted and open");
            End::Opens(opens)
        } else {
            not_started(&got)
        };
        self.stands(&format!("{flags:?}"));
        end
    }

    /// The minors of the GPUs that a container was granted last, by the audit log.
    fn granted(&self, name: &str) -> BTreeSet<u32> {
        let gpus = self.node.gpus();
        let text =
            fs::read_to_string(self.node.place().state().join("audit.log")).unwrap_or_default();
        let mut lines =
            text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
        let last = lines.rfind(|l| l["name"] == name && l["decision"] == "granted");
        let units = last.and_then(|l| l["gpus"].as_array().cloned()).unwrap_or_default();
        let minor = |unit: &Value| gpus.iter().find(|g| *unit == *g.uuid).expect("a GPU").minor;
        units.iter().map(minor).collect()
    }

    /// Runs `docker ...` and looks at how it ends: in time, and without raw control characters in any
    /// line of ours.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn docker(&self, line: &[&str]) -> Output {
        let got = self.node.docker(line);
        assert!(got.took < BOUND, "it took {:?}\n{}", got.took, short(&got.to_string()));
        clean(&got.stderr);
        got
    }

    /// The questions about one container that was to be started.
    ///
    /// # Panics
    /// When it got what is not its own.
    #[track_caller]
    pub fn judge(&self, name: &str, got: &Output, what: &[&str]) -> End {
        let end = if got.code == 0 {
            let opens = self.is_its_own(name);
            End::Opens(opens)
        } else {
            not_started(got)
        };
        self.stands(&format!("{what:?}"));
        end
    }

    /// What a running container can open, which must be what it leases and nothing of the victim's.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn is_its_own(&self, name: &str) -> BTreeSet<u32> {
        let opens = probe::opens(&self.node, name);
        assert!(opens.is_disjoint(&self.taken), "{name} opens {opens:?} of the victim's");
        assert_eq!(self.node.leased_minors(&self.node.id(name)), opens, "{name}: leased and open");
        opens
    }

    /// The questions about the node.
    ///
    /// # Panics
    /// When something of ours is left, or changed, or shared.
    #[track_caller]
    pub fn stands(&self, after: &str) {
        let after = short(after);
        self.node.check_exclusive();
        wait_for(
            &format!("the end of our programs after {after}"),
            Duration::from_secs(10),
            || ours(&self.node).is_empty(),
        );
        let now = self.files();
        let changed: Vec<_> =
            now.iter().filter(|(path, hash)| self.before.get(*path) != Some(*hash)).collect();
        let gone: Vec<_> = self.before.keys().filter(|path| !now.contains_key(*path)).collect();
        assert!(changed.is_empty() && gone.is_empty(), "{after}: {changed:?} {gone:?}");
    }

    /// The last questions: the whole check of the node, the victim, and all that was written down.
    ///
    /// # Panics
    /// When any of it is not as it should be.
    #[track_caller]
    pub fn end(self) {
        assert_eq!(probe::opens(&self.node, VICTIM), self.taken, "the victim has lost something");
        self.node.check();
        self.stands("the end");
        let audit = fs::read(self.node.place().state().join("audit.log")).unwrap_or_default();
        let raw = |b: &u8| (*b < 0x20 && *b != b'\n') || *b == 0x7f;
        assert!(!audit.iter().any(raw), "raw control characters in the audit log");
        for line in String::from_utf8(audit).expect("UTF-8").lines() {
            serde_json::from_str::<Value>(line).expect("a line of JSON");
        }
        let log = fs::read(self.node.place().docker_log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        clean(&log);
        for word in ["panicked at", "stack overflow", "memory allocation of"] {
            assert!(!log.contains(word), "{word} in the Engine's log");
        }
        assert!(!self.canary().join("written").exists());
    }

    /// All files that no attack may change, by a hash of what they are: the node's, some of the
    /// host's, and the names in our own two folders.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        let place = self.node.place();
        let mut all = BTreeMap::new();
        for folder in ["dev", "cdi", "lib", "libexec", "stub", "strict", "proc", "canary"] {
            add(&place.at(folder), &mut all);
        }
        for file in ["config.toml", "boot_id", "machine_id"] {
            add(&place.at(file), &mut all);
        }
        for prize in PRIZES {
            add(Path::new(prize), &mut all);
        }
        // The Engine's own mounts in /dev come and go.
        all.retain(|path, _| {
            !["pts", "shm", "mqueue", "char"].iter().any(|n| path.starts_with(place.dev().join(n)))
        });
        for folder in [place.root().to_owned(), place.state(), place.run()] {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if folder == place.root() || !OWN.contains(&name.as_str()) {
                    all.entry(entry.path()).or_insert(0);
                }
            }
        }
        all
    }
}

/// The programs of ours that run now; the reaper is the tests'.
fn ours(node: &Node) -> Vec<i32> {
    let place = node.place();
    let folders = [place.libexec(), place.strict(), place.stub()];
    let runs = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        folders.iter().any(|f| exe.starts_with(f))
    };
    processes::of(place).into_iter().filter(runs).collect()
}

fn not_started(got: &Output) -> End {
    match got.stderr.lines().find(|l| l.contains("gpuctl: ")) {
        Some(line) => End::Refused(line.to_owned()),
        None => End::NotOurs(got.stderr.clone()),
    }
}

fn add(path: &Path, into: &mut BTreeMap<PathBuf, u64>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let mut hash = DefaultHasher::new();
    (meta.mode(), meta.uid(), meta.gid(), meta.rdev()).hash(&mut hash);
    if meta.is_file() {
        // What was written to since has another time of change, which nobody sets.
        (meta.len(), meta.ino(), meta.ctime(), meta.ctime_nsec()).hash(&mut hash);
        if meta.len() < 1 << 16 {
            fs::read(path).unwrap_or_default().hash(&mut hash);
        }
    } else if meta.is_symlink() {
        fs::read_link(path).unwrap_or_default().hash(&mut hash);
    } else if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add(&entry.path(), into);
        }
    }
    into.insert(path.to_owned(), hash.finish());
}

/// No line of ours holds a raw control character, or anything that moves the cursor.
///
/// # Panics
/// When one does.
#[track_caller]
pub fn clean(text: &str) {
    for line in text.lines().filter(|l| l.contains("gpuctl: ")) {
        assert!(!line.contains(|c: char| c.is_control()), "{:?}", short(line));
        assert!(!line.contains(['\u{202e}', '\u{2066}', '\u{2028}']), "{:?}", short(line));
        assert!(!line.contains("panicked at"), "{}", short(line));
    }
}

/// The beginning of a text that may be 10 MB.
pub fn short(text: &str) -> String {
    text.chars().take(2000).collect()
}
