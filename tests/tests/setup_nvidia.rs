//! `docker gpuctl setup` on hosts with NVIDIA's toolkit, for which a stand-in does what it does in
//! legacy mode: its runtime is the default, and every CUDA image asks for all GPUs by its ENV.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gpuctl_sim::nvidia;
use gpuctl_tests::hosts::{default_runtime, host, restart, root, setup_ok};
use gpuctl_tests::{Node, engine_runs_here, probe, programs, skip};

/// As of nvidia/cuda: PATH first.
const IMAGE: [&str; 4] =
    ["--change", "ENV PATH=/bin", "--change", "ENV NVIDIA_VISIBLE_DEVICES=all"];

fn runs_here() -> bool {
    if !Path::new("/sys/fs/cgroup/devices").is_dir() {
        skip("the stand-in for NVIDIA's toolkit writes device rules of cgroup v1");
        return false;
    }
    engine_runs_here()
}

/// A host whose default runtime is NVIDIA's, without a CDI spec.
fn nvidia_host(folder: &Path) -> Node {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    nvidia::install(&programs::sim(), &programs::profile("a100x8"), folder).unwrap();
    let runtime = folder.join("nvidia-container-runtime");
    let json = serde_json::json!({
        "default-runtime": "nvidia",
        "runtimes": {"nvidia": {"path": runtime, "runtimeArgs": []}},
    });
    let node = host(&json.to_string(), Some(folder));
    fs::remove_file(node.place().cdi().join("nvidia.json")).unwrap();
    node.docker_ok(&["create", "--name", "base", "busybox"]);
    node.docker_ok(&[&["commit"], &IMAGE[..], &["base", "cuda"]].concat());
    node.docker_ok(&["rm", "base"]);
    node
}

#[track_caller]
fn opens(node: &Node, name: &str, flags: &[&str], image: &str) -> BTreeSet<u32> {
    let words = [&["run", "-d", "--name", name], flags, &[image, "sleep", "100000"]].concat();
    let got = node.docker(&words);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    probe::opens(node, name)
}

