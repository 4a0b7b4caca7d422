//! Files that `docker cp` puts into a container that was never started: carried, or said not to be.

use gpuctl_tests::newer::Debian;
use gpuctl_tests::{Node, Options, engine_runs_here, state};

/// `train`, never started; a file is put into it where that is asked for.
fn created(node: &Node, file: bool) {
    node.gpuctl_ok(&["create", "--name", "train", "--gpus", "1", "busybox", "sleep", "100000"]);
    if file {
        let from = node.place().at("put");
        std::fs::write(&from, "put\n").unwrap();
        // The newer Engines see the place where it is.
        node.docker_ok(&["cp", from.to_str().unwrap(), "train-0:/put"]);
    }
}

#[test]
fn they_are_carried_where_docker_shows_where_they_are() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    created(&node, true);
    node.gpuctl_ok(&["update", "train", "--env", "A=1"]);
    node.gpuctl_ok(&["clone", "train", "twin"]);
    node.gpuctl_ok(&["start", "train", "twin"]);
    for container in ["train-1", "twin-0"] {
        assert_eq!(node.docker_ok(&["exec", container, "cat", "/put"]), "put");
    }
    node.check();
}

#[test]
fn with_containerds_image_store_it_is_said_before_anything_is_touched() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    let node = debian.containerd_node();
    // Without any, there is nothing to lose.
    created(&node, false);
    node.gpuctl_ok(&["update", "train", "--env", "A=1"]);
    node.gpuctl_ok(&["rm", "--history", "train"]);
    created(&node, true);
    let before = (state::ledger(&node), state::containers(&node));
    for words in [
        &["update", "train", "--env", "A=1"][..],
        &["update", "train", "--env", "A=1", "--dry-run"],
        &["clone", "train", "twin"],
    ] {
        let got = node.gpuctl(words);
        assert_eq!(got.code, 1, "{got}");
        assert!(got.stderr.contains("files were put into it"), "{got}");
        assert!(got.stderr.contains("hint: docker gpuctl start train-0"), "{got}");
        assert_eq!((state::ledger(&node), state::containers(&node)), before, "{got}");
    }
    node.gpuctl_ok(&["start", "train"]);
    node.gpuctl_ok(&["stop", "-t", "0", "train"]);
    node.gpuctl_ok(&["update", "train", "--env", "A=1"]);
    node.gpuctl_ok(&["start", "train"]);
    assert_eq!(node.docker_ok(&["exec", "train-1", "cat", "/put"]), "put");
    node.check();
}
