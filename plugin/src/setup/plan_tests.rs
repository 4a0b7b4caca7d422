//! The planner: whole hosts as data, and what is to be done with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gpuctl_ledger::config::Config;

use super::super::flags::Flags;
use super::super::observed::{Daemon, Level, Observed, Places, Program, Service};
use super::super::record::Record;
use super::super::remove;
use super::super::settings;
use super::super::testing::{inventory, seen as container};
use super::*;
use crate::docker::Info;

const LIBEXEC: &str = "/usr/libexec/gpuctl";

fn program(path: &str) -> Program {
    Program { path: path.into(), trusted: true, ours: path.starts_with(LIBEXEC) }
}

/// A host with systemd, a driver and a CDI spec, without NVIDIA's toolkit, on which nothing is set up.
pub(in super::super) fn host() -> Observed {
    let unit = |name: &str| Service {
        texts: vec![(
            format!("/lib/systemd/system/{name}.service").into(),
            "[Service]\nEnvironment=PATH=/opt/bin:/usr/bin\n".into(),
        )],
        environment: vec![],
    };
    let daemon =
        |pid| Some(Daemon { pid, root: true, path: units::USUAL_PATH.into(), config: None });
    Observed {
        places: Places {
            root: "/".into(),
            config: DEFAULT_PATH.into(),
            daemon_json: "/etc/docker/daemon.json".into(),
            libexec: LIBEXEC.into(),
        },
        engine: Some(Info {
            runtimes: [("runc".into(), "runc".into())].into(),
            default_runtime: "runc".into(),
            root: "/srv/docker".into(),
            cgroup_driver: "systemd".into(),
            ..Info::default()
        }),
        host: "unix:///run/docker.sock".into(),
        dockerd: daemon(7),
        flags: Flags {
            containerd: Some("/run/containerd/containerd.sock".into()),
            ..Flags::default()
        },
        containerd: daemon(8),
        systemd: true,
        docker_unit: Some(unit("docker")),
        containerd_unit: Some(unit("containerd")),
        files: BTreeMap::new(),
        own: Default::default(),
        symlinks: BTreeMap::new(),
        programs: [
            ("runc".to_owned(), program("/usr/bin/runc")),
            ("/usr/bin/runc".to_owned(), program("/usr/bin/runc")),
        ]
        .into(),
        hook: Some(program("/usr/libexec/gpuctl/gpuctl-hook")),
        toolkit: None,
        stub_elsewhere: false,
        ctk: None,
        nvidia_config: "/etc/nvidia-container-runtime/config.toml".into(),
        cdi: true,
        packaged: false,
        service: false,
        unlinked: vec!["nvidia0".into()],
        driver: Ok(inventory(4)),
        inventory: None,
        containers: vec![],
        leases: BTreeMap::new(),
        record: None,
    }
}

fn with_daemon_json(text: &str) -> Observed {
    let mut seen = host();
    seen.files.insert("/etc/docker/daemon.json".into(), text.into());
    seen
}

/// The host as it is once a plan was carried out and the services were restarted.
fn done(seen: &Observed, plan: &Plan) -> Observed {
    let mut seen = seen.clone();
    for step in &plan.steps {
        match step {
            Step::Symlink { path, target } if path.starts_with(LIBEXEC) => {
                assert!(target.ends_with("gpuctl-hook"));
                seen.own.insert(path.clone());
            }
            Step::Symlink { path, target } => {
                drop(seen.symlinks.insert(path.clone(), target.clone()))
            }
            Step::Unlink(path) => drop(seen.symlinks.remove(path)),
            Step::File { path, before, after, .. } => {
                assert_eq!(seen.files.get(path), before.as_ref());
                match after {
                    Some(text) => drop(seen.files.insert(path.clone(), text.clone())),
                    None => drop(seen.files.remove(path)),
                }
            }
            Step::CharLinks(_) => seen.unlinked.clear(),
            Step::Cdi { .. } => seen.cdi = true,
            Step::Inventory(_) => seen.inventory = seen.driver.clone().ok(),
            Step::Seeds(seeds) => {
                for seed in seeds {
                    let units = seed.gpus.iter().map(|(_, unit)| unit.clone());
                    seen.leases
                        .extend(units.map(|unit| (unit, (seed.id.clone(), seed.name.clone()))));
                }
            }
            Step::Reload { default_runtime, .. } => {
                let json =
                    DaemonJson::parse(seen.text(&seen.places.daemon_json).unwrap_or_default())
                        .unwrap();
                let engine = seen.engine.as_mut().unwrap();
                engine.default_runtime.clone_from(default_runtime);
                let all = json.runtimes().into_iter();
                engine.runtimes = all.map(|r| (r.name, r.program.unwrap_or_default())).collect();
                engine.runtimes.insert("runc".into(), "runc".into());
            }
            Step::Keep(_) | Step::DaemonReload | Step::Service => {}
        }
    }
    seen.record = seen
        .text(Path::new("/var/lib/gpuctl/setup.json"))
        .map(|t| serde_json::from_str(t).unwrap());
    for name in ["gpuctl-runtime", GATE, "strict/runc"] {
        let path = format!("{LIBEXEC}/{name}");
        seen.programs.insert(path.clone(), program(&path));
    }
    let path = |name: &str| units::path_of(seen.text(&seen.places.drop_in(name)));
    let (docker, containerd) = (path("docker"), path("containerd"));
    let usual = || units::USUAL_PATH.to_owned();
    seen.dockerd.as_mut().unwrap().path = docker.unwrap_or_else(usual);
    seen.containerd.as_mut().unwrap().path = containerd.unwrap_or_else(usual);
    seen
}

