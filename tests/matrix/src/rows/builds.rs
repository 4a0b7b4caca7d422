//! Containers of builds: BuildKit calls runc by itself, and Docker has no files of them.

use std::collections::BTreeSet;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};

use super::{Row, Tried};
use crate::cell::{Cell, Verdict, judge};
use crate::column::EngineOf;
use crate::probe;
use crate::trial::{FREE, HELD, Trial, refusal};

pub(super) const ROWS: &[Row] = &[
    Row { id: "build-run", what: "BuildKit, a plain `RUN`", run: plain },
    Row {
        id: "build-device",
        what: "BuildKit, `RUN --device=nvidia.com/gpu=N`, where the CDI spec allows it",
        run: device,
    },
    Row {
        id: "build-insecure",
        what: "BuildKit, `RUN --security=insecure`, where the Engine allows it",
        run: insecure,
    },
];

/// How long a build goes on after its probe, so that the ledger can be looked at meanwhile.
const LINGER: &str = "sleep 1";

/// Why an Engine of this column has no BuildKit.
fn no_buildkit(trial: &Trial) -> Option<&'static str> {
    // The CLI of 20.10 speaks BuildKit itself; later ones need buildx.
    let own = trial.column.engine == EngineOf::V20;
    let has = own || trial.node.docker(&["buildx", "version"]).code == 0;
    (!has).then_some("docker-buildx is not installed")
}

/// Builds, and gives besides the output what anybody but the holder held meanwhile.
fn build(
    trial: &Trial,
    run: &str,
    flags: &[&str],
) -> Result<(Output, BTreeSet<crate::cell::Device>), String> {
    let context = trial.folder().join("build");
    std::fs::create_dir_all(&context).map_err(|e| e.to_string())?;
    let script = format!("{}; {LINGER}", probe::script(&trial.devices()));
    gpuctl_sim::files::write(&context.join("try.sh"), &script)?;
    let text = format!("FROM busybox\nCOPY try.sh /try.sh\nRUN {run} sh /try.sh\n");
    gpuctl_sim::files::write(&context.join("Dockerfile"), &text)?;
    let mut docker = trial.node.site().engine().docker();
    docker.env("DOCKER_BUILDKIT", "1").args(["build", "--progress", "plain", "--no-cache"]);
    docker.args(["--network", "none"]).args(flags).arg(&context);
    let own = trial.holder.as_str();
    std::thread::scope(|scope| {
        let building = scope.spawn(move || command::run(&mut docker, Duration::from_secs(120)));
        let mut held = BTreeSet::new();
        while !building.is_finished() {
            held.extend(trial.leases(|id| id != own));
            std::thread::sleep(Duration::from_millis(100));
        }
        let got = building.join().map_err(|_| "the build's thread ended in a panic")??;
        Ok((got, held))
    })
}

fn judged(trial: &Trial, run: &str, flags: &[&str]) -> Tried {
    let (got, held) = build(trial, run, flags)?;
    if let Some(line) = refusal(&got) {
        return Ok(Verdict { cell: Cell::Refused, detail: line });
    }
    if got.code != 0 {
        return Err(got.to_string());
    }
    let text = format!("{}\n{}", got.stdout, got.stderr);
    judge(&probe::read(&text, &trial.devices())?, &held)
}

fn plain(trial: &mut Trial) -> Tried {
    match no_buildkit(trial) {
        Some(why) => Ok(Verdict::not_applicable(why)),
        None => judged(trial, "", &[]),
    }
}

fn device(trial: &mut Trial) -> Tried {
    if !matches!(trial.column.engine, EngineOf::V28Overlay2 | EngineOf::V28Containerd) {
        return Ok(Verdict::not_applicable("this Engine's BuildKit knows no RUN --device"));
    }
    if let Some(why) = no_buildkit(trial) {
        return Ok(Verdict::not_applicable(why));
    }
    let spec = trial.node.place().cdi().join("nvidia.json");
    let kept = std::fs::read_to_string(&spec).map_err(|e| format!("the CDI spec: {e}"))?;
    let mut open: serde_json::Value = serde_json::from_str(&kept).map_err(|e| e.to_string())?;
    // Docker's builder takes no --allow device; a CDI spec may allow it to all builds.
    open["cdiVersion"] = "0.6.0".into();
    open["annotations"] = serde_json::json!({"org.mobyproject.buildkit.device.autoallow": "true"});
    gpuctl_sim::files::write(&spec, &open.to_string())?;
    let tried = device_opened(trial);
    gpuctl_sim::files::write(&spec, &kept)?;
    tried
}

fn device_opened(trial: &Trial) -> Tried {
    let with = |index: usize| judged(trial, &format!("--device=nvidia.com/gpu={index}"), &[]);
    let first = match with(HELD[0]) {
        // The frontend that knows it is fetched from a registry.
        Err(why) if why.contains("device feature is only supported") => {
            let verdict = super::others::as_buildkit(trial)?;
            return Ok(verdict.noting("without its frontend, by the same call of runc"));
        }
        other => other?,
    };
    if matches!(first.cell, Cell::NotCaught | Cell::Leased) {
        let first = first.noting("a GPU that another holds");
        return Ok(Verdict { cell: Cell::NotCaught, ..first });
    }
    Ok(with(FREE)?.noting(&format!("of a GPU that another holds: {}", first.cell)))
}

fn insecure(trial: &mut Trial) -> Tried {
    if trial.column.engine == EngineOf::V20 {
        return Ok(Verdict::not_applicable("this Engine's docker build takes no --allow"));
    }
    if let Some(why) = no_buildkit(trial) {
        return Ok(Verdict::not_applicable(why));
    }
    match judged(trial, "--security=insecure", &["--allow", "security.insecure"]) {
        Err(why) if why.contains("unknown flag: ") && why.contains("security") => {
            Ok(Verdict::not_applicable(
                "this BuildKit's own Dockerfile frontend has no RUN --security",
            ))
        }
        other => other,
    }
}
