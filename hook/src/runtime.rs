//! The OCI runtime wrapper: bind, inject, exec the real runtime.
//!
//! Only `create`, `run` and `restore` are changed. `delete` is passed on and is a hint for release.
//! All else is exec'd through untouched.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::{AllPolicy, Config, ConfigError, Inject};
use gpuctl_ledger::grant::{self, Claim, GrantError, Granted};
use gpuctl_ledger::ledger::{Ledger, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, DockerName, GpuRequest, Holder, Piece, Token, Unit,
};
use gpuctl_ledger::node::docker::{DockerFiles, DockerFilesError};
use gpuctl_ledger::node::{files, links, notes, process, refused};
use gpuctl_ledger::rules::allocate::{Supply, Want, allocate};
use gpuctl_ledger::rules::retry::WaitsFor;
use gpuctl_ledger::store::StoreError;
use gpuctl_ledger::view::NodeView;

use crate::admit::{Admit, Bound, Who, admit};
use crate::command::{self, Command};
use crate::driver::Driver;
use crate::gate::LONGEST_SPEC;
use crate::request::{self, AskError, Asked, NodeFacts};
use crate::spec::Spec;
use crate::spec_alone::{without_gpus, write_spec};
use crate::turned_away::{self, TurnedAway};
use crate::{fault, image_env, inject, real, refuse, strip, upper, visible};

/// A container about to be made.
struct Making<'a> {
    config: &'a Config,
    config_path: &'a Path,
    id: ContainerId,
    bundle: PathBuf,
    /// What we become.
    behind: &'a Path,
    spec: Spec,
    files: Option<DockerFiles>,
    driver: Driver<'a>,
    view: OnceCell<NodeView<'a>>,
    began: Instant,
    /// Who owns it, once its binding was read.
    owner: Option<String>,
    /// What it is to get, once that is known.
    request: Option<GpuRequest>,
}

/// What was granted, with its GPUs.
fn pieces(granted: &Granted) -> Vec<Piece<'_>> {
    granted.units.iter().filter_map(|unit| granted.inventory.piece(unit)).collect()
}

/// Entered as an OCI runtime, under the program name `entered`. The exit status; on success it does
/// not return.
pub fn main(entered: &str, args: &[OsString]) -> i32 {
    let command = command::parse(args);
    let loaded = Config::load();
    let fallback = Config::default();
    let config = loaded.as_ref().map_or(&fallback, |(config, _)| config);
    let real = match real::find(real::behind(config, entered)) {
        Ok(real) => real,
        Err(why) => {
            if command.makes_container() {
                turned_away_early(config, &command, &why);
            }
            return refuse::tell(&command, &why);
        }
    };
    let verdict = match command.verb.as_str() {
        "delete" => return delete(config, &real, &command, args),
        _ if command.makes_container() => create(entered, &loaded, config, &command),
        _ => Ok(()),
    };
    match verdict {
        Ok(()) => refuse::tell(&command, &real::exec(&real, args)),
        Err(why) => refuse::tell(&command, &why),
    }
}

/// `delete` comes after every end of a container that containerd saw, also where poststop did not
/// run: after the wrapper was killed between claim and exec. Only where a grant is still noted is
/// there anything to do.
fn delete(config: &Config, real: &Path, command: &Command, args: &[OsString]) -> i32 {
    let noted = command
        .id
        .as_deref()
        .and_then(|id| ContainerId::new(id).ok())
        .filter(|id| notes::has_grant(&config.paths, id));
    let Some(id) = noted else { return refuse::tell(command, &real::exec(real, args)) };
    match real::run(real, args) {
        Ok(status) => {
            fault::here(config, "deleted");
            let token = notes::read_grant(&config.paths, &id).ok().flatten().map(|g| g.token);
            if let Some(token) = token {
                let _ = crate::release::release(config, id.as_str(), Some(&token));
            }
            status
        }
        Err(why) => refuse::tell(command, &why),
    }
}

/// Writes down a refusal of which nothing but the command is known.
fn turned_away_early(config: &Config, command: &Command, why: &str) {
    let id = command.id.as_deref().unwrap_or_default();
    turned_away::write_down(config, Decision::Refused, id, why);
}