fn config(seen: &Observed) -> Config {
    Config::parse(seen.text(&seen.places.config).unwrap_or_default()).unwrap()
}

fn planned(seen: &Observed, level: Level) -> Plan {
    plan(seen, &config(seen), level).unwrap()
}

fn after(seen: &Observed, level: Level) -> Observed {
    done(seen, &planned(seen, level))
}

fn json(seen: &Observed) -> DaemonJson {
    DaemonJson::parse(seen.text(&seen.places.daemon_json).unwrap_or_default()).unwrap()
}

fn program_of(seen: &Observed, name: &str) -> Option<String> {
    json(seen).runtime(name).and_then(|r| r.program)
}

fn holes(plan: &Plan) -> Vec<&str> {
    plan.notes
        .iter()
        .filter_map(|n| if let Note::Hole(t) = n { Some(t.as_str()) } else { None })
        .collect()
}

fn restarts(plan: &Plan) -> Vec<&str> {
    plan.notes
        .iter()
        .filter_map(|n| if let Note::Restart(t) = n { Some(t.as_str()) } else { None })
        .collect()
}

#[test]
fn every_level_twice_changes_nothing_the_second_time_also_from_any_other_level() {
    let mut start = with_daemon_json(
        "{\"runtimes\": {\"abs\": {\"path\": \"/usr/bin/runc\"}}, \"log-level\": \"info\"}",
    );
    start.containers = vec![container("web", &[1])];
    let levels = [Level::Observe, Level::Cooperative, Level::Strict];
    for first in levels {
        for second in levels {
            let seen = after(&after(&start, first), second);
            let again = planned(&seen, second);
            assert_eq!(again.steps, [], "{first:?} {second:?}");
            assert!(restarts(&again).is_empty(), "{first:?} {second:?} {again:?}");
            assert_eq!(config(&seen).policy.observe, second == Level::Observe);
            let gone = done(&seen, &remove::plan(&seen, &config(&seen)).unwrap());
            assert_eq!(json(&gone).default_runtime().as_deref(), Some("runc"));
            assert_eq!(
                program_of(&gone, "abs").as_deref(),
                Some("/usr/bin/runc"),
                "{first:?} {second:?}"
            );
            assert_eq!(json(&gone).runtimes().len(), 1);
            let ours =
                |path: &PathBuf| path.starts_with("/etc/systemd") || path.starts_with("/etc/udev");
            assert!(!gone.files.keys().any(ours), "{:?}", gone.files.keys());
            assert!(gone.symlinks.is_empty());
            assert_eq!(remove::plan(&gone, &config(&gone)).unwrap().steps, []);
        }
    }
}

