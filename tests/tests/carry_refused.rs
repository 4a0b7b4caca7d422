//! Containers whose files cannot be carried: refused before anything is touched; and carries that are given
//! up, which leave all as it was.

use std::path::Path;
use std::time::Duration;

use gpuctl_sim::command;
use gpuctl_sim::engine;
use gpuctl_tests::loop_fs::Kind;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::served::{DAEMON, ended};
use gpuctl_tests::stage::Stage;
use gpuctl_tests::{Node, Options, engine_runs_here, state, trees};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `train`, which runs.
fn run(node: &Node) {
    let run = ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL", "busybox"];
    node.gpuctl_ok(&[&run[..], &["sleep", "100000"]].concat());
    node.docker_ok(&["exec", "train-0", "sh", "-c", "echo tool >/tool"]);
}

/// All that needs its files is refused with these words and a hint, and nothing is touched by it.
#[track_caller]
fn refused(node: &Node, words: &[&str]) {
    let before = (state::ledger(node), state::containers(node));
    for line in [
        &["update", "train", "--env", "A=1"][..],
        &["update", "train", "--env", "A=1", "--dry-run"],
        &["scale", "train", "--gpus", "2", "--replace"],
        &["clone", "train", "twin"],
        &["snapshot", "train"],
    ] {
        let got = node.gpuctl(line);
        assert!(got.code == 1 && got.stderr.contains("hint: "), "{line:?}\n{got}");
        for word in words {
            assert!(got.stderr.contains(word), "{line:?}: no {word:?}\n{got}");
        }
        eprintln!("{}", got.stderr);
    }
    assert_eq!((state::ledger(node), state::containers(node)), before, "nothing was touched");
    assert!(node.open_changes().is_empty());
}

#[test]
fn files_that_are_no_overlays_are_refused() {
    if !engine_runs_here() {
        return;
    }
    let more = ["--storage-driver", "vfs"].map(str::to_owned).to_vec();
    let engine = engine::Options { more, ..engine::Options::default() };
    let node = Node::start(Options { engine, ..Options::default() });
    run(&node);
    refused(&node, &["train-0 is kept by the storage driver vfs", "docker commit train-0"]);
    // One that has never run too: docker cp may have put files into it.
    node.gpuctl_ok(&["rm", "-f", "--history", "train"]);
    node.gpuctl_ok(&["create", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"]);
    refused(&node, &["the storage driver vfs"]);
    // What needs no files goes on.
    node.gpuctl_ok(&["scale", "train", "--gpus", "2"]);
    node.check();
}

#[test]
fn a_layer_that_is_not_whole_by_itself_is_refused() {
    if !engine_runs_here() || !trees::can_be_built() {
        return;
    }
    let node = Node::start(Options::default());
    run(&node);
    let upper = node.docker_ok(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "train-0"]);
    let upper = Path::new(&upper);
    // As an overlay leaves them that is mounted with metacopy or an index.
    trees::run(upper, &["setfattr", "-n", "trusted.overlay.metacopy", "tool"]);
    refused(&node, &["\"tool\" in its writable layer", "(metacopy)", "docker commit"]);
    trees::run(upper, &["setfattr", "-x", "trusted.overlay.metacopy", "tool"]);
    let index = upper.parent().unwrap().join("work/index");
    std::fs::create_dir_all(&index).unwrap();
    std::fs::write(index.join("00fb"), "").unwrap();
    refused(&node, &["its overlay keeps an index in", "docker commit"]);
    std::fs::remove_dir_all(&index).unwrap();
    node.gpuctl_ok(&["update", "train", "--env", "A=1"]);
    node.check();
}

#[test]
fn an_image_that_is_gone_is_said() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    run(&node);
    node.gpuctl_ok(&["stop", "train"]);
    node.docker_ok(&["rmi", "-f", "busybox", "cuda-like"]);
    let before = (state::ledger(&node), state::containers(&node));
    for line in [
        &["update", "train", "--env", "A=1"][..],
        &["update", "train", "--env", "A=1", "--dry-run"],
        &["clone", "train", "twin"],
    ] {
        let got = node.gpuctl(line);
        let said = "the image of train-0 is not on this host any more";
        assert!(got.code == 1 && got.stderr.contains(said), "{line:?}\n{got}");
        assert!(got.stderr.contains("hint: docker pull busybox"), "{got}");
        eprintln!("{}", got.stderr);
    }
    assert_eq!((state::ledger(&node), state::containers(&node)), before, "nothing was touched");
    node.check();
}

#[test]
fn what_does_not_fit_is_refused_with_both_figures_and_fits_where_it_is_shared() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(stage) = Stage::of_size(kind, 1 << 30, false, 0) else { return };
        stage.start();
        let within = stage.within("train-0");
        trees::run(&within, &["sh", "-ec", "dd if=/dev/zero of=big bs=1M count=500 2>/dev/null"]);
        let node = &stage.served.node;
        if kind.shares() {
            stage.gpuctl(&["update", "train", "--env", "A=1"]);
            assert_eq!(
                std::fs::metadata(stage.within("train-1").join("big")).unwrap().len(),
                500 << 20
            );
        } else {
            refused(node, &["its files need 56", "MB are free there", "docker gpuctl prune"]);
        }
        node.check();
    }
}