fn create(
    entered: &str,
    loaded: &Result<(Config, PathBuf), ConfigError>,
    config: &Config,
    command: &Command,
) -> Result<(), String> {
    let making = prepare(entered, loaded, config, command)
        .inspect_err(|why| turned_away_early(config, command, why))?;
    let Some(mut making) = making else { return Ok(()) };
    making.start().map_err(|why| making.turned_away(why))
}

/// What there is to know of the container; `None` where it is dealt with already. What a broken config
/// leaves possible: containers that have nothing to do with GPUs.
fn prepare<'a>(
    entered: &str,
    loaded: &'a Result<(Config, PathBuf), ConfigError>,
    config: &'a Config,
    command: &Command,
) -> Result<Option<Making<'a>>, String> {
    let bundle = match &command.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|_| "the bundle's folder is gone")?,
    };
    let bytes = files::read_bounded(&bundle.join("config.json"), LONGEST_SPEC)
        .map_err(|_| "the bundle's config.json cannot be read, or is longer than 16 MiB")?;
    let spec = Spec::parse(&bytes).map_err(|e| e.to_string())?;
    let id = command.id.as_deref().unwrap_or_default();
    let alone = |spec, why: &dyn Fn() -> String| {
        without_gpus(config, id, &bundle, spec, why).map(|()| None)
    };
    let config_path = match loaded {
        Ok((_, path)) => path,
        // Of a managed container only the binding knows what it gets.
        Err(broken) if entered == real::MANAGED_ENTRY => return Err(broken.to_string()),
        Err(broken) => return alone(spec, &|| broken.to_string()),
    };
    let Ok(id) = ContainerId::new(id) else {
        // No engine makes such an id; without one nothing can be leased.
        let why = || "the container's id is not one that GPUs can be leased to".into();
        return alone(spec, &why);
    };
    // Under this name daemon.json calls us for managed containers only.
    let managed_entry = entered == real::MANAGED_ENTRY;
    let files = match DockerFiles::read(&config.docker.root, &id) {
        Ok(files) => Some(files),
        Err(DockerFilesError::Absent) => None,
        Err(why) => {
            let why = || format!("{why}; docker gpuctl doctor tells more");
            // What they would say counts only where there is something to decide.
            return if managed_entry { Err(why()) } else { alone(spec, &why) };
        }
    };
    if files.is_none() && managed_entry {
        return Err(format!(
            "Docker has no files of this container under {}; hint: set docker.root in the config to \
             the Engine's own",
            config.docker.root.display()
        ));
    }
    let began = Instant::now();
    let driver = Driver::new(config);
    let behind = real::behind(config, entered);
    let view = OnceCell::new();
    Ok(Some(Making {
        config,
        config_path,
        id,
        bundle,
        behind,
        spec,
        files,
        driver,
        view,
        began,
        owner: None,
        request: None,
    }))
}