#[test]
fn cooperative_names_two_runtimes_and_puts_the_stub_last() {
    let mut seen = host();
    seen.containers = vec![container("web", &[1])];
    let plan = planned(&seen, Level::Cooperative);
    // What GPU containers need is there before any container is led to us.
    let at = |of: &dyn Fn(&Step) -> bool| plan.steps.iter().position(of).unwrap();
    let file = |name: &'static str| move |step: &Step| matches!(step, Step::File { path, .. } if path.ends_with(name));
    let reload = at(&|s| matches!(s, Step::Reload { pid: 7, .. }));
    assert!(at(&file("config.toml")) < at(&|s| matches!(s, Step::Inventory(4))));
    assert!(
        at(&file("setup.json")) < at(&file("daemon.json")) && at(&file("daemon.json")) < reload
    );
    assert!(at(&|s| matches!(s, Step::CharLinks(_))) < at(&|s| *s == Step::DaemonReload));
    let seen = done(&seen, &plan);
    assert_eq!(json(&seen).default_runtime().as_deref(), Some(GATE));
    assert_eq!(program_of(&seen, "gpuctl").as_deref(), Some("/usr/libexec/gpuctl/gpuctl-runtime"));
    let drop_in = seen.text(&seen.places.drop_in("docker")).unwrap();
    assert!(drop_in.contains("PATH=/opt/bin:/usr/bin:/usr/libexec/gpuctl/stub\""), "{drop_in}");
    assert_eq!(seen.text(&seen.places.drop_in("containerd")), None);
    assert_eq!(restarts(&plan).len(), 1, "{plan:?}");
    assert!(restarts(&plan)[0].contains("systemctl restart docker "), "{plan:?}");
    let config = config(&seen);
    assert_eq!(config.docker.root, Path::new("/srv/docker"));
    assert_eq!(config.runtime.real, Path::new("/usr/bin/runc"));
    assert!(holes(&plan)[0].contains("--runtime runc"), "{plan:?}");
}

#[test]
fn strict_stands_first_on_both_paths_and_leads_absolute_paths_through_us() {
    let mut seen = with_daemon_json(
        r#"{"runtimes": {"abs": {"path": "/usr/bin/runc"}, "crun": {"path": "/usr/bin/crun"}, "kata": {"runtimeType": "io.containerd.kata.v2"}}}"#,
    );
    seen.programs.insert("/usr/bin/crun".into(), program("/usr/bin/crun"));
    let plan = planned(&seen, Level::Strict);
    let seen = done(&seen, &plan);
    for name in ["docker", "containerd"] {
        let text = seen.text(&seen.places.drop_in(name)).unwrap();
        assert!(text.contains("PATH=/usr/libexec/gpuctl/strict:/opt/bin:/usr/bin"), "{text}");
    }
    assert_eq!(program_of(&seen, "abs").as_deref(), Some("/usr/libexec/gpuctl/strict/runc"));
    assert_eq!(program_of(&seen, "crun").as_deref(), Some("/usr/bin/crun"));
    let holes = holes(&plan);
    assert_eq!(holes.len(), 2, "{holes:?}");
    assert!(
        holes[0].contains("runtime crun (/usr/bin/crun)") && holes[1].contains("kata"),
        "{holes:?}"
    );
    assert!(restarts(&plan)[0].contains("systemctl restart containerd docker"), "{plan:?}");
}

#[test]
fn without_systemd_it_says_which_path_to_start_with() {
    let mut seen = host();
    (seen.systemd, seen.docker_unit, seen.containerd_unit) = (false, None, None);
    let plan = planned(&seen, Level::Strict);
    assert!(
        !plan
            .steps
            .iter()
            .any(|s| matches!(s, Step::File { path, .. } if path.starts_with("/etc/systemd")))
    );
    let all = restarts(&plan).join("\n");
    assert!(all.contains("start it with PATH=/usr/libexec/gpuctl/strict:"), "{all}");
    assert!(all.contains(":/usr/libexec/gpuctl/stub"), "{all}");
    assert_eq!(restarts(&plan).len(), 2);
}

#[test]
fn flags_of_dockerd_are_refused_also_those_of_its_next_start() {
    let mut seen = host();
    seen.flags.runtimes = vec!["--default-runtime nvidia".into()];
    let why = plan(&seen, &config(&seen), Level::Cooperative).unwrap_err();
    assert!(why.message.contains("command line has --default-runtime nvidia"), "{why:?}");
    let mut seen = host();
    let file = ("/etc/default/docker".into(), "DOCKER_OPTS=\"--add-runtime=x=/y\"\n".into());
    seen.docker_unit.as_mut().unwrap().environment.push(file);
    let why = plan(&seen, &config(&seen), Level::Cooperative).unwrap_err();
    assert!(why.message.starts_with("/etc/default/docker has --add-runtime"), "{why:?}");
    assert!(remove::plan(&seen, &config(&seen)).is_err());
}