fn audit(node: &Node, name: &str) -> String {
    let text = fs::read_to_string(node.place().state().join("audit.log")).unwrap_or_default();
    let of = format!("\"name\":\"{name}\"");
    text.lines().filter(|line| line.contains(&of)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_host_whose_default_is_nvidias_runtime_goes_on_working() {
    if !runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = nvidia_host(folder.path());
    let all: BTreeSet<u32> = (0..8).map(|index| node.minor(index)).collect();
    // Before: every container of a CUDA image has every GPU.
    assert_eq!(opens(&node, "before", &[], "cuda"), all);

    // Observe: it still has, and what would become of it is written down.
    let got = setup_ok(&node, &["--observe"]);
    assert!(got.stderr.contains("policy.image_env"), "{got}");
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    let config = node.config();
    assert_eq!(config.runtime.real, folder.path().join("nvidia-container-runtime"));
    assert!(config.runtime.runc.is_some() && config.policy.observe);
    assert_eq!(node.leased_minors(&node.id("before")), all);
    assert_eq!(opens(&node, "observed", &[], "cuda"), all);
    assert!(
        audit(&node, "observed").contains("only its image asks for all GPUs"),
        "{}",
        audit(&node, "observed")
    );
    assert_eq!(opens(&node, "asking", &["-e", "NVIDIA_VISIBLE_DEVICES=all"], "cuda"), all);
    assert!(
        audit(&node, "asking").contains("\"decision\":\"refused\""),
        "{}",
        audit(&node, "asking")
    );
    assert!(opens(&node, "plain", &[], "busybox").is_empty());
    let doctor = node.gpuctl(&["doctor"]);
    assert!(doctor.stdout.contains("observe: docker run is logged"), "{doctor}");
    node.docker_ok(&["rm", "-f", "before"]);

    // Cooperative: what runs keeps what it has, and the image's word alone is ignored.
    let got = setup_ok(&node, &[]);
    assert!(
        got.stderr.contains("asking may open GPU 0,1,2,3,4,5,6,7, which observed holds"),
        "{got}"
    );
    assert!(!node.config().policy.observe);
    assert_eq!(node.leased_minors(&node.id("observed")), all);
    assert!(opens(&node, "image", &[], "cuda").is_empty());
    let got = node.docker(&["run", "--rm", "-e", "NVIDIA_VISIBLE_DEVICES=all", "cuda", "true"]);
    assert!(got.code == 125 && got.stderr.contains("observed"), "{got}");
    node.docker_ok(&["rm", "-f", "observed", "asking"]);
    let named = format!("NVIDIA_VISIBLE_DEVICES={}", node.gpus()[3].uuid);
    assert_eq!(opens(&node, "named", &["-e", &named], "cuda"), [node.minor(3)].into());
    assert_eq!(opens(&node, "two", &["--gpus", "2"], "cuda").len(), 2);
    node.edit_config(|text| {
        format!("{text}\n")
            .replace("[policy]\n", "[policy]\nall = \"free\"\nimage_env = \"claim\"\n")
    });
    assert_eq!(opens(&node, "rest", &[], "cuda").len(), 5);
    let got = node.docker(&["run", "--rm", "cuda", "true"]);
    assert!(got.code == 125 && got.stderr.contains("gpuctl: "), "{got}");
    node.docker_ok(&["rm", "-f", "rest"]);
    node.edit_config(|text| text.replace("image_env = \"claim\"", "image_env = \"ignore\""));
    node.check();

    // Strict: NVIDIA's runtime, called by its name, calls us in its turn.
    assert_eq!(opens(&node, "past", &["--runtime", "nvidia"], "cuda").len(), 8);
    node.docker_ok(&["rm", "-f", "past"]);
    setup_ok(&node, &["--strict"]);
    restart(&node);
    assert!(opens(&node, "strict", &["--runtime", "nvidia"], "cuda").is_empty());
    assert!(opens(&node, "gate", &[], "cuda").is_empty());
    let one = format!("NVIDIA_VISIBLE_DEVICES={}", node.gpus()[0].uuid);
    assert_eq!(
        opens(&node, "one", &["--runtime", "nvidia", "-e", &one], "cuda"),
        [node.minor(0)].into()
    );
    let got = node.docker(&["run", "--rm", "--runtime", "nvidia", "-e", &one, "cuda", "true"]);
    assert!(got.code == 125 && got.stderr.contains("one"), "{got}");
    assert_eq!(opens(&node, "three", &["--gpus", "3"], "cuda").len(), 3);
    assert!(setup_ok(&node, &["--strict"]).stdout.is_empty());
    node.check();

    // Removed: as it was.
    node.docker_ok(&[
        "rm", "-f", "strict", "gate", "one", "three", "two", "named", "image", "plain",
    ]);
    setup_ok(&node, &["--remove"]);
    assert_eq!(default_runtime(&node), "nvidia");
    restart(&node);
    assert_eq!(opens(&node, "after", &[], "cuda"), all);
}

#[test]
fn a_variable_that_nvidias_config_names_asks_as_the_usual_one_and_opens_only_what_is_leased() {
    if !runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = nvidia_host(folder.path());
    let config = root(&node).join("etc/nvidia-container-runtime/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "swarm-resource = \"DOCKER_RESOURCE_GPU\"\n").unwrap();
    fs::write(folder.path().join(nvidia::SWARM), "DOCKER_RESOURCE_GPU").unwrap();
    let named = format!("DOCKER_RESOURCE_GPU={}", node.gpus()[3].uuid);
    let flags = ["--runtime", "nvidia", "-e", &named];
    let third: BTreeSet<u32> = [node.minor(3)].into();
    assert_eq!(opens(&node, "before", &flags, "busybox"), third, "the stand-in heeds it");
    node.docker_ok(&["rm", "-f", "before"]);
    // Where NVIDIA's runtime is behind us nothing that asks for no GPU leaves another variable to be heeded,
    // also by a toolkit that knows no such variable, and one that says "all" in the user's name is no image's.
    setup_ok(&node, &[]);
    let all = "NVIDIA_VISIBLE_DEVICES=all";
    for swarm in ["DOCKER_RESOURCE_GPU", ""] {
        fs::write(folder.path().join(nvidia::SWARM), swarm).unwrap();
        for flags in [
            &["-e", "DOCKER_RESOURCE_GPU=void", "-e", all][..],
            &["-e", "DOCKER_RESOURCE_GPU=", "-e", all],
            &["--gpus", "0", "-e", all],
            &["--gpus", "0", "-e", "DOCKER_RESOURCE_GPU=all"],
        ] {
            for image in ["busybox", "cuda"] {
                assert!(opens(&node, "none", flags, image).is_empty(), "{swarm} {flags:?} {image}");
                node.docker_ok(&["rm", "-f", "none"]);
            }
        }
    }
    fs::write(folder.path().join(nvidia::SWARM), "DOCKER_RESOURCE_GPU").unwrap();
    let asks = ["-e", "DOCKER_RESOURCE_GPU=all"];
    assert_eq!(opens(&node, "all", &asks, "cuda").len(), 8);
    assert_eq!(node.leased_minors(&node.id("all")).len(), 8);
    node.docker_ok(&["rm", "-f", "all"]);
    setup_ok(&node, &["--strict"]);
    restart(&node);
    assert_eq!(node.config().gpu.swarm_resource, ["DOCKER_RESOURCE_GPU"]);
    assert_eq!(opens(&node, "one", &flags, "busybox"), third);
    assert_eq!(node.leased_minors(&node.id("one")), third);
    for again in [&flags[..], &["-e", &named, "-e", "NVIDIA_VISIBLE_DEVICES=void"]] {
        let got = node.docker(&[&["run", "--rm"], again, &["busybox", "true"]].concat());
        assert!(got.code == 125 && got.stderr.contains("GPU 3 one "), "{got}");
    }
    // Beside a request it says nothing: what was asked for is leased and opened, and nothing else.
    for (name, runtime) in [("two", "gpuctl-gate"), ("three", "nvidia")] {
        let line = ["--runtime", runtime, "--gpus", "2", "-e", "DOCKER_RESOURCE_GPU=all"];
        let open = opens(&node, name, &line, "busybox");
        assert_eq!((open.len(), &open), (2, &node.leased_minors(&node.id(name))), "{name}");
    }
    let line = ["run", "-d", "--name", "train", "-e", "DOCKER_RESOURCE_GPU=all", "--gpus", "1"];
    node.gpuctl_ok(&[&line[..], &["busybox", "sleep", "100000"]].concat());
    assert_eq!(probe::opens(&node, "train-0"), node.leased_minors(&node.id("train-0")));
    node.check();
}

/// What is wrong where a container opens other GPUs than it has leased, or is turned away by others than us.
fn opens_unleased(node: &Node, flags: &[&str], image: &str) -> Option<String> {
    let line = [&["run", "-d", "--name", "row"], flags, &[image, "sleep", "100000"]].concat();
    let got = node.docker(&line);
    let right = if got.code == 0 {
        probe::opens(node, "row") == node.leased_minors(&node.id("row"))
    } else {
        got.code == 125 && got.stderr.contains("gpuctl: ")
    };
    let wrong = (!right).then(|| format!("{flags:?} {image}: {got}"));
    node.docker_ok(&["rm", "-f", "row"]);
    wrong
}

#[test]
fn whatever_the_toolkit_takes_for_a_request_opens_only_what_is_leased() {
    if !runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = nvidia_host(folder.path());
    fs::write(folder.path().join(nvidia::MOUNTS), "").unwrap();
    node.docker_ok(&["create", "--name", "base", "busybox"]);
    let old = ["--change", "ENV CUDA_VERSION=8.0", "--change", "ENV NVIDIA_REQUIRE_CUDA="];
    node.docker_ok(&[&["commit"], &old[..], &["base", "old"]].concat());
    node.docker_ok(&["rm", "base"]);
    let mount = |name: &str| {
        format!("type=bind,src=/dev/null,\"dst=/var/run/nvidia-container-devices{name}\"")
    };
    let address = node.gpus()[3].pci.clone();
    let env = [
        "NVIDIA_VISIBLE_DEVICES=all,void".to_owned(),
        format!("NVIDIA_VISIBLE_DEVICES={address}/x=none"),
    ];
    let beginning = format!("/{address}/none");
    let mounts = ["all", "/all,/none", "/all,none", &beginning, "/5"].map(mount);
    let rows: Vec<(Vec<&str>, &str)> = env
        .iter()
        .map(|env| (vec!["-e", env.as_str()], "busybox"))
        .chain(mounts.iter().map(|mount| (vec!["--mount", mount.as_str()], "busybox")))
        .chain([
            (vec![], "old"),
            (vec!["-e", "CUDA_VERSION=8.0", "-e", "NVIDIA_REQUIRE_CUDA="], "busybox"),
        ])
        .collect();
    for (flags, image) in &rows {
        let open = opens(&node, "before", flags, image);
        assert!(!open.is_empty(), "the stand-in heeds {flags:?} {image}");
        node.docker_ok(&["rm", "-f", "before"]);
    }
    setup_ok(&node, &[]);
    let one = ["--gpus", "device=3"];
    assert_eq!(opens(&node, "holds", &one, "busybox"), [node.minor(3)].into());
    let mut wrong = Vec::new();
    for (flags, image) in &rows {
        wrong.extend(opens_unleased(&node, flags, image));
        wrong.extend(opens_unleased(&node, &[&["--gpus", "1"], &flags[..]].concat(), image));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let five = ["--mount", mounts[4].as_str()];
    assert_eq!(opens(&node, "five", &five, "busybox"), [node.minor(5)].into());
    setup_ok(&node, &["--strict"]);
    restart(&node);
    for (flags, image) in &rows {
        for runtime in ["gpuctl-gate", "nvidia"] {
            let flags = [&["--runtime", runtime], &flags[..]].concat();
            wrong.extend(opens_unleased(&node, &flags, image));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The toolkit's hook is in every container that it makes, and nobody is told that it is taken out.
    assert!(opens(&node, "plain", &["--runtime", "nvidia"], "busybox").is_empty());
    assert_eq!(audit(&node, "plain"), "");
    node.check();
}

#[test]
fn with_nvidias_tool_a_cdi_spec_is_made_and_its_list_of_runtimes_led_through_us() {
    if !runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = nvidia_host(folder.path());
    let tool = folder.path().join("nvidia-ctk");
    let write = |script: &str| {
        gpuctl_sim::files::write(&tool, script).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let nvidia = root(&node).join("etc/nvidia-container-runtime/config.toml");
    fs::create_dir_all(nvidia.parent().unwrap()).unwrap();
    let runc = gpuctl_sim::command::find(&["runc"]).unwrap();
    let list = format!(
        "# of the site\n[nvidia-container-runtime]\nruntimes = [\"{}\"]\nmode = \"legacy\"\n",
        runc.display()
    );
    fs::write(&nvidia, &list).unwrap();
    // A tool that fails, or says something else, is no reason to go on.
    for (script, word) in [
        ("#!/bin/sh\nexit 3\n", "cdi generate failed"),
        ("#!/bin/sh\necho ok\n", "made no CDI spec"),
    ] {
        write(script);
        let got = gpuctl_tests::hosts::setup(&node, &[]);
        assert!(got.code == 1 && got.stderr.contains(word), "{got}");
        assert_eq!(default_runtime(&node), "nvidia");
    }
    let spec = serde_json::json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": node.gpus().iter().map(|gpu| serde_json::json!({
            "name": gpu.uuid,
            "containerEdits": {"deviceNodes": [{"path": format!("/dev/nvidia{}", gpu.minor)}]},
        })).collect::<Vec<_>>(),
    });
    write(&format!(
        "#!/bin/sh\n[ \"$1 $2\" = 'cdi generate' ] || exit 9\ncat <<'END'\n{spec:#}\nEND\n"
    ));
    let got = setup_ok(&node, &["--strict"]);
    assert!(got.stdout.contains("nvidia.yaml with "), "{got}");
    assert_eq!(node.config().gpu.inject, gpuctl_ledger::config::Inject::Cdi);
    let text = fs::read_to_string(&nvidia).unwrap();
    let ours = node.place().libexec().join("strict/runc");
    assert!(
        text.contains("# of the site") && text.contains(&format!("[\"{}\"", ours.display())),
        "{text}"
    );
    restart(&node);
    assert_eq!(opens(&node, "two", &["--gpus", "2"], "cuda").len(), 2);
    assert!(opens(&node, "image", &["--runtime", "nvidia"], "cuda").is_empty());
    node.check();
    // Leaving strict mode, NVIDIA's config is as it was.
    setup_ok(&node, &[]);
    assert_eq!(fs::read_to_string(&nvidia).unwrap(), list);
}