/// A change that takes a while, and all that it must leave as it was.
struct GivenUp {
    stage: Stage,
    before: (state::Records, Vec<(&'static str, Vec<String>)>),
    upper: std::path::PathBuf,
    used: u64,
}

impl GivenUp {
    fn set(user: u32) -> Option<Self> {
        let stage = Stage::of_size(Kind::Ext4, 7 << 29, false, user)?;
        stage.run();
        let within = stage.within("train-0");
        trees::run(
            &within,
            &["sh", "-ec", "dd if=/dev/zero of=home/large bs=1M count=1000 2>/dev/null; sync"],
        );
        let before = (state::ledger(&stage.served.node), stage.seen("train-0"));
        let (upper, used) = (stage.upper("train-0"), stage.used());
        Some(Self { stage, before, upper, used })
    }

    /// Begins a change, and interrupts it once files arrive.
    fn interrupt(&self, line: &[&str], arrives: &dyn Fn() -> bool) -> (i32, String) {
        let child = self.stage.served.begin(self.stage.user(), line);
        wait_for("the first files", Duration::from_secs(60), arrives);
        kill(Pid::from_raw(-i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        ended(child)
    }

    #[track_caller]
    fn is_as_it_was(&self, same_process: bool) {
        let node = &self.stage.served.node;
        wait_for("the end of it", Duration::from_secs(60), || node.open_changes().is_empty());
        let found = state::difference(&self.before.0, &state::ledger(node));
        assert!(found.is_empty() || !same_process, "{found:?}");
        assert_eq!(self.stage.upper("train-0"), self.upper);
        assert!(self.before.1 == self.stage.seen("train-0"), "a file is not as it was");
        assert_eq!(node.docker_ok(&["ps", "-aq"]).lines().count(), 1, "the new one is gone");
        trees::run(&self.upper, &["sync", "-f", "."]);
        let more = self.stage.used().saturating_sub(self.used);
        assert!(more < 50 << 20, "{more} bytes are left on the disk");
        node.check();
    }
}

/// How many names are in the upper directory of a container that does not run.
fn names(node: &Node, container: &str) -> usize {
    let shown = node.docker(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", container]);
    std::fs::read_dir(shown.stdout.trim()).map_or(0, Iterator::count)
}

fn given_up(user: u32) {
    let Some(given) = GivenUp::set(user) else { return };
    let node = &given.stage.served.node;
    let arrives = || names(node, "train-1") > 3;
    let (code, said) = given.interrupt(&["update", "train", "--env", "A=1"], &arrives);
    assert_eq!(code, 130, "{said}");
    assert!(said.contains("error: interrupted; train runs again as it was"), "{said}");
    eprintln!("{said}");
    given.is_as_it_was(false);
    let (code, said) = given.interrupt(&["clone", "train", "twin"], &|| names(node, "twin-0") > 3);
    assert_eq!(code, 130, "{said}");
    assert!(
        said.contains("error: interrupted; there is no twin, and train is as it was"),
        "{said}"
    );
    eprintln!("{said}");
    given.is_as_it_was(false);
    let layers = node.config().layers().join("train");
    let arrives = || {
        let kept = std::fs::read_dir(&layers).into_iter().flatten().flatten();
        kept.map(|entry| std::fs::read_dir(entry.path()).map_or(0, Iterator::count)).sum::<usize>()
            > 3
    };
    let (code, said) = given.interrupt(&["snapshot", "train"], &arrives);
    assert_eq!(code, 130, "{said}");
    assert!(said.contains("error: interrupted; nothing is kept of it"), "{said}");
    eprintln!("{said}");
    given.is_as_it_was(false);
    // Asked for again, it is done.
    given.stage.gpuctl(&["update", "train", "--env", "A=1"]);
    let after = given.stage.seen("train-1");
    assert!(given.before.1 == after, "a file is not as it was");
}

#[test]
fn what_is_given_up_leaves_all_as_it_was() {
    if !gpuctl_tests::full() {
        return gpuctl_tests::skip(
            "what root gives up, in the full run only: a user does it in each",
        );
    }
    given_up(0);
}

#[test]
fn what_a_user_of_the_service_gives_up_leaves_all_as_it_was() {
    given_up(DAEMON);
}

#[test]
fn a_terminal_shows_one_line_that_is_drawn_over() {
    let Some(stage) = Stage::of_size(Kind::Ext4, 5 << 30, false, 0) else { return };
    stage.start();
    let fill = "dd if=/dev/zero of=large bs=1M count=1500 2>/dev/null";
    trees::run(&stage.within("train-0"), &["sh", "-ec", fill]);
    let node = &stage.served.node;
    let drawn = |line: &str, via: &str| {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", line, "/dev/null"]).envs(node.site().engine().environment());
        script.env("GPUCTL_VIA", via);
        let got = command::run(&mut script, Duration::from_secs(120)).unwrap();
        assert_eq!(got.code, 0, "{got}");
        got.stdout
    };
    for (version, via) in [(1, "local"), (2, "service")] {
        // Docker tells of no commit how far it is: it is shown how much there is, and that it goes on.
        let shown = drawn("docker gpuctl commit train kept:1", via);
        let of = format!("\rDocker makes the image of train-{}, for ", version - 1);
        assert!(shown.contains(&of) && shown.contains(" s now: 1.4GB in "), "{shown:?}");
        assert!(shown.rsplit_once("\r\u{1b}[K").is_some_and(|(_, end)| end.starts_with("sha256:")));
        node.docker_ok(&["image", "rm", "kept:1"]);
        let shown = drawn(&format!("docker gpuctl update train --env A={version}"), via);
        for part in ["\rcopying train-", " of 1.4GB", " files", "\rcomparing train-"] {
            assert!(shown.contains(part), "no {part:?}\n{shown:?}");
        }
        node.gpuctl_ok(&["prune", "-f"]);
        // The last of them is taken away before anything else is printed.
        let end = shown.rsplit_once("\r\u{1b}[K").expect("a line is taken away").1;
        assert!(end.contains(&format!("train-{version}")) && !end.contains("copying"), "{shown:?}");
    }
}