#[test]
fn what_is_broken_or_not_roots_alone_is_refused() {
    let refused =
        |seen: Observed| plan(&seen, &config(&seen), Level::Cooperative).unwrap_err().message;
    assert!(refused(with_daemon_json("{\n \"a\": }")).contains("line 2"));
    let mut seen = host();
    seen.hook = None;
    assert!(refused(seen).contains("gpuctl-hook is not there"));
    let mut seen = host();
    seen.hook.as_mut().unwrap().trusted = false;
    assert!(refused(seen).contains("written by others"));
    let mut seen = host();
    seen.dockerd = None;
    assert!(refused(seen).contains("no dockerd"));
    let mut seen = host();
    seen.programs.get_mut("runc").unwrap().trusted = false;
    assert!(refused(seen).contains("cannot be the real runtime"));
    let mut seen = host();
    seen.dockerd.as_mut().unwrap().config = Some("/other.toml".into());
    assert!(refused(seen).contains("/other.toml"));
    let mut seen = host();
    seen.dockerd.as_mut().unwrap().root = false;
    assert!(refused(seen).contains("does not run as root"));
    let kata = r#"{"default-runtime": "kata", "runtimes": {"kata": {"runtimeType": "io.containerd.kata.v2"}}}"#;
    assert!(refused(with_daemon_json(kata)).contains("the shim io.containerd.kata.v2"));
}

/// A host on which NVIDIA's toolkit is installed and its runtime is the default.
fn nvidia_default() -> Observed {
    let mut seen = with_daemon_json(
        r#"{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}}"#,
    );
    seen.programs
        .insert("nvidia-container-runtime".into(), program("/usr/bin/nvidia-container-runtime"));
    seen.programs.insert(
        "/usr/bin/nvidia-container-runtime".into(),
        program("/usr/bin/nvidia-container-runtime"),
    );
    seen.toolkit = Some("/usr/bin/nvidia-container-runtime-hook".into());
    seen.cdi = false;
    seen
}

#[test]
fn where_nvidias_runtime_was_the_default_it_stands_behind_us_and_comes_back() {
    for level in [Level::Observe, Level::Cooperative, Level::Strict] {
        let seen = nvidia_default();
        let plan = planned(&seen, level);
        let seen = done(&seen, &plan);
        let now = config(&seen);
        assert_eq!(now.runtime.real, Path::new("/usr/bin/nvidia-container-runtime"), "{level:?}");
        assert_eq!(now.runtime.runc.as_deref(), Some(Path::new("/usr/bin/runc")));
        assert_eq!(now.gpu.inject, Inject::Env);
        assert!(
            plan.notes.iter().any(|n| matches!(n, Note::Say(t) if t.contains("image_env"))),
            "{plan:?}"
        );
        assert_eq!(planned(&seen, level).steps, [], "{level:?}");
        let gone = done(&seen, &remove::plan(&seen, &now).unwrap());
        assert_eq!(json(&gone).default_runtime().as_deref(), Some("nvidia"), "{level:?}");
    }
}

#[test]
fn with_nvidias_toolkit_a_cdi_spec_is_made_and_no_stub_stands_on_path() {
    let mut seen = nvidia_default();
    seen.ctk = Some("/usr/bin/nvidia-ctk".into());
    let plan = planned(&seen, Level::Cooperative);
    assert!(plan.steps.iter().any(
        |s| matches!(s, Step::Cdi { output, .. } if output == Path::new("/etc/cdi/nvidia.yaml"))
    ));
    let seen = done(&seen, &plan);
    assert_eq!(config(&seen).gpu.inject, Inject::Cdi);
    assert_eq!(seen.text(&seen.places.drop_in("docker")), None);
    assert!(!seen.own.iter().any(|path| path.starts_with(seen.places.stub())));
}

#[test]
fn nvidias_own_list_is_led_through_us_in_strict_mode_only() {
    let mut seen = nvidia_default();
    let text = "[nvidia-container-runtime]\nruntimes = [\"/usr/bin/runc\", \"crun\"] # ours\n";
    seen.files.insert(seen.nvidia_config.clone(), text.into());
    let strict = after(&seen, Level::Strict);
    let list = |seen: &Observed| {
        settings::nvidia_runtimes(seen.text(&seen.nvidia_config).unwrap()).unwrap()
    };
    assert_eq!(list(&strict), ["/usr/libexec/gpuctl/strict/runc", "/usr/bin/runc", "crun"]);
    assert_eq!(after(&strict, Level::Cooperative).text(&seen.nvidia_config), Some(text));
    let gone = done(&strict, &remove::plan(&strict, &config(&strict)).unwrap());
    assert_eq!(gone.text(&seen.nvidia_config), Some(text));
    // By its bare name it comes by PATH.
    seen.files.insert(
        seen.nvidia_config.clone(),
        "[nvidia-container-runtime]\nruntimes = [\"docker-runc\", \"runc\"]\n".into(),
    );
    assert_eq!(list(&after(&seen, Level::Strict)), ["docker-runc", "runc"]);
}

