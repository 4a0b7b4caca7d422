use gpuctl_ledger::model::DockerName;

use super::*;
use crate::client::flags::FlagTable;

const HELP: &str = "
  -a, --attach list         x
      --device list         x
  -e, --env list            x
      --gpus gpu-request    x
      --help                x
  -h, --hostname string     x
  -i, --interactive         x
  -l, --label list          x
      --name string         x
      --network network     x
      --network-alias list  x
  -p, --publish list        x
      --rm                  x
      --runtime string      x
  -t, --tty                 x
      --uts string          x
";

fn wanted(text: &str) -> Result<Wanted, Wrong> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    Wanted::of(FlagTable::from_help(HELP).for_run().split(&words)?, "gpuctl")
}

fn ask() -> CreateAsk {
    CreateAsk {
        docker_name: DockerName::new("train-0").unwrap(),
        runtime: "gpuctl".into(),
        name: ContainerName::new("train").unwrap(),
        labels: vec![("k".into(), "v".into())],
        publish: vec![],
    }
}

/// The words after those that are always the same.
fn created(text: &str) -> String {
    let words = wanted(text).unwrap().create_words(&ask()).join(" ");
    let fixed = "create --name train-0 --runtime gpuctl --label k=v ";
    words.strip_prefix(fixed).unwrap_or_else(|| panic!("{words}")).to_owned()
}

#[test]
fn ours_are_taken_out_and_the_rest_goes_to_create_as_it_was_written() {
    let w = wanted("-itd --rm --gpus 3 --name train -eA=1 --env B img sh --gpus 9").unwrap();
    assert_eq!(w.gpus, Some(GpuRequest::Count(3)));
    assert_eq!(w.name.as_ref().map(ContainerName::as_str), Some("train"));
    assert!(w.detach && w.interactive && w.auto_remove);
    assert_eq!(w.request(true).start, StartMode::Detached);
    assert_eq!(w.request(false).start, StartMode::No);
    assert_eq!(
        created("-itd --rm --gpus 3 --name train -eA=1 --env B img sh --gpus 9"),
        "--hostname train -i -t --rm -eA=1 --env B img sh --gpus 9"
    );
    assert_eq!(created("-- -img -x"), "--hostname train -- -img -x");
}

#[test]
fn a_hostname_is_added_only_where_the_container_has_one_of_its_own() {
    assert_eq!(created("img"), "--hostname train img");
    assert_eq!(created("-h x img"), "-h x img");
    assert_eq!(created("--hostname=x img"), "--hostname=x img");
    assert_eq!(created("--network host img"), "--network host img");
    assert_eq!(created("--net=container:a img"), "--net=container:a img");
    assert_eq!(created("--uts host img"), "--uts host img");
    assert_eq!(created("--network none img"), "--hostname train --network none img");
}

#[test]
fn on_networks_with_names_the_name_is_an_alias() {
    let h = "--hostname train";
    assert_eq!(
        created("--network lan img"),
        format!("{h} --network-alias train --network lan img")
    );
    assert_eq!(
        created("--network name=lan,ip=10.0.0.5 img"),
        format!("{h} --network-alias train --network name=lan,ip=10.0.0.5 img")
    );
    assert_eq!(
        created("--network name=lan,alias=x img"),
        format!("{h} --network name=lan,alias=x,alias=train img")
    );
    assert_eq!(
        created("--network lan --network-alias x --network wan img"),
        format!(
            "{h} --network-alias train --network lan --network-alias x --network name=wan,alias=train img"
        )
    );
    assert_eq!(created("--network bridge img"), format!("{h} --network bridge img"));
}

