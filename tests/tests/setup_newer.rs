//! `docker gpuctl setup` on Engines newer than this machine's, with both image stores: whose word an
//! environment's is has to be found in either.

use std::collections::BTreeSet;
use std::path::Path;

use gpuctl_sim::{engine, nvidia};
use gpuctl_tests::hosts::{default_runtime, host_of, restart, setup_ok};
use gpuctl_tests::newer::Debian;
use gpuctl_tests::{Node, engine_runs_here, probe, programs, skip};

#[test]
fn setup_on_the_engine_of_debian_trixie() {
    if let Some(debian) = debian("trixie") {
        all(&debian, false);
    }
}

#[test]
fn setup_on_the_engine_of_debian_sid_with_containerds_image_store() {
    if let Some(debian) = debian("sid") {
        all(&debian, true);
    }
}

fn debian(suite: &str) -> Option<Debian> {
    if !Path::new("/sys/fs/cgroup/devices").is_dir() {
        skip("the stand-in for NVIDIA's toolkit writes device rules of cgroup v1");
        return None;
    }
    if engine_runs_here() { Debian::of(suite) } else { None }
}

#[track_caller]
fn opens(node: &Node, name: &str, flags: &[&str]) -> BTreeSet<u32> {
    let words = [&["run", "-d", "--name", name], flags, &["cuda", "sleep", "100000"]].concat();
    let got = node.docker(&words);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    probe::opens(node, name)
}

fn all(debian: &Debian, containerd_store: bool) {
    let json = serde_json::json!({
        "features": {"cdi": true, "containerd-snapshotter": containerd_store},
        "cdi-spec-dirs": ["@place@/cdi"],
        "default-runtime": "nvidia",
        "runtimes": {"nvidia": {"path": "@place@/nv/nvidia-container-runtime"}},
    });
    let options = engine::Options { root: Some(debian.root()), ..engine::Options::default() };
    let node = host_of(&json.to_string(), options);
    nvidia::install(&programs::sim(), &programs::profile("a100x8"), &node.place().at("nv"))
        .unwrap();
    let driver = if containerd_store { "overlayfs" } else { "overlay2" };
    assert_eq!(node.docker_ok(&["info", "--format", "{{.Driver}}"]), driver);
    node.docker_ok(&["create", "--name", "base", "busybox"]);
    let change = ["--change", "ENV PATH=/bin", "--change", "ENV NVIDIA_VISIBLE_DEVICES=all"];
    node.docker_ok(&[&["commit"], &change[..], &["base", "cuda"]].concat());
    let every: BTreeSet<u32> = (0..8).map(|index| node.minor(index)).collect();
    assert_eq!(opens(&node, "before", &[]), every);

    setup_ok(&node, &["--observe"]);
    assert_eq!(default_runtime(&node), "gpuctl-gate");
    assert_eq!(opens(&node, "observed", &[]), every);
    node.docker_ok(&["rm", "-f", "before", "observed"]);

    setup_ok(&node, &[]);
    assert!(opens(&node, "image", &[]).is_empty());
    let all = ["-e", "NVIDIA_VISIBLE_DEVICES=all"];
    assert_eq!(opens(&node, "user", &all), every, "the user's own word was taken for the image's");
    assert_eq!(node.leased_minors(&node.id("user")), every);
    node.docker_ok(&["rm", "-f", "user"]);
    let one = format!("nvidia.com/gpu={}", node.gpus()[2].uuid);
    assert_eq!(opens(&node, "cdi", &["--device", &one]), [node.minor(2)].into());
    node.check();

    setup_ok(&node, &["--strict"]);
    restart(&node);
    assert!(opens(&node, "strict", &["--runtime", "nvidia"]).is_empty());
    assert_eq!(
        opens(&node, "past", &["--runtime", "runc", "--device", &one]),
        [node.minor(2)].into()
    );
    let got = node.docker(&["run", "--rm", "--runtime", "runc", "--device", &one, "cuda", "true"]);
    assert!(got.code == 125 && got.stderr.contains("past"), "{got}");
    let again = setup_ok(&node, &["--strict"]);
    assert!(again.stdout.is_empty(), "{again}");
    node.check();

    node.docker_ok(&["rm", "-f", "image", "cdi", "strict", "past"]);
    setup_ok(&node, &["--remove"]);
    assert_eq!(default_runtime(&node), "nvidia");
}