#[test]
fn the_real_runc_is_recorded_once_and_anew_where_it_moved() {
    let mut seen = after(&host(), Level::Cooperative);
    seen.programs.insert("runc".into(), program("/usr/local/bin/runc"));
    assert_eq!(planned(&seen, Level::Cooperative).steps, []);
    seen.programs.remove("/usr/bin/runc");
    let moved = after(&seen, Level::Cooperative);
    assert_eq!(config(&moved).runtime.real, Path::new("/usr/local/bin/runc"));
}

#[test]
fn removal_keeps_runtimes_that_containers_name_and_says_which() {
    let mut seen = after(&host(), Level::Cooperative);
    let mut stopped = container("old", &[]);
    (stopped.running, stopped.runtime) = (false, GATE.into());
    seen.containers = vec![stopped];
    let plan = remove::plan(&seen, &config(&seen)).unwrap();
    assert!(holes(&plan)[0].contains("named by old"), "{plan:?}");
    let gone = done(&seen, &plan);
    assert_eq!(program_of(&gone, GATE).as_deref(), Some("/usr/bin/runc"));
    assert_eq!(program_of(&gone, "gpuctl"), None);
    assert_eq!(json(&gone).default_runtime().as_deref(), Some("runc"));
    // An administrator's own choice meanwhile stays.
    let mut other = after(&host(), Level::Cooperative);
    let text = other
        .text(&other.places.daemon_json)
        .unwrap()
        .replace("\"default-runtime\": \"gpuctl-gate\"", "\"default-runtime\": \"crun\"");
    other.files.insert(other.places.daemon_json.clone(), text);
    let gone = done(&other, &remove::plan(&other, &config(&other)).unwrap());
    assert_eq!(json(&gone).default_runtime().as_deref(), Some("crun"));
}

#[test]
fn a_reload_that_was_missed_is_made_up_for() {
    let mut seen = after(&host(), Level::Cooperative);
    seen.engine.as_mut().unwrap().default_runtime = "runc".into();
    assert!(matches!(planned(&seen, Level::Cooperative).steps[..], [Step::Reload { pid: 7, .. }]));
    let record: Option<Record> = seen.record;
    assert_eq!(record.unwrap().level, "cooperative");
}

#[test]
fn a_lost_record_changes_nothing_of_what_stands_behind_us() {
    for start in [nvidia_default(), host()] {
        let seen = after(&start, Level::Cooperative);
        let mut lost = seen.clone();
        lost.record = None;
        lost.files.remove(Path::new("/var/lib/gpuctl/setup.json"));
        let again = after(&lost, Level::Cooperative);
        assert_eq!(config(&again).runtime, config(&seen).runtime);
        assert_eq!(again.record, seen.record);
        assert_eq!(json(&again).render(), json(&seen).render());
    }
}

/// What a package brings setup leaves to it, and takes away what an earlier setup made in its place.
#[test]
fn unit_and_rule_are_left_to_the_package_that_brings_them() {
    let mut seen = host();
    let made = [seen.places.links_unit(), seen.places.links_rule()];
    let touched = |seen: &Observed| -> Vec<(PathBuf, bool)> {
        let steps = plan(seen, &Config::default(), Level::Cooperative).unwrap().steps;
        let ours = |step: &Step| match step {
            Step::File { path, after, .. } if made.contains(path) => {
                Some((path.clone(), after.is_some()))
            }
            _ => None,
        };
        steps.iter().filter_map(ours).collect()
    };
    let both = |there: bool| made.clone().map(|path| (path, there)).to_vec();
    let mut by_hand = touched(&seen);
    by_hand.sort();
    let mut all = both(true);
    all.sort();
    assert_eq!(by_hand, all);
    seen.packaged = true;
    assert_eq!(touched(&seen), []);
    for path in &made {
        seen.files.insert(path.clone(), format!("{}\nold\n", units::MARK));
    }
    assert_eq!(touched(&seen), both(false));
    seen.symlinks.insert(seen.places.links_wanted(), "/usr/lib/systemd/system/x".into());
    let removed = super::super::remove::plan(&seen, &Config::default()).unwrap().steps;
    assert!(!removed.iter().any(|step| matches!(step, Step::Unlink(_))), "{removed:?}");
}

