//! What a change keeps and takes: places on networks, volumes by our names, images that are not there, ports
//! of an older version; and clones with volumes of their own.

use gpuctl_sim::engine;
use gpuctl_tests::newer::Debian;
use gpuctl_tests::registry::Registry;
use gpuctl_tests::{Node, Options, engine_runs_here, state};
use serde_json::Value;

fn node(range: &str) -> Node {
    Node::start(Options { config: format!("[ports]\nrange = \"{range}\"\n"), ..Options::default() })
}

const RUN: [&str; 7] = ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal=KILL"];
const SLEEP: [&str; 3] = ["busybox", "sleep", "100000"];

fn inspect(node: &Node, container: &str) -> Value {
    let text = node.docker_ok(&["inspect", container]);
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[0].take()
}

/// Address, MAC and asked-for aliases of an endpoint of a running container.
fn endpoint(node: &Node, container: &str, network: &str) -> (String, String, Vec<String>) {
    let shown = inspect(node, container);
    let id = shown["Id"].as_str().unwrap().to_owned();
    let endpoint = &shown["NetworkSettings"]["Networks"][network];
    let text = |key: &str| endpoint[key].as_str().unwrap_or_default().to_owned();
    let aliases = endpoint["Aliases"].as_array().cloned().unwrap_or_default();
    let aliases = aliases.iter().filter_map(Value::as_str).filter(|alias| !id.starts_with(alias));
    let mut aliases: Vec<String> = aliases.map(str::to_owned).collect();
    aliases.sort();
    (text("IPAddress"), text("MacAddress"), aliases)
}

/// Two networks, each with an address and an alias; a MAC where the Engine takes one.
fn networks(node: &Node, third: u8, many: bool) {
    for (network, number) in [("lan", third), ("wan", third + 1)] {
        let subnet = format!("10.214.{number}.0/24");
        node.docker_ok(&["network", "create", "--subnet", &subnet, network]);
    }
    let address = |number: u8, last: u8| format!("10.214.{number}.{last}");
    let mac = "02:42:0a:d6:77:01";
    let more: Vec<String> = if many {
        vec![
            format!("--network=name=lan,ip={},alias=db,mac-address={mac}", address(third, 9)),
            format!(
                "--network=name=wan,ip={},alias=far,mac-address=02:42:0a:d6:77:02",
                address(third + 1, 9)
            ),
        ]
    } else {
        let ip = address(third, 9);
        ["--network", "lan", "--ip", &ip, "--network-alias", "db", "--mac-address", mac]
            .map(str::to_owned)
            .to_vec()
    };
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    node.gpuctl_ok(&[&RUN[..], &more, &SLEEP].concat());
    if !many {
        let ip = address(third + 1, 9);
        node.docker_ok(&["network", "connect", "--ip", &ip, "--alias", "far", "wan", "train-0"]);
    }
    let seen = |container: &str| {
        let (lan, wan) = (endpoint(node, container, "lan"), endpoint(node, container, "wan"));
        // Docker makes up what was not asked for, and a name of ours is the version's.
        let made_up = if many { wan.1 } else { String::new() };
        let ours = |aliases: Vec<String>| -> Vec<String> {
            aliases.into_iter().filter(|alias| !alias.starts_with("train-")).collect()
        };
        (lan.0, lan.1, ours(lan.2), wan.0, made_up, ours(wan.2))
    };
    let before = seen("train-0");
    assert_eq!((before.0.as_str(), before.1.as_str()), (address(third, 9).as_str(), mac));
    assert_eq!(before.3, address(third + 1, 9));
    if many {
        assert_eq!(before.4, "02:42:0a:d6:77:02");
    }
    assert!(before.2.contains(&"db".to_owned()) && before.5.contains(&"far".to_owned()));
    node.gpuctl_ok(&["update", "train", "--env", "A=1"]);
    assert_eq!(seen("train-1"), before);
    // A change in place is recorded with them, and a rollback to it has them again.
    node.gpuctl_ok(&["update", "train", "--memory", "64m"]);
    node.gpuctl_ok(&["update", "train", "--env", "A=2"]);
    node.gpuctl_ok(&["rollback", "train", "2"]);
    assert_eq!(seen("train-4"), before);
    // A stopped one too, whose endpoints show nothing; and an adopted one.
    node.gpuctl_ok(&["stop", "-t", "0", "train"]);
    node.gpuctl_ok(&["update", "train", "--env", "A=3"]);
    node.gpuctl_ok(&["start", "train"]);
    assert_eq!(seen("train-5"), before);
    node.gpuctl_ok(&["rm", "-f", "--history", "train"]);
    let web = ["run", "-d", "--name", "web", "--gpus", "1", "--stop-signal", "KILL"];
    node.docker_ok(&[&web[..], &more, &SLEEP].concat());
    let before = endpoint(node, "web", "lan");
    let got = node.gpuctl(&["adopt", "web", "--name", "site"]);
    assert_eq!((got.code, got.stderr.contains("keeps its MAC address on lan")), (0, many), "{got}");
    let after = endpoint(node, "site-0", "lan");
    assert_eq!((after.0, after.1), (before.0, before.1));
    // A clone has none of them: only one can.
    node.gpuctl_ok(&["clone", "site", "twin"]);
    assert_ne!(endpoint(node, "twin-0", "lan").1, mac);
    node.check();
}

