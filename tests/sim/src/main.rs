//! `gpuctl-sim`: brings a private Engine up and down for the quickstart. Entered as `runc`, it is
//! the narrowing runtime of [`gpuctl_sim::narrow`]; as `reaper`, an Engine's [`gpuctl_sim::reaper`].

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use gpuctl_sim::engine::Options;
use gpuctl_sim::etcd::Etcd;
use gpuctl_sim::files::Gpus;
use gpuctl_sim::site::{Plan, Programs, Site};
use gpuctl_sim::{Place, Result, narrow, nvidia, processes, reaper, sweep};

const USAGE: &str = "\
usage: gpuctl-sim up PLACE --programs DIR --hook FILE (--profile FILE | --cdi DIR) [--etcd] [--node NAME]
       gpuctl-sim down PLACE
       gpuctl-sim env PLACE
       gpuctl-sim sweep FOLDER";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    if Path::new(&name).file_name().is_some_and(|n| n == "runc") {
        // Found on PATH, it is called by its name alone.
        let me = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(&name));
        return runc(&me, &arguments);
    }
    if let Some(code) = nvidia::entered(Path::new(&name), &arguments) {
        return code;
    }
    let done = if Path::new(&name).file_name().is_some_and(|n| n == reaper::NAME) {
        reaper::run(&arguments).map(|()| String::new())
    } else {
        act(&arguments)
    };
    match done {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "gpuctl-sim: {why}");
            ExitCode::FAILURE
        }
    }
}

fn runc(me: &Path, arguments: &[String]) -> ExitCode {
    let failed = |why: String| {
        let _ = writeln!(std::io::stderr(), "{why}");
        ExitCode::FAILURE
    };
    let real = match std::fs::read_to_string(me.with_file_name("runc.path")) {
        Ok(text) => PathBuf::from(text.trim()),
        Err(e) => return failed(format!("cannot read which runc is the real one: {e}")),
    };
    if let Err(why) = narrow::apply(arguments) {
        return failed(why);
    }
    failed(format!(
        "cannot start {}: {}",
        real.display(),
        Command::new(&real).args(arguments).exec()
    ))
}

/// The value after a flag.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|a| a == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

fn act(arguments: &[String]) -> Result<String> {
    let [verb, folder, flags @ ..] = arguments else { return Err(USAGE.into()) };
    let folder = Path::new(folder);
    match verb.as_str() {
        "up" => up(Place::new(folder)?, flags),
        "down" => processes::remove(&Place::new(folder)?).map(|()| String::new()),
        "sweep" => sweep::sweep(folder)
            .map(|n| if n == 0 { String::new() } else { format!("{n} removed\n") }),
        "env" => {
            let site = Site::at(Place::new(folder)?, Options::default())?;
            let lines = site.engine().environment().map(|(n, v)| format!("export {n}='{v}'\n"));
            Ok(lines.concat())
        }
        _ => Err(USAGE.into()),
    }
}

fn up(place: Place, flags: &[String]) -> Result<String> {
    let needed =
        |flag: &str| value(flags, flag).ok_or_else(|| format!("{flag} is missing\n{USAGE}"));
    let folder = PathBuf::from(needed("--programs")?);
    let gpus = value(flags, "--cdi").map_or(Gpus::Simulated, |d| Gpus::Real(d.into()));
    let profile = if gpus == Gpus::Simulated { needed("--profile")? } else { "" };
    let options = Options { own_dev: gpus == Gpus::Simulated, ..Options::default() };
    let site = Site::at(place, options.clone())?;
    site.place().create()?;
    same_boot_as_the_machine(site.place())?;
    site.place().share_volumes()?;
    let ledger = if flags.iter().any(|f| f == "--etcd") { Some(etcd(site.place())?) } else { None };
    let plan = Plan {
        programs: Some(Programs {
            plugin: folder.join("docker-gpuctl"),
            hook: needed("--hook")?.into(),
            nvml: folder.join("libfake_nvml.so"),
        }),
        sim: std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?,
        profile: profile.into(),
        gpus,
        node: value(flags, "--node").unwrap_or("quickstart").into(),
        ledger,
        more: site.place().volumes_config(),
        engine: options,
    };
    site.lay_out(&plan)?;
    site.start()?;
    site.start_service()?;
    Ok(String::new())
}

/// This node is rebooted when its machine is, and only then.
fn same_boot_as_the_machine(place: &Place) -> Result<()> {
    let unreadable = |e| format!("cannot read the boot id: {e}");
    let now = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(unreadable)?;
    if std::fs::read_to_string(place.boot_id()).is_ok_and(|before| before == now) {
        return Ok(());
    }
    for gone in [place.run(), place.exec()] {
        std::fs::remove_dir_all(&gone)
            .and_then(|()| std::fs::create_dir(&gone))
            .map_err(|e| format!("cannot empty {}: {e}", gone.display()))?;
    }
    gpuctl_sim::files::write(&place.boot_id(), &now)
}

/// The URL of the place's own etcd, started unless it runs.
fn etcd(place: &Place) -> Result<String> {
    let note = place.at("etcd.url");
    let runs = processes::of(place).into_iter().any(|pid| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("etcd"))
    });
    if runs && let Ok(url) = std::fs::read_to_string(&note) {
        return Ok(url.trim().to_owned());
    }
    let etcd = Etcd::start(&place.at("etcd"), 1)?;
    let url = etcd.url();
    gpuctl_sim::files::write(&note, &format!("{url}\n"))?;
    etcd.keep();
    Ok(url)
}
