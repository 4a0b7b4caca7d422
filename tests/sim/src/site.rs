//! Puts a whole node together: files, the product's programs, the Engine, images, the service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Options};
use crate::files::{self, Gpus, Settings};
use crate::{Doing as _, Place, Profile, Result, image, narrow, processes, reaper};

/// How long the service may take to listen. A machine may be emulated, and busy besides.
const UP: Duration = Duration::from_secs(60);

/// The programs that go into a place.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `docker-gpuctl`.
    pub plugin: PathBuf,
    /// `gpuctl-hook`, which is also `gpuctl-runtime` and the stub.
    pub hook: PathBuf,
    /// The simulated driver.
    pub nvml: PathBuf,
}

/// What a node is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The programs; `None` leaves them out, and the Engine needs a runtime of its own.
    pub programs: Option<Programs>,
    /// `gpuctl-sim`.
    pub sim: PathBuf,
    /// The profile of its GPUs, for simulated ones.
    pub profile: PathBuf,
    /// Where the GPUs come from.
    pub gpus: Gpus,
    /// The node's name in the ledger.
    pub node: String,
    /// The ledger's URL; `None` is SQLite in the place.
    pub ledger: Option<String>,
    /// More TOML for the config.
    pub more: String,
    /// How the Engine is started.
    pub engine: Options,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Site {
    engine: Engine,
}

impl Site {
    /// The node at a place, which may or may not be laid out and run.
    ///
    /// # Errors
    /// When no Docker CLI is installed.
    pub fn at(place: Place, options: Options) -> Result<Self> {
        Ok(Self { engine: Engine::at(place, options)? })
    }

    /// Its Engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its folder.
    pub fn place(&self) -> &Place {
        self.engine.place()
    }

    /// Lays all files out. What is there already is brought up to the plan; ledger and ids stay.
    ///
    /// # Errors
    /// When something cannot be made.
    pub fn lay_out(&self, plan: &Plan) -> Result<()> {
        let place = self.place();
        place.create()?;
        for (path, dashes) in [(place.boot_id(), true), (place.machine_id(), false)] {
            if !path.exists() {
                files::fresh_id(&path, dashes)?;
            }
        }
        if plan.gpus == Gpus::Simulated {
            self.set_profile(&plan.profile)?;
        }
        files::install(&plan.sim, &reaper::path(place))?;
        let mut real_runtime = self.engine.runc()?;
        if !narrow::missing()?.is_empty() {
            let narrowed = place.libexec().join("runc");
            files::install(&plan.sim, &narrowed)?;
            let note = place.libexec().join("runc.path");
            files::write(&note, &format!("{}\n", real_runtime.display()))?;
            real_runtime = narrowed;
        }
        if let Some(programs) = &plan.programs {
            self.install(programs, plan.gpus == Gpus::Simulated)?;
        }
        let settings = Settings {
            node: plan.node.clone(),
            ledger: plan.ledger.clone(),
            real_runtime,
            gpus: plan.gpus.clone(),
            more: plan.more.clone(),
        };
        files::config(place, &settings)
    }

    fn install(&self, programs: &Programs, simulated: bool) -> Result<()> {
        let place = self.place();
        let hook = place.libexec().join("gpuctl-hook");
        files::install(&programs.hook, &hook)?;
        for name in [
            place.libexec().join("gpuctl-runtime"),
            place.libexec().join("gpuctl-gate"),
            place.stub().join("nvidia-container-runtime-hook"),
            place.strict().join("runc"),
        ] {
            let _ = fs::remove_file(&name);
            fs::hard_link(&hook, &name).doing(format!("link {}", name.display()))?;
        }
        files::install(&programs.plugin, &self.plugin())?;
        if simulated {
            files::install(&programs.nvml, &place.nvml())?;
        }
        Ok(())
    }

    /// The plugin's file.
    pub fn plugin(&self) -> PathBuf {
        self.place().docker_config().join("cli-plugins/docker-gpuctl")
    }

    /// Gives the node other GPUs, also while it runs.
    ///
    /// # Errors
    /// When the profile cannot be read or laid out.
    pub fn set_profile(&self, profile: &Path) -> Result<()> {
        let text = fs::read_to_string(profile).doing(format!("read {}", profile.display()))?;
        let parsed = Profile::read(profile)?;
        files::write(&self.place().profile(), &text)?;
        files::lay_out(self.place(), &parsed)
    }

    /// Starts the Engine and makes the images.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self) -> Result<()> {
        self.engine.start()?;
        image::import(&self.engine)
    }

    /// Starts the service and waits for its socket.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_service(&self) -> Result<()> {
        self.start_service_with(&[])
    }

    /// As [`Site::start_service`], with more in its environment.
    ///
    /// # Errors
    /// As there.
    pub fn start_service_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let place = self.place();
        if self.service().is_some() {
            return Ok(());
        }
        let _ = fs::remove_file(place.socket());
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.at("service.log"))
            .doing("open the service's log")?;
        let mut serve = Command::new("setsid");
        let program = self.engine.inside(&self.plugin());
        serve.arg(program.get_program()).args(program.get_args()).arg("serve").env_clear();
        serve.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        serve.env("HOME", "/root").env("LANG", "C.UTF-8").env("GPUCTL_CONFIG", place.config());
        serve.envs(environment.iter().copied()).stdin(Stdio::null());
        serve.stdout(log.try_clone().doing("share the service's log")?).stderr(log);
        let mut child = serve.spawn().doing("start the service")?;
        let until = Instant::now() + UP;
        while !place.socket().exists() {
            let ended = child.try_wait().is_ok_and(|s| s.is_some());
            if ended || Instant::now() > until {
                let said = fs::read_to_string(place.at("service.log")).unwrap_or_default();
                return Err(format!("the service does not come up\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// The service's process, if it runs.
    pub fn service(&self) -> Option<i32> {
        processes::of(self.place()).into_iter().find(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|b| *b == 0);
            words.next().is_some_and(|w| w.ends_with(b"/docker-gpuctl"))
                && words.next() == Some(b"serve")
        })
    }
}