#[test]
fn wrong_use_is_refused() {
    for (text, why) in [
        ("", "image is missing"),
        ("--gpus 1", "image is missing"),
        ("--gpus x img", "--gpus value"),
        ("--gpus 1 --gpus 2 img", "given twice"),
        ("--runtime runc img", "--runtime runc is given"),
        ("--name a/b img", "container name"),
        ("-d -a stdout img", "conflicting options: -a and -d"),
        ("--rm=maybe img", "neither true nor false"),
        ("--from train img", "besides"),
        ("--from train -e A=1", "--env is given besides"),
        ("--from train@x", "is no version"),
    ] {
        let error = wanted(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn from_names_a_container_and_maybe_a_version() {
    let w = wanted("--from train@2 -d --gpus all").unwrap();
    let from = w.request(true).from.unwrap();
    assert_eq!((from.0.as_str(), from.1), ("train", Some(Version(2))));
    assert_eq!(wanted("--from train").unwrap().from.unwrap().1, None);
}

#[test]
fn switches_may_be_switched_off() {
    let w = wanted("--rm=false -d=false -i=0 img").unwrap();
    assert!(!w.auto_remove && !w.detach && !w.interactive);
    assert!(wanted("--help").unwrap().help);
}

#[test]
fn attaching_carries_over_what_docker_start_knows() {
    let words = |t| wanted(t).unwrap().attach_words("train-0").join(" ");
    assert_eq!(words("img"), "start --attach train-0");
    assert_eq!(
        words("-it --detach-keys ctrl-x --sig-proxy=false img"),
        "start --attach --interactive --detach-keys=ctrl-x train-0"
    );
    assert_eq!(wanted("-i img").unwrap().has_tty(), Some(false));
    assert_eq!(wanted("-it img").unwrap().has_tty(), Some(true));
    assert_eq!(wanted("--from ab").unwrap().has_tty(), None);
}

#[test]
fn a_device_that_is_a_gpu_is_refused_with_what_to_type_instead() {
    let hint = |text: &str| wanted(text).unwrap_err().hint.unwrap();
    assert_eq!(hint("--device nvidia.com/gpu=3 img"), "--gpus device=3");
    assert_eq!(hint("--gpus 2 --device=nvidia.com/gpu=GPU-a img"), "--gpus device=GPU-a");
    assert_eq!(hint("--device nvidia.com/gpu=all img"), "--gpus all");
    assert!(hint("--device /dev/nvidia3 img").contains("--gpus device="));
    assert!(hint("--device /dev/nvidia3:/dev/other:rw img").contains("--gpus device="));
    // What is no GPU goes through: the driver's shared nodes, and other makers' devices.
    for other in ["/dev/fuse", "/dev/nvidiactl", "/dev/nvidia-uvm", "vendor.com/net=0", "/dev/x=1"]
    {
        assert_eq!(
            created(&format!("--device {other} img")),
            format!("--hostname train --device {other} img")
        );
    }
}

#[test]
fn our_own_labels_are_refused_and_others_pass() {
    for label in ["gpuctl.operation=x", "gpuctl.operation", "gpuctl.other=1"] {
        for flag in ["--label ", "--label=", "-l "] {
            let wrong = wanted(&format!("{flag}{label} img")).unwrap_err();
            assert!(wrong.message.contains(label) && wrong.hint.is_some(), "{flag}{label}");
        }
    }
    for other in ["gpuctl=1", "my.gpuctl.operation=x"] {
        let passed = format!("--hostname train --label {other} img");
        assert_eq!(created(&format!("--label {other} img")), passed);
    }
}

#[test]
fn ports_to_be_chosen_do_not_reach_docker_before_they_are() {
    let w = wanted("-p auto:22 --publish=127.0.0.1:auto:53/udp -p 8080:80 img").unwrap();
    let inside: Vec<&str> = w.ports.iter().map(|p| p.inside.as_str()).collect();
    assert_eq!(inside, ["22/tcp", "53/udp"]);
    assert_eq!(w.request(true).ports, w.ports);
    let ask = CreateAsk { publish: vec!["20001:22/tcp".into()], ..ask() };
    let words = w.create_words(&ask).join(" ");
    assert!(
        words.contains("--publish 20001:22/tcp ") && words.contains("-p 8080:80 img"),
        "{words}"
    );
    assert!(!words.contains("auto"), "{words}");
    for wrong in [
        "-p auto:0 img",
        "-p auto:20-30 img",
        "-p auto:22 --network host img",
        "--net none -p auto:22 img",
        "-p auto:22 --from train",
    ] {
        let why = wanted(wrong).unwrap_err();
        assert!(why.hint.is_some(), "{wrong}: {why}");
    }
}
