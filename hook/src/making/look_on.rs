//! `policy.observe`: what would have been done is written down, and nothing is changed.

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::config::AllPolicy;
use gpuctl_ledger::grant;
use gpuctl_ledger::model::GpuRequest;
use gpuctl_ledger::rules::allocate::{Supply, Want, allocate};

use super::{EXEMPT, Making, OPEN};
use crate::admit::Admit;
use crate::image_env;
use crate::request::{AskError, Asked};

impl Making<'_> {
    /// Writes down what would have been done, and does nothing.
    pub(super) fn observe(&self, admit: &Admit, name: &str, asked: &Result<Asked, AskError>) {
        let asked = asked.as_ref();
        let (decision, what) = match admit {
            Admit::Pass => return,
            Admit::Exempt => (Decision::Exempted, EXEMPT.into()),
            Admit::Open => (Decision::Exempted, OPEN.into()),
            Admit::Without if asked.is_ok_and(Asked::opens_nothing) => return,
            Admit::Without if asked.is_ok_and(Asked::is_image_env) => {
                (Decision::Stripped, image_env::IGNORED.into())
            }
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
}
