//! The fuzz targets' checks over their corpora, the recorded specs, and arbitrary JSON.
// Helpers of tests are tests: clippy spares only functions that are marked as such.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::{Path, PathBuf};

use gpuctl_hook::hostconfig::HostConfig;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn each(folder: &str, least: usize, check: impl Fn(&[u8])) {
    let files = files(folder);
    assert!(files.len() >= least, "{folder} is not all there");
    for file in files {
        println!("{}", file.display());
        check(&std::fs::read(file).unwrap());
    }
}

#[test]
fn every_input_of_the_corpora_is_borne() {
    each("fuzz/corpus/config", 12, |bytes| checks::config(bytes, None));
    each("fuzz/corpus/hook_state", 5, checks::hook_state);
    each("fuzz/corpus/docker_files", 7, checks::docker_files);
    each("fuzz/corpus/words", 8, checks::words);
}

#[test]
fn every_recorded_spec_is_borne() {
    each("tests/fixtures/engine-29", 31, |bytes| {
        checks::config(bytes, None);
        checks::docker_files(bytes);
        checks::hook_state(bytes);
    });
}

/// JSON of any shape, of words that mean something in a spec.
fn value() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(
        &[
            "c",
            "b",
            "a",
            "u",
            "",
            "rwm",
            "r",
            "m",
            "/dev/nvidia0",
            "/usr/bin/nvidia-container-toolkit",
            "NVIDIA_VISIBLE_DEVICES=all",
            "NVIDIA_VISIBLE_DEVICES=0,9:9",
            "CUDA_VERSION=8",
            "gpu",
            "cdi",
            "nvidia.com/gpu=0",
            "nvidia",
            "/var/run/nvidia-container-devices/0",
            "1.0.1",
            "1.0.2-dev",
        ][..],
    );
    let numbers = prop::sample::select(&[-1i64, 0, 1, 3, 10, 195, 236, 254, 255, i64::MAX][..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        numbers.prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        words.prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 120, 8, |inner| {
        let keys = prop::sample::select(
            &[
                "process",
                "env",
                "user",
                "uid",
                "linux",
                "devices",
                "resources",
                "hooks",
                "prestart",
                "createRuntime",
                "poststop",
                "mounts",
                "destination",
                "path",
                "args",
                "type",
                "major",
                "minor",
                "allow",
                "access",
                "ociVersion",
                "DeviceRequests",
                "DeviceIDs",
                "Driver",
                "Count",
                "Capabilities",
                "Devices",
                "PathInContainer",
                "Privileged",
                "id",
                "pid",
            ][..],
        );
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..6).prop_map(|pairs| {
                Value::Object(
                    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>(),
                )
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn arbitrary_json_is_borne(one in value(), two in value(), three in value(), env in value()) {
        let spec = json!({"process": {"env": [env, one]}, "hooks": three, "mounts": [two],
            "linux": {"devices": [one, two], "resources": {"devices": [two, three, one]}}});
        checks::config(spec.to_string().as_bytes(), None);
        let host = json!({"DeviceRequests": [two], "Devices": [one], "Privileged": three});
        let parsed = HostConfig::parse(host.to_string().as_bytes()).ok();
        checks::config(spec.to_string().as_bytes(), parsed.as_ref());
        for any in [&one, &host] {
            checks::config(any.to_string().as_bytes(), None);
            checks::docker_files(any.to_string().as_bytes());
            checks::hook_state(any.to_string().as_bytes());
        }
    }

    #[test]
    fn arbitrary_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        checks::config(&bytes, None);
        checks::docker_files(&bytes);
        checks::hook_state(&bytes);
        checks::words(&bytes);
    }
}