#[test]
fn places_on_networks_stay() {
    if !engine_runs_here() {
        return;
    }
    networks(&node("21810-21819"), 90, false);
}

#[test]
fn places_on_networks_stay_on_newer_engines() {
    if !engine_runs_here() {
        return;
    }
    for (suite, third, range) in [("trixie", 92, "21820-21829"), ("sid", 94, "21830-21839")] {
        let Some(debian) = Debian::of(suite) else { continue };
        let engine = engine::Options { root: Some(debian.root()), ..engine::Options::default() };
        let config = format!("[ports]\nrange = \"{range}\"\n");
        let node = Node::start(Options { engine, config, ..Options::default() });
        networks(&node, third, true);
    }
}

#[test]
fn a_volume_is_swapped_by_the_names_of_ours_and_never_for_one_that_is_not_there() {
    if !engine_runs_here() {
        return;
    }
    let node =
        Node::start(Options { volumes: Some("backend = \"image\"\n"), ..Options::default() });
    node.gpuctl_ok(&["volume", "create", "data", "--size", "20MB"]);
    node.gpuctl_ok(&[&RUN[..], &["-v", "data-0:/data"], &SLEEP].concat());
    let within =
        |container: &str, script: &str| node.docker_ok(&["exec", container, "sh", "-c", script]);
    let mounted = |container: &str| {
        let format = "{{range .Mounts}}{{.Name}} {{.Destination}}{{end}}";
        node.docker_ok(&["inspect", "-f", format, container])
    };
    within("train-0", "echo old >/data/x");
    node.gpuctl_ok(&["stop", "-t", "0", "train"]);
    node.gpuctl_ok(&["volume", "resize", "data", "30MB"]);
    node.gpuctl_ok(&["start", "train"]);
    within("train-0", "echo newer >/data/x");
    // The version that is mounted goes, the current one comes.
    node.gpuctl_ok(&["update", "train", "--volume", "data:data"]);
    assert_eq!(
        (mounted("train-1").as_str(), within("train-1", "cat /data/x").as_str()),
        ("data-1 /data", "old")
    );
    node.docker_ok(&["volume", "create", "plain"]);
    node.gpuctl_ok(&["update", "train", "--volume", "data:plain"]);
    assert_eq!(mounted("train-2"), "plain /data");
    node.gpuctl_ok(&["update", "train", "--volume", "plain:data-0"]);
    assert_eq!(within("train-3", "cat /data/x"), "newer");
    let before = (state::ledger(&node), state::containers(&node));
    for (swap, why) in
        [("data:tpyo", "there is no volume tpyo"), ("other:data", "other is not mounted")]
    {
        let got = node.gpuctl(&["update", "train", "--volume", swap]);
        assert!(got.code == 1 && got.stderr.contains(why), "{got}");
        assert!(got.stderr.contains("hint: "), "{got}");
    }
    assert_eq!((state::ledger(&node), state::containers(&node)), before);
    assert!(!node.docker_ok(&["volume", "ls", "-q"]).contains("tpyo"));
    node.check();
}

