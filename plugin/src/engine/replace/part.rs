//! A replace that is a part of a larger change: it is moved on step by step by that one, which also
//! decides whether it is finished or undone.

use gpuctl_ledger::model::{ContainerId, DockerName, OperationKind};

use super::{Data, PartOf, Prepared, build, halt, launch};
use crate::engine::api::{Event, Failure, Front};
use crate::engine::context::Context;
use crate::engine::journal::Journal;
use crate::engine::leases;
use crate::tree::Size;

/// A replace under way, whose container is locked by whoever has this.
pub(in crate::engine) struct Part {
    journal: Journal,
    data: Data,
    /// Of the files that are carried.
    size: Option<Size>,
    stopped: bool,
    new: Option<ContainerId>,
}

impl Prepared {
    /// How much is carried.
    pub(super) fn size(&self) -> Option<Size> {
        self.files.as_ref().ok().map(|(_, fit)| fit.size)
    }

    /// Opens its journal. What has become of the container since it was looked at counts: the larger
    /// change may have begun a while ago.
    ///
    /// # Errors
    /// The ledger's and the Engine's.
    pub(in crate::engine) fn begin(self, ctx: &Context, whole: PartOf) -> Result<Part, Failure> {
        let size = self.size();
        let mut data = self.data;
        let shown = ctx.docker()?.inspect(data.old.as_str())?;
        let shown = shown.ok_or_else(|| {
            Failure::new(format!("{} was removed meanwhile", data.before.name)).hint("try again")
        })?;
        data.was_running = shown.running();
        data.held = leases::as_held(&leases::held(ctx, &data.old)?);
        data.part_of = Some(whole);
        let (name, by) = (data.before.name.clone(), data.by.clone());
        let journal = Journal::begin(ctx, &name, OperationKind::Replace, by, "claim", &data)?;
        Ok(Part { journal, data, size, stopped: false, new: None })
    }
}

impl Part {
    /// The container that is replaced.
    pub(in crate::engine) fn old(&self) -> &ContainerId {
        &self.data.old
    }

    /// Stops the old container, unless that was done already.
    ///
    /// # Errors
    /// [`Failure`]; the whole is undone then.
    pub(in crate::engine) fn stop(
        &mut self,
        ctx: &Context,
        front: &mut dyn Front,
    ) -> Result<(), Failure> {
        if self.stopped {
            return Ok(());
        }
        if self.data.was_running {
            let name = DockerName::of(&self.journal.operation.name, self.data.from);
            front.event(Event::Warning { text: format!("processes in {name} restart") });
        }
        halt(ctx, &mut self.journal, &mut self.data, front)?;
        self.stopped = true;
        Ok(())
    }

    /// Makes the new container, which does not run yet.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub(in crate::engine) fn build(
        &mut self,
        ctx: &Context,
        front: &mut dyn Front,
    ) -> Result<(), Failure> {
        self.new = Some(build(ctx, &mut self.journal, &mut self.data, self.size, front)?);
        Ok(())
    }

    /// Starts the new container, where the old one ran.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub(in crate::engine) fn launch(
        &mut self,
        ctx: &Context,
        front: &mut dyn Front,
    ) -> Result<(), Failure> {
        let Some(id) = &self.new else { return Ok(()) };
        launch(ctx, &mut self.journal, &self.data, id, front)
    }
}