/// The service reads its settings once.
#[test]
fn the_service_begins_anew_where_the_config_changed() {
    let mut seen = host();
    let restarts = |seen: &Observed| {
        let steps = plan(seen, &Config::default(), Level::Cooperative).unwrap().steps;
        steps.contains(&Step::Service)
    };
    assert!(!restarts(&seen), "there is none");
    seen.service = true;
    assert!(restarts(&seen));
    let steps = plan(&seen, &Config::default(), Level::Cooperative).unwrap().steps;
    let text = steps.iter().find_map(|step| match step {
        Step::File { path, after, .. } if *path == seen.places.config => after.clone(),
        _ => None,
    });
    seen.files.insert(seen.places.config.clone(), text.unwrap());
    assert!(!restarts(&seen), "the config is right already");
}

#[test]
fn a_drop_in_that_counts_after_ours_is_named() {
    let mut seen = host();
    let late = "/etc/systemd/system/docker.service.d/zzz.conf";
    let text = "[Service]\nEnvironment=PATH=/usr/bin\n";
    let texts = &mut seen.docker_unit.as_mut().unwrap().texts;
    texts.push((late.into(), text.into()));
    texts.push(("/etc/systemd/system/docker.service.d/a.conf".into(), text.into()));
    let plan = planned(&seen, Level::Strict);
    let named: Vec<&str> = holes(&plan).into_iter().filter(|h| h.contains(".conf")).collect();
    assert_eq!(named.len(), 1, "{plan:?}");
    assert!(named[0].starts_with(late), "{plan:?}");
}

#[test]
fn a_variable_that_the_toolkit_takes_gpus_from_is_named_until_our_config_knows_it() {
    let mut seen = host();
    let file = seen.nvidia_config.clone();
    seen.files.insert(file.clone(), "swarm-resource = \"DOCKER_RESOURCE_GPU\"\n".into());
    let hole =
        |seen: &Observed| super::holes::swarm_resource(seen, &config(seen)).map(|hole| hole.text);
    // With a CDI spec it is not the toolkit that puts GPUs in.
    assert_eq!(hole(&seen), None);
    seen.cdi = false;
    assert!(hole(&seen).unwrap().contains("DOCKER_RESOURCE_GPU"));
    let mut set = after(&seen, Level::Strict);
    assert_eq!(hole(&set), None);
    // What is named there later is added, and nothing taken out.
    set.files.insert(file, "swarm-resource = \"OTHER\"\n".into());
    assert!(hole(&set).unwrap().contains("OTHER"));
    let again = after(&set, Level::Strict);
    assert_eq!(config(&again).gpu.swarm_resource, ["DOCKER_RESOURCE_GPU", "OTHER"]);
}

#[test]
fn a_toolkit_that_passes_over_the_environment_is_named_where_leased_gpus_are_named_by_it() {
    let mut seen = nvidia_default();
    let said = |seen: &Observed| {
        let is = |note: &Note| matches!(note, Note::Say(text) if text.contains("start without"));
        planned(seen, Level::Strict).notes.iter().any(is)
    };
    assert!(!said(&seen));
    let file = seen.nvidia_config.clone();
    let line = |value: bool| format!("{} = {value}\n", settings::NVIDIA_HEEDS);
    seen.files.insert(file.clone(), line(false));
    assert!(said(&seen), "{:?}", planned(&seen, Level::Strict));
    // Also once it is set up, until one of both is changed.
    let mut set = after(&seen, Level::Cooperative);
    let problem = |seen: &Observed| {
        let checks = crate::setup::doctor::judge(seen, &config(seen));
        checks.into_iter().find(|check| check.name == "injection")
    };
    assert!(said(&set));
    let found = problem(&set).unwrap();
    assert_eq!(found.verdict, crate::engine::api::Verdict::Problem);
    assert!(found.fix.is_some_and(|fix| fix.contains(line(true).trim_end())));
    set.files.insert(file, line(true));
    assert!(!said(&set) && problem(&set).is_none());
    seen.cdi = true;
    assert!(!said(&seen));
}