#[test]
fn an_image_that_is_not_there_is_pulled_and_one_that_cannot_be_changes_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21840-21849");
    let change = ["commit", "-c", "ENV MADE=elsewhere", "-c", "CMD [\"true\"]"];
    let made = node.docker_ok(&["create", "busybox", "true"]);
    node.docker_ok(&[&change[..], &[&made, "elsewhere"]].concat());
    node.docker_ok(&["rm", &made]);
    let registry = Registry::with(&node, "elsewhere");
    node.docker_ok(&["rmi", "elsewhere"]);
    node.gpuctl_ok(&[&RUN[..], &SLEEP].concat());
    let before = (state::ledger(&node), state::containers(&node));
    let nowhere = "127.0.0.1:1/nowhere:v1";
    for words in [
        &["update", "train", "--image", nowhere][..],
        &["update", "train", "--snapshot", "--image", nowhere],
    ] {
        let got = node.gpuctl(words);
        assert!(got.code == 1 && got.stderr.contains("could not be pulled"), "{got}");
        // Docker's own words.
        assert!(got.stderr.contains("connection refused") && got.stdout.is_empty(), "{got}");
    }
    assert_eq!((state::ledger(&node), state::containers(&node)), before);
    let plan = node.gpuctl(&["update", "train", "--image", &registry.image(), "--dry-run"]);
    assert!(
        plan.code == 0 && plan.stdout.contains(&format!("pull {}", registry.image())),
        "{plan}"
    );
    assert_eq!(registry.pulls(), 0);
    let got = node.gpuctl(&["update", "train", "--image", &registry.image()]);
    assert_eq!((got.code, got.stdout.as_str()), (0, "train-1\n"), "{got}");
    assert!(got.stderr.contains("it is pulled") && got.stderr.contains("Digest: sha256:"), "{got}");
    assert!(registry.pulls() > 0);
    assert_eq!(node.docker_ok(&["exec", "train-1", "sh", "-c", "echo $MADE"]), "elsewhere");
    // Back, and forth again where the image is gone meanwhile: with the user's words of that version.
    node.gpuctl_ok(&["rollback", "train", "0"]);
    assert_eq!(node.docker_ok(&["exec", "train-2", "sh", "-c", "echo $MADE"]), "");
    node.gpuctl_ok(&["prune", "-f", "train"]);
    node.docker_ok(&["rmi", "-f", &registry.image()]);
    node.gpuctl_ok(&["rollback", "train", "1"]);
    assert_eq!(node.docker_ok(&["exec", "train-3", "sh", "-c", "echo $MADE"]), "elsewhere");
    // A name that means another image by now is another image.
    node.docker_ok(&["tag", "busybox", &registry.image()]);
    node.gpuctl_ok(&["update", "train", "--env", "A=b"]);
    assert_eq!(node.docker_ok(&["exec", "train-4", "sh", "-c", "echo $MADE"]), "elsewhere");
    let got = node.gpuctl(&["update", "train", "--image", &registry.image()]);
    assert!(got.code == 0 && got.stdout == "train-5\n", "{got}");
    assert_eq!(node.docker_ok(&["exec", "train-5", "sh", "-c", "echo $MADE-$A"]), "-b");
    let history = node.gpuctl_ok(&["history", "train"]);
    assert!(history.contains("image "), "{history}");
    node.check();
}

#[test]
fn a_rollback_takes_a_port_that_was_given_back_again() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21850-21859");
    node.gpuctl_ok(&[&RUN[..], &["-p", "auto:22", "-p", "auto:53/udp"], &SLEEP].concat());
    let ports = node.gpuctl_ok(&["ports", "-q"]);
    assert_eq!(ports.lines().count(), 2);
    node.gpuctl_ok(&["update", "train", "--publish-rm", "22", "--publish-rm", "53/udp"]);
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), "");
    node.gpuctl_ok(&["rollback", "train"]);
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), ports);
    // Where somebody else has it by now, it is another one, and that is said.
    node.gpuctl_ok(&["update", "train", "--publish-rm", "22"]);
    let given_back: Vec<&str> = {
        let now = node.gpuctl_ok(&["ports", "-q"]);
        ports.lines().filter(|p| !now.contains(p)).collect()
    };
    let [port] = given_back.as_slice() else { panic!("{given_back:?}") };
    let theirs = format!("{port}:80");
    node.docker_ok(&["run", "-d", "--name", "theirs", "-p", &theirs, "busybox", "sleep", "100000"]);
    let got = node.gpuctl(&["rollback", "train"]);
    assert!(got.code == 0 && got.stderr.contains("port 22/tcp is 2185"), "{got}");
    let now = node.gpuctl_ok(&["ports", "-q"]);
    assert!(now.lines().count() == 2 && !now.lines().any(|p| p == *port), "{now}");
    let format = "{{(index (index .HostConfig.PortBindings \"22/tcp\") 0).HostPort}}";
    let shown = node.docker_ok(&["inspect", "-f", format, "train-4"]);
    assert!(now.lines().any(|p| p == shown), "{shown}\n{now}");
    node.check();
    node.gpuctl_ok(&["rm", "-f", "train"]);
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]), "");
}

