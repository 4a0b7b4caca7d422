//! A container about to be made: what it is, what it asks for, and what becomes of it.

mod give;
mod look_on;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::{Config, Inject};
use gpuctl_ledger::grant::Claim;
use gpuctl_ledger::ledger::{Ledger, LedgerError};
use gpuctl_ledger::model::{Binding, ContainerId, DockerName, GpuRequest, Holder, Token, Unit};
use gpuctl_ledger::node::docker::DockerFiles;
use gpuctl_ledger::node::{notes, process};
use gpuctl_ledger::rules::retry::WaitsFor;
use gpuctl_ledger::store::StoreError;
use gpuctl_ledger::view::NodeView;

use crate::admit::{Admit, Bound, Who, admit};
use crate::driver::Driver;
use crate::request::{self, AskError, Asked, NodeFacts, swarm};
use crate::spec::Spec;
use crate::spec_alone::write_spec;
use crate::turned_away::{self, TurnedAway};
use crate::{image_env, inject, real, upper};

/// Why a container passes that root has named.
const EXEMPT: &str = "on the exempt list";
/// Why a privileged one has GPUs that it has no lease on.
const OPEN: &str = "privileged, and policy.privileged is \"allow\": every GPU is open to it";

/// A container about to be made.
pub(crate) struct Making<'a> {
    pub(crate) config: &'a Config,
    pub(crate) config_path: &'a Path,
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    /// What we become.
    pub(crate) behind: &'a Path,
    pub(crate) spec: Spec,
    pub(crate) files: Option<DockerFiles>,
    pub(crate) driver: Driver<'a>,
    pub(crate) view: OnceCell<NodeView<'a>>,
    pub(crate) began: Instant,
    /// Who owns it, once its binding was read.
    pub(crate) owner: Option<String>,
    /// What it is to get, once that is known.
    pub(crate) request: Option<GpuRequest>,
    /// The variables of `gpu.swarm_resource` that it had.
    pub(crate) heeded: Vec<String>,
}

impl Making<'_> {
    /// Lets it be, gives it what it is to get, or turns it away.
    pub(crate) fn start(&mut self) -> Result<(), TurnedAway> {
        let nvidia = self.nvidia_puts_in();
        self.heeded = swarm::heed(&mut self.spec, &self.config.gpu.swarm_resource, nvidia);
        if self.entered_before() {
            // The gate in the spec will check the final one.
            return Ok(());
        }
        let (marked, docker_name) = self.who();
        // One that was taken in has the runtime that Docker gave it: its binding tells.
        let node_copy = self.node_copy();
        let managed = marked || node_copy.is_some();
        // A binding of none needs no ledger: the node's copy is enough.
        let enough = |b: &Binding| b.gpus.is_none() && !b.retired && !b.unfinished;
        let without = node_copy.as_ref().is_some_and(enough);
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
            self.observe(&admit, &docker_name, &asked);
            return Ok(());
        }
        match admit {
            // A variable that asks for nothing must not leave another one to be heeded.
            Admit::Pass if !self.heeded.is_empty() => Ok(self.write_spec()?),
            Admit::Pass => Ok(()),
            Admit::Exempt => {
                self.audit_once(&docker_name, EXEMPT);
                Ok(self.exempt(&asked)?)
            }
            Admit::Open => {
                self.audit_once(&docker_name, OPEN);
                Ok(())
            }
            Admit::Without => {
                let stripped = !asked.as_ref().is_ok_and(Asked::opens_nothing);
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
            Admit::Refuse(refusal) => Err(TurnedAway {
                // Whoever makes it starts it too early on purpose: then it is known where its files are.
                expected: binding.as_ref().is_some_and(|(b, _)| b.unfinished),
                ..refusal.one_line().into()
            }),
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

    /// Whether the real runtime is NVIDIA's, and does what the environment says.
    fn nvidia_puts_in(&self) -> bool {
        self.config.gpu.inject == Inject::Env || real::is_nvidia(self.behind)
    }

    /// What the container asks for. Whether that is anything at all its own files tell, so that one
    /// without GPUs waits for no look at the driver.
    fn asked(&self) -> Result<Asked, AskError> {
        let nvidia_runtime = self.nvidia_puts_in();
        let own = NodeFacts {
            inventory: None,
            cdi_kind: &self.config.gpu.cdi_kind,
            caps_major: None,
            nvidia_runtime,
            image_env: image_env::policy(
                self.config,
                &self.spec,
                self.files.as_ref(),
                nvidia_runtime,
                &self.heeded,
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

    /// Whether its runtime marks it as managed, and its name in Docker; its id where that is not known.
    fn who(&self) -> (bool, String) {
        let Some(files) = &self.files else { return (false, self.id.as_str().to_owned()) };
        let name = files.container.docker_name();
        let name = DockerName::new(name).map_or_else(|_| self.id.short().to_owned(), String::from);
        (files.host.runtime == self.config.runtime.managed_name, name)
    }

    /// The node's copy of the binding. One that cannot be read is as good as none: the ledger is
    /// asked then.
    fn node_copy(&self) -> Option<Binding> {
        notes::read_binding(&self.config.paths, &self.id).unwrap_or(None)
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
    pub(crate) fn turned_away(&self, why: TurnedAway) -> String {
        let (_, name) = self.who();
        let entry = Entry::new(Decision::Refused, self.id.as_str(), &name);
        let entry = entry.user(self.owner.clone()).gpus(&why.units).why(&why.text);
        if !why.expected {
            entry.write(self.config);
        }
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

    fn audit(&self, decision: Decision, name: &str, units: &[Unit], why: &str) {
        self.entry(decision, name).gpus(units).why(why).write(self.config);
    }

    /// That a container passes with GPUs that it has no lease on. Where NVIDIA's runtime is between two of
    /// our names, the first has said it.
    fn audit_once(&self, name: &str, why: &str) {
        if real::depth() == 0 {
            self.audit(Decision::Exempted, name, &[], why);
        }
    }

    fn entry(&self, decision: Decision, name: &str) -> Entry {
        Entry::new(decision, self.id.as_str(), name).user(self.owner.clone())
    }
}
