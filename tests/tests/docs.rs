//! The README, the guide and the pages for operations, typed as they stand on nodes of their own. See tests/src/pages.rs for what
//! a block means.

use std::cell::RefCell;
use std::time::Duration;

use gpuctl_tests::newer::composes;
use gpuctl_tests::node::wait_for;
use gpuctl_tests::pages::{self, Block};
use gpuctl_tests::story::{Aside, Story};
use gpuctl_tests::{Etcd, Ledger, Node, Options, engine_runs_here, programs, skip};

fn options() -> Options {
    Options { service: true, name: "gpu1", ..Options::default() }
}

/// Runs a page as a story on one node.
fn page(page: &str, options: Options) {
    if !engine_runs_here() {
        return;
    }
    let aside = Aside::new();
    let node = Node::start(options);
    aside.shows(&node);
    Story::on(&node).runs(page);
}

#[test]
fn the_readme() {
    page("README.md", options());
}

#[test]
fn first_container() {
    page("docs/guide/first-container.md", options());
}

#[test]
fn scale() {
    page("docs/guide/scale.md", options());
}

#[test]
fn volumes() {
    page("docs/guide/volumes.md", Options { volumes: Some(""), ..options() });
}

#[test]
fn versions() {
    page("docs/guide/versions.md", options());
}

#[test]
fn lab() {
    page("docs/guide/lab.md", options());
}

#[test]
fn migrating() {
    page("docs/guide/migrating.md", Options { volumes: Some(""), ..options() });
}

#[test]
fn compose() {
    if !engine_runs_here() {
        return;
    }
    let Some(program) = composes().into_iter().next() else {
        return skip("docker compose is not installed: Debian 12 has none");
    };
    let node = Node::start(options());
    let to = node.place().docker_config().join("cli-plugins/docker-compose");
    gpuctl_sim::files::install(&program, &to).expect("compose is put there");
    Story::on(&node).runs("docs/guide/compose.md");
}

#[test]
fn hosts() {
    if !engine_runs_here() {
        return;
    }
    if gpuctl_sim::command::find(&["etcd"]).is_err() {
        return skip("etcd is not installed");
    }
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let etcd = Etcd::start(folder.path(), 1).expect("etcd");
    let host = |name: &'static str| {
        let node =
            Node::start(Options { ledger: Ledger::Url(etcd.url()), name, ..Options::default() });
        let password = node.place().at("etcd-password");
        std::fs::write(&password, format!("secret-of-{name}\n")).expect("written");
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let url = format!("url = \"{}\"", etcd.url());
        let file = password.display();
        let user = format!("{url}\nuser = \"gpuctl-{name}\"\npassword_file = \"{file}\"");
        node.edit_config(|text| text.replace(&url, &user));
        node
    };
    let (one, two) = (host("gpu1"), host("gpu2"));
    Story::of(&[("etcd", &one), ("gpu1", &one), ("gpu2", &two)])
        .with("ETCDCTL_API", "3".into())
        .with("ETCDCTL_ENDPOINTS", etcd.url().trim_start_matches("etcd://").into())
        .runs("docs/guide/hosts.md");
}

#[test]
fn reference() {
    page("docs/reference/README.md", options());
}

#[test]
fn backup() {
    if !engine_runs_here() {
        return;
    }
    if gpuctl_sim::command::find(&["sqlite3"]).is_err() {
        return skip("sqlite3 is not installed");
    }
    let aside = Aside::new();
    let node = Node::start(options());
    aside.shows(&node);
    Story::on(&node).program("systemctl", &units(&node)).runs("docs/operations/backup.md");
}

/// A systemctl that knows the units of the service: a node of its own has no systemd.
fn units(node: &Node) -> String {
    let pid = node.site().service().expect("the service runs");
    let (place, plugin) = (node.place(), node.site().plugin());
    let (config, socket, log) = (place.config(), place.socket(), place.at("service.log"));
    format!(
        r#"
case "$*" in
    "stop gpuctl.socket gpuctl.service")
        kill {pid} && while kill -0 {pid} 2>/dev/null; do sleep 0.1; done
        rm -f {socket}
        ;;
    "start gpuctl.socket gpuctl.service")
        GPUCTL_CONFIG={config} setsid {plugin} serve >>{log} 2>&1 </dev/null &
        for _ in $(seq 100); do test -S {socket} && exit 0; sleep 0.1; done
        exit 1
        ;;
    *) echo "no systemctl $*"; exit 1 ;;
esac"#,
        config = config.display(),
        socket = socket.display(),
        plugin = plugin.display(),
        log = log.display(),
    )
}