impl Making<'_> {
    fn start(&mut self) -> Result<(), TurnedAway> {
        if self.entered_before() {
            // The gate in the spec will check the final one.
            return Ok(());
        }
        let (managed, docker_name) = self.who();
        let node_copy = if managed { self.node_copy()? } else { None };
        // A binding of none needs no ledger: the node's copy is enough.
        let without = node_copy.as_ref().is_some_and(|b| b.gpus.is_none() && !b.retired);
        let asked = self.asked();
        let mut ledger = None;
        let mut binding = node_copy.map(|copy| (copy, None));
        if managed && !without {
            let open = self.open_ledger()?;
            binding = open
                .binding(&self.id)
                .map_err(|e| self.out_of_reach(&e))?
                .map(|at| (at.record, Some(at.revision)));
            ledger = Some(open);
        }
        self.owner = binding.as_ref().and_then(|(binding, _)| binding.owner.clone());
        let bound = match (&binding, managed) {
            (_, false) => Bound::NotManaged,
            (None, true) => Bound::Unknown,
            (Some((binding, _)), true) => Bound::To(binding),
        };
        let made = self.files.as_ref().map(|files| &files.container);
        let who = Who {
            docker_name: &docker_name,
            image: made.map_or("", |made| &made.config.image),
            image_id: made.map_or("", |made| &made.image),
        };
        let admit = admit(bound, &asked, who, &self.config.policy);
        if managed {
            self.note_upper(binding.as_ref().map(|(b, _)| b));
        }
        if self.config.policy.observe && !managed {
            self.observe(&admit, &docker_name, asked.as_ref().is_ok_and(Asked::is_image_env));
            return Ok(());
        }
        match admit {
            Admit::Pass => Ok(()),
            Admit::Exempt => {
                self.audit(Decision::Exempted, &docker_name, &[], "on the exempt list");
                Ok(self.exempt(&asked)?)
            }
            Admit::Without => {
                let stripped = !asked.as_ref().is_ok_and(|a| a.is_nothing());
                let ignored = asked.as_ref().is_ok_and(Asked::is_image_env);
                inject::clear(&mut self.spec);
                self.strip(&[], &[])?;
                if stripped {
                    let why = if ignored { image_env::IGNORED } else { "holds no lease" };
                    self.audit(Decision::Stripped, &docker_name, &[], why);
                    self.hint(&docker_name, &[]);
                }
                Ok(self.write_spec()?)
            }
            Admit::Refuse(refusal) => Err(refusal.one_line().into()),
            Admit::Claim { request, prefer, all, keep_rest } => {
                self.request = Some(request.clone());
                let ledger = match ledger {
                    Some(ledger) => ledger,
                    None => self.open_ledger()?,
                };
                let token = Token::random().map_err(|_| "the kernel gives no random numbers")?;
                let holder = self.holder(&docker_name, binding.as_ref().map(|(b, _)| b))?;
                let claim = Claim {
                    holder: &holder,
                    request: &request,
                    prefer: &prefer,
                    token: &token,
                    binding,
                    all,
                    free_rest: true,
                    operation: None,
                };
                self.claim_and_inject(&ledger, &claim, keep_rest, &docker_name)
            }
        }
    }

    /// Whether this very call has been through us before: NVIDIA's runtime around us, or strict and
    /// cooperative mode at once. Then our gate is in the spec and the grant is this process's own.
    fn entered_before(&self) -> bool {
        real::depth() > 0
            && inject::has_gate(&self.spec, &self.config.runtime.hook)
            && notes::read_grant(&self.config.paths, &self.id)
                .ok()
                .flatten()
                .zip(process::own().ok())
                .is_some_and(|(grant, own)| grant.evidence.claimer == own)
    }

    fn host(&self) -> Option<&gpuctl_ledger::node::docker::HostConfig> {
        self.files.as_ref().map(|files| &files.host)
    }

    /// Lets an exempt container through. One that asks by `--gpus` has NVIDIA's legacy hook in its
    /// spec, or where NVIDIA's toolkit is not there our stub, which refuses: then what it asks for
    /// comes by CDI, whoever holds it.
    fn exempt(&mut self, asked: &Result<Asked, AskError>) -> Result<(), String> {
        let Ok(asked) = asked else { return Ok(()) };
        let by_cdi = asked.legacy_hook && self.config.gpu.inject == Inject::Cdi;
        if !by_cdi {
            return Ok(());
        }
        let Some(inventory) = self.driver.inventory().cloned() else { return Ok(()) };
        let (nobody, nothing) = (BTreeMap::new(), BTreeMap::new());
        let supply = Supply { inventory: &inventory, leases: &nobody, busy: &nothing };
        let want =
            Want { request: &asked.request, container: None, prefer: &[], all: AllPolicy::Free };
        let units = allocate(&supply, &want)
            .map_err(|_| format!("{} asked for, which this node does not have", asked.request))?;
        let held: Vec<Piece<'_>> = units.iter().filter_map(|unit| inventory.piece(unit)).collect();
        self.inject_cdi(&held)?;
        self.write_spec()
    }

    fn inject_cdi(&mut self, held: &[Piece<'_>]) -> Result<(), String> {
        let gpu = &self.config.gpu;
        let cdi = inject::CdiSpecs::load(&gpu.cdi_dirs, &gpu.cdi_kind)
            .map_err(|e| e.to_string())?
            .with_dev(&gpu.dev);
        inject::inject_cdi(&mut self.spec, held, &cdi).map_err(|e| e.to_string())
    }

    /// Leaves of all GPUs and MIG devices only these.
    fn strip(&mut self, minors: &[u32], caps: &[u32]) -> Result<(), String> {
        let keep = strip::Keep { minors, caps, caps_major: self.driver.caps_major() };
        strip::whitelist_but(&mut self.spec, keep).map(drop).map_err(|e| e.to_string())
    }

    /// What the container asks for. Whether that is anything at all its own files tell, so that one
    /// without GPUs waits for no look at the driver.
    fn asked(&self) -> Result<Asked, AskError> {
        let nvidia_runtime = self.config.gpu.inject == Inject::Env || real::is_nvidia(self.behind);
        let own = NodeFacts {
            inventory: None,
            cdi_kind: &self.config.gpu.cdi_kind,
            caps_major: None,
            // Then the real runtime is NVIDIA's, and does what the environment says.
            nvidia_runtime,
            image_env: image_env::policy(
                self.config,
                &self.spec,
                self.files.as_ref(),
                nvidia_runtime,
            ),
            docker_env: self.files.as_ref().map(|files| files.container.config.env.as_slice()),
        };
        let asked = request::detect(&self.spec, self.host(), &own);
        if asked.as_ref().is_ok_and(Asked::is_nothing) {
            if !request::names_dynamic_major(&self.spec) {
                return asked;
            }
            let caps_major = self.driver.caps_major();
            let parts = request::detect(&self.spec, self.host(), &NodeFacts { caps_major, ..own });
            if parts.as_ref().is_ok_and(Asked::is_nothing) {
                return parts;
            }
        }
        let (inventory, caps_major) = (self.driver.inventory(), self.driver.caps_major());
        request::detect(&self.spec, self.host(), &NodeFacts { inventory, caps_major, ..own })
    }

    /// Whether it is managed, and its name in Docker; its id where that is not known.
    fn who(&self) -> (bool, String) {
        let Some(files) = &self.files else { return (false, self.id.as_str().to_owned()) };
        let name = files.container.docker_name();
        let name = DockerName::new(name).map_or_else(|_| self.id.short().to_owned(), String::from);
        (files.host.runtime == self.config.runtime.managed_name, name)
    }

    /// The node's copy of the binding. One that cannot be read is as good as none: the ledger is
    /// asked then.
    fn node_copy(&self) -> Result<Option<Binding>, String> {
        Ok(notes::read_binding(&self.config.paths, &self.id).unwrap_or(None))
    }

    /// The ledger, for a container that gets GPUs, or so it looks.
    fn open_ledger(&self) -> Result<Ledger, TurnedAway> {
        let view = self.view()?;
        view.look_ahead();
        let machine = process::machine_id(&self.config.paths.machine_id)
            .map_err(|_| "the machine's id cannot be read")?;
        let ledger = Ledger::open(self.config).map_err(|e| self.out_of_reach(&e))?;
        Ok(ledger.within(self.config.ledger.timeout()).of_machine(machine, view.boot_id.clone()))
    }

    /// The node, looked at when it is first needed.
    fn view(&self) -> Result<&NodeView<'_>, String> {
        if self.view.get().is_none() {
            let view = NodeView::new(self.config).map_err(|e| e.to_string())?;
            let _ = self.view.set(view);
        }
        self.view.get().ok_or_else(|| "the node cannot be looked at".into())
    }

    fn out_of_reach(&self, error: &LedgerError) -> TurnedAway {
        let text = match error {
            LedgerError::Store(StoreError::Unreachable(_) | StoreError::Unknown(_)) => {
                format!(
                    "{error}, so no GPU can be given; containers without GPUs start as ever; docker gpuctl doctor tells more"
                )
            }
            other => format!("{other}; docker gpuctl doctor tells more"),
        };
        // One that is damaged or too new is mended too, one day.
        TurnedAway::until(WaitsFor::Ledger, text)
    }

    /// Writes the refusal down, and what it waits for where that passes by itself; the line for the
    /// user.
    fn turned_away(&self, why: TurnedAway) -> String {
        let (_, name) = self.who();
        let entry = Entry::new(Decision::Refused, self.id.as_str(), &name);
        let entry = entry.user(self.owner.clone()).gpus(&why.units).why(&why.text);
        entry.write(self.config);
        turned_away::line(self.config, &self.id, self.files.as_ref(), self.request.as_ref(), why)
    }

    fn holder(&self, docker_name: &str, binding: Option<&Binding>) -> Result<Holder, String> {
        Ok(Holder {
            container: self.id.clone(),
            // A change renames the container after its restart: the binding knows the new name.
            docker_name: binding
                .map(|b| Ok(DockerName::of(&b.name, b.version)))
                .unwrap_or_else(|| DockerName::new(docker_name))
                .or_else(|_| DockerName::new(self.id.short()))
                .map_err(|e| e.to_string())?,
            name: binding.map(|b| b.name.clone()),
            owner: binding.and_then(|b| b.owner.clone()),
        })
    }

    fn claim_and_inject(
        &mut self,
        ledger: &Ledger,
        claim: &Claim<'_>,
        keep_rest: bool,
        docker_name: &str,
    ) -> Result<(), TurnedAway> {
        // What the ledger has taken so far counts.
        let limit = self.config.ledger.timeout().saturating_sub(self.began.elapsed());
        let granted = grant::claim(ledger, self.view()?, claim, limit).map_err(|e| match e {
            GrantError::Refused(refusal) => TurnedAway::until(WaitsFor::Gpus, refusal.one_line()),
            GrantError::Impossible(refusal) => refusal.one_line().into(),
            GrantError::Ledger(e) => self.out_of_reach(&e),
            e @ (GrantError::Slow | GrantError::Contended) => {
                TurnedAway::until(WaitsFor::Ledger, e.to_string())
            }
            // After a boot there may be no list of GPUs yet.
            e @ GrantError::Node { .. } => TurnedAway::until(WaitsFor::Gpus, e.to_string()),
        })?;
        fault::here(self.config, "claimed");
        if let Some(binding) = &granted.binding {
            self.write_copy(binding);
        }
        match self.inject(&granted, claim, keep_rest) {
            Ok(()) => {
                fault::here(self.config, "injected");
                self.tell_granted(&granted, docker_name);
                self.hint(docker_name, &pieces(&granted));
                Ok(())
            }
            Err(text) => {
                // Nothing runs yet and nothing will: the claim ends here, unless it is a change's own,
                // whose undoing needs what was held before.
                if !granted.changing {
                    let _ = ledger.release(&self.id, Some(claim.token), None);
                }
                let _ = notes::remove_grant(&self.config.paths, &self.id);
                Err(TurnedAway { text, until: None, units: granted.units })
            }
        }
    }

    /// Writes down what it got; that it was refused before is of no account any more.
    fn tell_granted(&self, granted: &Granted, docker_name: &str) {
        let _ = refused::forget(&self.config.paths, &self.id);
        let had: BTreeSet<&Unit> = granted.before.iter().collect();
        let other = !had.is_empty() && had != granted.units.iter().collect();
        let (decision, why) = if other {
            let had: Vec<&str> = granted.before.iter().map(Unit::as_str).collect();
            (Decision::Rebound, format!("started; before it had {}", had.join(",")))
        } else {
            (Decision::Granted, "started".to_owned())
        };
        let entry = Entry::new(decision, self.id.as_str(), docker_name);
        entry.user(self.owner.clone()).gpus(&granted.units).why(why).write(self.config);
    }

    fn inject(
        &mut self,
        granted: &Granted,
        claim: &Claim<'_>,
        keep_rest: bool,
    ) -> Result<(), String> {
        let held = pieces(granted);
        let minors: Vec<u32> = held.iter().map(|piece| piece.gpu.minor).collect();
        let caps: Vec<u32> = held.iter().filter_map(Piece::mig).flat_map(|mig| mig.caps).collect();
        if !caps.is_empty() && self.driver.caps_major().is_none() {
            return Err(format!(
                "{} knows no nvidia-caps, by which MIG devices are opened: nvidia-modprobe makes it known",
                self.config.gpu.majors.display()
            ));
        }
        links::make(&self.config.gpu.dev, |node| node.is_granted(&minors, &caps));
        let own = self.spec.env(visible::CUDA);
        if let Some(order) = visible::order(claim.request, own, &held) {
            self.spec.set_env(visible::CUDA, &order);
        }
        match self.config.gpu.inject {
            Inject::Cdi => self.inject_cdi(&held)?,
            Inject::Env => {
                let uuids: Vec<&str> = held.iter().map(|piece| piece.uuid().as_str()).collect();
                inject::inject_env(&mut self.spec, &uuids);
            }
        }
        if !keep_rest {
            self.strip(&minors, &caps)?;
        }
        let token = claim.token;
        let config = self.config_path.to_string_lossy().into_owned();
        let common = ["--config", &config, "--token", token.as_str()];
        let mut gate = vec!["gpuctl-hook", "gate"];
        gate.extend(common);
        if keep_rest {
            gate.push("--keep-rest");
        }
        let mut release = vec!["gpuctl-hook", "release"];
        release.extend(common);
        inject::add_hooks(&mut self.spec, &self.config.runtime.hook, &gate, &release);
        self.write_spec()
    }

    fn write_spec(&self) -> Result<(), String> {
        write_spec(&self.bundle, &self.spec)
    }

    /// Notes where the writable layer is, for changes that carry it over: the rootfs is mounted now.
    fn note_upper(&self, binding: Option<&Binding>) {
        let Some(binding) = binding else { return };
        let Some(root) = self.spec.root_path() else { return };
        let root = self.bundle.join(root);
        let Some(upper) = upper::upper_dir(&root) else { return };
        if binding.upper_dir.as_deref() != Some(upper.as_str()) {
            let noted = Binding { upper_dir: Some(upper), ..binding.clone() };
            self.write_copy(&noted);
        }
    }

    fn write_copy(&self, binding: &Binding) {
        let old = notes::read_binding(&self.config.paths, &self.id).ok().flatten();
        let upper_dir = binding.upper_dir.clone().or(old.and_then(|old| old.upper_dir));
        let _ = notes::write_binding(&self.config.paths, &Binding { upper_dir, ..binding.clone() });
    }

    /// Writes down what would have been done, and does nothing.
    fn observe(&self, admit: &Admit, name: &str, by_image: bool) {
        let (decision, what) = match admit {
            Admit::Pass => return,
            Admit::Exempt => (Decision::Exempted, "on the exempt list".into()),
            Admit::Without if by_image => (Decision::Stripped, image_env::IGNORED.into()),
            Admit::Without => (Decision::Stripped, "would hold no lease".into()),
            Admit::Refuse(refusal) => (Decision::Refused, refusal.one_line()),
            Admit::Claim { request, all, .. } => match self.would_get(request, *all) {
                Ok(()) => (Decision::Granted, format!("would claim {request}")),
                Err(why) => (Decision::Refused, why),
            },
        };
        self.entry(decision, name).why(what).observed().write(self.config);
    }

    /// Whether a claim would be granted now; why not otherwise.
    fn would_get(&self, request: &GpuRequest, all: AllPolicy) -> Result<(), String> {
        let ledger = self.open_ledger().map_err(|why| why.text)?;
        let seen =
            grant::observe(&ledger, self.view()?, Some(&self.id)).map_err(|e| e.to_string())?;
        let supply = Supply { inventory: &seen.inventory, leases: &seen.judged, busy: &seen.busy };
        let want = Want { request, container: Some(&self.id), prefer: &[], all };
        let shortage = allocate(&supply, &want).err();
        shortage.map_or(Ok(()), |shortage| {
            Err(grant::shortage_refusal(&shortage, request, &ledger).one_line())
        })
    }

    /// Tells whoever set CUDA_VISIBLE_DEVICES to GPUs that the container did not get: in the audit, and on
    /// the standard error of the container, which its log shows. Its programs would find no GPU and not
    /// say why.
    fn hint(&self, name: &str, held: &[Piece<'_>]) {
        let Some(hint) = visible::hint(self.spec.env(visible::CUDA), held) else { return };
        self.audit(Decision::Hint, name, &[], &hint);
        // Nobody may be listening there.
        let _ = writeln!(std::io::stderr(), "gpuctl: hint: {hint}");
    }

    fn audit(&self, decision: Decision, name: &str, units: &[Unit], why: &str) {
        self.entry(decision, name).gpus(units).why(why).write(self.config);
    }

    fn entry(&self, decision: Decision, name: &str) -> Entry {
        Entry::new(decision, self.id.as_str(), name).user(self.owner.clone())
    }
}