#[test]
fn a_clone_has_volumes_of_its_own_where_that_is_said_and_never_an_anonymous_one_of_the_first() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21860-21869");
    let volumes = ["-v", "data:/data", "-v", "/scratch", "--mount", "type=volume,target=/made"];
    node.gpuctl_ok(&[&RUN[..], &volumes, &SLEEP].concat());
    let within =
        |container: &str, script: &str| node.docker_ok(&["exec", container, "sh", "-c", script]);
    let write = "for d in data scratch made; do echo $d >/$d/x; done; ln /data/x /data/y; chown 7:8 /data/x";
    within("train-0", write);
    // Of one that was replaced they come from the container before: there they are still nobody's.
    node.gpuctl_ok(&["update", "train", "--replace"]);
    let names = |container: &str| -> Vec<(String, String)> {
        let mounts = inspect(&node, container)["Mounts"].as_array().unwrap().clone();
        let text = |m: &Value, key: &str| m[key].as_str().unwrap().to_owned();
        let mut all: Vec<_> =
            mounts.iter().map(|m| (text(m, "Destination"), text(m, "Name"))).collect();
        all.sort();
        all
    };
    let first = names("train-1");
    node.gpuctl_ok(&["clone", "train", "twin"]);
    let twin = names("twin-0");
    assert_eq!(twin.len(), 3, "{twin:?}");
    for ((place, name), (_, other)) in first.iter().zip(&twin) {
        assert_eq!(name == other, place == "/data", "{place}");
    }
    assert_eq!(within("twin-0", "cat /data/x; cat /scratch/* /made/* 2>&1 | wc -l"), "data\n2");
    let got = node.gpuctl(&["clone", "train", "third", "--volumes"]);
    assert!(got.code == 0 && got.stderr.contains("volume data is copied to third-data"), "{got}");
    let third = names("third-0");
    assert_eq!(third[0], ("/data".to_owned(), "third-data".to_owned()));
    assert!(first.iter().all(|mount| !third.contains(mount)), "{third:?}");
    let seen = "cat /data/x /scratch/x /made/x; stat -c '%u:%g %h' /data/y";
    assert_eq!(within("third-0", seen), "data\nscratch\nmade\n7:8 2");
    within("third-0", "echo other >/data/x");
    assert_eq!(within("train-1", "cat /data/x"), "data");
    // Refused, and nothing is left.
    node.docker_ok(&["volume", "create", "fourth-data"]);
    let before = (state::ledger(&node), state::containers(&node));
    let got = node.gpuctl(&["clone", "train", "fourth", "--volumes"]);
    assert!(got.code == 1 && got.stderr.contains("there is one"), "{got}");
    assert_eq!((state::ledger(&node), state::containers(&node)), before);
    node.docker_ok(&["volume", "rm", "fourth-data"]);
    // Killed: nothing is left of it but what was.
    let volumes = node.docker_ok(&["volume", "ls", "-q"]);
    for point in ["clone:create:done", "clone:carry:begun", "clone:carry:done"] {
        node.gpuctl_killed_at(point, &["clone", "train", "fourth", "--volumes"]);
        let got = node.gpuctl(&["doctor", "--fix"]);
        assert!(node.open_changes().is_empty(), "{point}\n{got}");
        let there = node.docker_ok(&["ps", "-aq", "--filter", "name=fourth"]);
        assert_eq!(there, "", "{point}\n{got}");
        assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), volumes, "{point}\n{got}");
    }
    node.check();
    node.gpuctl_ok(&["rm", "-f", "-v", "--history", "train", "twin", "third"]);
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data\nthird-data");
}