#[test]
fn failures() {
    if !engine_runs_here() {
        return;
    }
    if gpuctl_sim::command::find(&["etcd"]).is_err() {
        return skip("etcd is not installed");
    }
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let etcd = RefCell::new(Etcd::start(folder.path(), 1).expect("etcd"));
    let aside = Aside::new();
    let one = Node::start(options());
    let ledger = Ledger::Url(etcd.borrow().url());
    let two = Node::start(Options { ledger, name: "gpu2", ..Options::default() });
    aside.shows(&one);
    let hit = |to: &'static str, what: &'static str| {
        let node = &one;
        move || {
            node.set_profile(to);
            let seen = || node.gpuctl_ok(&["gpus"]).contains(what);
            wait_for(what, Duration::from_secs(20), || seen() == (to != "a100x8"));
        }
    };
    let wrong = "\n[policy]\nbear = \"assign\"\n";
    Story::of(&[("", &one), ("gpu2", &two)])
        .when("a card falls off the bus", hit("lost-card", "bus"))
        .when("the card answers again", hit("a100x8", "bus"))
        .when("a process without a container is on a GPU", hit("leftover-process", "31337"))
        .when("the process is gone", hit("a100x8", "31337"))
        .when("the service stops", || one.kill_service())
        .when("the service starts", || one.start_service())
        .when("dockerd is killed", || one.kill_engine())
        .when("dockerd starts", || one.start_engine())
        .when("the config gets a word that is none", || one.edit_config(|text| text + wrong))
        .when("the config is mended", || one.edit_config(|text| text.replace(wrong, "")))
        .when("a scale to 2 is killed once it has claimed", || {
            one.gpuctl_killed_at("scale:restart:begun", &["scale", "train", "--gpus", "2"]);
        })
        .when("the ledger's file is overwritten", || {
            one.kill_service();
            for name in ["ledger.db-wal", "ledger.db-shm"] {
                let _ = std::fs::remove_file(one.place().state().join(name));
            }
            std::fs::write(one.place().sqlite(), [7; 9000]).expect("written");
            one.start_service();
        })
        .when("etcd is killed", || etcd.borrow_mut().kill(0).expect("it ends"))
        .when("etcd starts", || {
            etcd.borrow_mut().restart(0).expect("it starts");
            etcd.borrow().wait().expect("it comes up");
        })
        .when("another machine takes the name of gpu2", || {
            gpuctl_sim::files::fresh_id(&two.place().machine_id(), false).expect("an id");
        })
        .when("gpuctl-gate is removed", || {
            std::fs::remove_file(one.place().libexec().join("gpuctl-gate")).expect("removed");
        })
        .runs("docs/operations/failures.md");
}

/// The pages whose commands this file runs; those of the folders that have none.
const RUN: [&str; 13] = [
    "README.md",
    "docs/guide/compose.md",
    "docs/guide/first-container.md",
    "docs/guide/hosts.md",
    "docs/guide/install.md",
    "docs/guide/lab.md",
    "docs/guide/migrating.md",
    "docs/guide/scale.md",
    "docs/guide/versions.md",
    "docs/guide/volumes.md",
    "docs/operations/backup.md",
    "docs/operations/failures.md",
    "docs/reference/README.md",
];

#[test]
fn every_page_is_run_and_every_config_is_one() {
    let mut pages = ["README.md", "docs/reference/README.md"].map(str::to_owned).to_vec();
    for folder in ["docs/guide", "docs/operations"] {
        let files = std::fs::read_dir(programs::repository().join(folder)).expect("a folder");
        let names = files.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        pages.extend(names.map(|name| format!("{folder}/{name}")));
    }
    pages.sort();
    let (mut run, mut apart) = (vec![], vec![]);
    for page in pages {
        let text = std::fs::read_to_string(programs::repository().join(&page)).expect("the page");
        let blocks = pages::read(&text).unwrap_or_else(|why| panic!("{page}: {why}"));
        let mut story = false;
        for block in blocks {
            match block {
                Block::Config { line, text } => {
                    let folder = tempfile::tempdir().expect("a folder");
                    let file = folder.path().join("config.toml");
                    gpuctl_sim::files::write(&file, &text).expect("written");
                    gpuctl_ledger::config::Config::read(&file)
                        .unwrap_or_else(|why| panic!("{page}:{line}: {why:?}"));
                }
                Block::Story(_) => story = true,
                Block::Apart { name, .. } => apart.push((page.clone(), name)),
                Block::File { .. } | Block::Happens(_) => {}
                Block::NotRun(why) => eprintln!("not run in {page}: {why}"),
            }
        }
        if story {
            run.push(page);
        }
    }
    assert_eq!(run, RUN, "a test here, or in docs_apart.rs, for each page that has commands");
    let tests = include_str!("docs_apart.rs");
    for (page, name) in apart {
        let call = format!("runs_apart(\"{page}\", \"{name}\")");
        assert!(tests.contains(&call), "{page}: docs_apart.rs has no {call}");
    }
}
