//! Takes the GPUs that a container holds no lease on out of its device list and rules.
//!
//! runc has no use for a hole in a wildcard, and systemd has no blacklist, so a rule that opens more
//! than it names is written out as a whitelist. Character devices have 512 majors: since Linux 4.17
//! `__register_chrdev_region` refuses greater ones (CHRDEV_MAJOR_MAX), dynamic ones included, though
//! a dev_t has room for 4096. So `c M:*` for 0 to 511 less NVIDIA's is everything there is, in 510
//! rules: on cgroup v2 some 2000 instructions, where kernels before 5.2 take 4096.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::devices::{
    Access, Exceptions, Hole, Kind, Meta, NVIDIA_MAJOR, Rule, SHARED_MINORS, Verdict, emulate,
};
use crate::spec::Spec;

/// Majors of character devices that the kernel gives out: 0 to one less.
const CHAR_MAJORS: u32 = 512;
/// Where the rules are.
const RULES: [&str; 3] = ["linux", "resources", "devices"];
/// Most rules that a list is written out to: a user may give as many wildcards as he likes, each of
/// which is 510 rules then. One wildcard of every kind there is makes some 1500.
const MOST_WRITTEN: usize = 16_384;
/// Most wildcards that are written out each at its own place.
const MOST_IN_PLACE: usize = 16;

/// Why GPUs cannot be taken out of a list of rules. In words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StripError {
    /// See [`Hole`].
    #[error(
        "its device rules take a device out of a wildcard, which leaves no way to take GPUs out"
    )]
    Hole,
    /// There would be more rules than a list of rules can have.
    #[error(
        "it has so many wildcards among its device rules that GPUs cannot be taken out of them"
    )]
    TooMany,
}

impl From<Hole> for StripError {
    fn from(_: Hole) -> Self {
        Self::Hole
    }
}

/// What stays of GPUs and of the ways to them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep<'a> {
    /// Minors of GPUs: those held, and those of which a MIG device is held.
    pub minors: &'a [u32],
    /// Minors of nvidia-caps nodes: those of the MIG devices held.
    pub caps: &'a [u32],
    /// Major number of nvidia-caps, where it is there.
    pub caps_major: Option<u32>,
}

/// Leaves of all GPUs only those whose minors are in `keep_minors`: other nodes go from
/// `linux.devices`, rules that name them go, and rules that open them unnamed become a whitelist of
/// everything else - the shared nodes 195:254 and 195:255, the GPUs kept, other majors. nvidia-caps,
/// by which MIG devices are opened, goes as a whole; [`whitelist_but`] keeps some of it. Other devices
/// keep what they had, in order. A GPU that nothing opened before is not opened now.
///
/// Says whether anything was changed; a second call changes nothing.
///
/// # Errors
/// [`StripError`], with nothing changed: the rules take a device out of a wildcard by themselves, which
/// Docker does not, or there are thousands of wildcards.
pub fn whitelist(
    spec: &mut Spec,
    keep_minors: &[u32],
    caps_major: Option<u32>,
) -> Result<bool, StripError> {
    whitelist_but(spec, Keep { minors: keep_minors, caps: &[], caps_major })
}

/// As [`whitelist`], for a container that holds MIG devices too: their nvidia-caps nodes stay, each by
/// its number, and no other.
///
/// # Errors
/// As [`whitelist`].
pub fn whitelist_but(spec: &mut Spec, keep: Keep<'_>) -> Result<bool, StripError> {
    let before = spec.rules();
    let verdict = emulate(before.iter().copied())?;
    let wanted = keep.verdict(&verdict)?;
    let nodes = spec.nodes().len();
    spec.retain(&["linux", "devices"], |node| {
        crate::devices::Node::read(node).is_none_or(|n| {
            n.gpu_minor().is_none_or(|m| keep.minors.contains(&m))
                && n.caps_minor(keep.caps_major).is_none_or(|m| keep.caps.contains(&m))
        })
    });
    let mut changed = spec.nodes().len() != nodes;
    if same(&verdict, &wanted) {
        // A rule that a later one takes back opens nothing, but it names a GPU.
        spec.retain(&RULES, |value| {
            let rule = Rule::read(value);
            !(rule.allow && rule.gpu_minor().is_some_and(|m| keep.takes(m)))
        });
        changed |= spec.rules().len() != before.len();
        return Ok(changed);
    }
    let list = spec.list_mut(&RULES);
    let wide = before.iter().filter(|r| r.meta().is_none_or(|m| keep.minds(m, r.access)));
    let mut after = match wide.count() {
        0..=MOST_IN_PLACE => keep.in_place(list),
        _ => Vec::new(),
    };
    let outcome = emulate(after.iter().map(Rule::read));
    if !outcome.is_ok_and(|o| same(&o, &wanted)) {
        // The rules take back what they gave, or are too many: only their outcome is written.
        after = std::iter::once(deny_all()).chain(wanted.exceptions.iter().map(allow)).collect();
    }
    *list = after;
    Ok(true)
}

impl Keep<'_> {
    /// Whether a rule over these devices opens a GPU that is not kept, or opens one unnamed.
    fn minds(&self, meta: Meta, access: Access) -> bool {
        if meta.block || !access.opens() {
            return false;
        }
        match (meta.major, meta.minor) {
            (None, minor) => minor.is_none_or(|m| self.takes(m) || self.caps_major.is_some()),
            (Some(major), minor) if Some(major) == self.caps_major => {
                minor.is_none_or(|m| !self.caps.contains(&m))
            }
            (Some(NVIDIA_MAJOR), minor) => minor.is_none_or(|m| self.takes(m)),
            _ => false,
        }
    }

    /// Whether the GPU with this minor goes.
    fn takes(&self, minor: u32) -> bool {
        !SHARED_MINORS.contains(&minor) && !self.minors.contains(&minor)
    }

    /// What may stay of devices, each without a wildcard over GPUs.
    fn rest(&self, meta: Meta) -> Vec<Meta> {
        let fits = |wanted: Option<u32>, number: u32| wanted.is_none_or(|w| w == number);
        let mut rest: Vec<Meta> = (0..CHAR_MAJORS)
            .filter(|&major| fits(meta.major, major))
            .filter(|&major| major != NVIDIA_MAJOR && Some(major) != self.caps_major)
            .map(|major| Meta { major: Some(major), ..meta })
            .collect();
        let mut add = |major: u32, minors: &mut dyn Iterator<Item = u32>| {
            for minor in minors.filter(|m| fits(meta.major, major) && fits(meta.minor, *m)) {
                let one = Meta { block: false, major: Some(major), minor: Some(minor) };
                if !rest.contains(&one) {
                    rest.push(one);
                }
            }
        };
        add(NVIDIA_MAJOR, &mut SHARED_MINORS.iter().chain(self.minors).copied());
        if let Some(caps) = self.caps_major {
            add(caps, &mut self.caps.iter().copied());
        }
        rest
    }

    /// The outcome that is to be.
    fn verdict(&self, verdict: &Verdict) -> Result<Verdict, StripError> {
        let mut wanted = Verdict::default();
        if !verdict.allow_all {
            let mut parts = Exceptions::default();
            let mut written = 0;
            for &(meta, access) in &verdict.exceptions {
                if !self.minds(meta, access) {
                    parts.add(meta, access);
                    continue;
                }
                let before = parts.len();
                self.rest(meta).into_iter().for_each(|part| parts.add(part, access));
                written += parts.len() - before;
                if written > MOST_WRITTEN {
                    return Err(StripError::TooMany);
                }
            }
            wanted.exceptions = parts.into_list();
            return Ok(wanted);
        }
        wanted.exceptions = self.everything().into_iter().map(|m| (m, Access::ALL)).collect();
        for &(denied, access) in &verdict.exceptions {
            for (meta, have) in &mut wanted.exceptions {
                if within(*meta, denied) {
                    have.0 &= !access.0;
                } else if within(denied, *meta) || meets(*meta, denied) {
                    return Err(StripError::Hole);
                }
            }
        }
        wanted.exceptions.retain(|(_, have)| !have.is_empty());
        Ok(wanted)
    }

    /// Every device but the GPUs that go.
    fn everything(&self) -> Vec<Meta> {
        let any = |block| Meta { block, major: None, minor: None };
        let mut all = vec![any(true)];
        all.extend(self.rest(any(false)));
        all
    }

    /// The list with each rule that gives too much written out where it stands.
    fn in_place(&self, list: &[Value]) -> Vec<Value> {
        let mut after: Vec<Value> = Vec::with_capacity(list.len());
        for (at, value) in list.iter().enumerate() {
            let rule = Rule::read(value);
            let later: BTreeSet<(Meta, u8)> =
                match rule.meta().is_none_or(|m| self.minds(m, rule.access)) {
                    true => list.iter().skip(at + 1).map(Rule::read).filter_map(said_by).collect(),
                    false => BTreeSet::new(),
                };
            // What a later rule says is left to it, so that entering twice leaves one of each.
            let said = |meta: &Meta, access: Access| {
                let wide_enough = (1..=Access::ALL.0).filter(|a| a & access.0 == access.0);
                wide_enough.into_iter().any(|a| later.contains(&(*meta, a)))
            };
            let written = |metas: Vec<Meta>, access: Access| {
                metas
                    .into_iter()
                    .filter(|meta| !said(meta, access))
                    .map(|meta| allow(&(meta, access)))
                    .collect::<Vec<_>>()
            };
            match rule.meta() {
                _ if !rule.allow => after.push(value.clone()),
                None => {
                    // An allow-all forgets what stood before it; so does this.
                    after.push(deny_all());
                    after.extend(written(self.everything(), Access::ALL));
                }
                Some(meta) if self.minds(meta, rule.access) => {
                    after.extend(written(self.rest(meta), rule.access));
                }
                Some(_) => after.push(value.clone()),
            }
        }
        after
    }
}

/// What a rule allows, by itself.
fn said_by(rule: Rule) -> Option<(Meta, u8)> {
    rule.meta().filter(|_| rule.allow).map(|meta| (meta, rule.access.0))
}

/// Whether every device of `a` is one of `b`.
fn within(a: Meta, b: Meta) -> bool {
    let number = |a: Option<u32>, b: Option<u32>| b.is_none() || a == b;
    a.block == b.block && number(a.major, b.major) && number(a.minor, b.minor)
}

/// Whether some device is in both.
fn meets(a: Meta, b: Meta) -> bool {
    let number = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    a.block == b.block && number(a.major, b.major) && number(a.minor, b.minor)
}

/// Whether two outcomes are one, in whatever order.
fn same(a: &Verdict, b: &Verdict) -> bool {
    let sorted = |v: &Verdict| {
        let mut list: Vec<(Meta, u8)> = v.exceptions.iter().map(|(m, x)| (*m, x.0)).collect();
        list.retain(|(_, access)| *access != 0);
        list.sort_unstable();
        list
    };
    a.allow_all == b.allow_all && sorted(a) == sorted(b)
}

fn deny_all() -> Value {
    Rule { allow: false, kind: Kind::All, major: None, minor: None, access: Access::ALL }.to_value()
}

fn allow(&(meta, access): &(Meta, Access)) -> Value {
    let kind = if meta.block { Kind::Block } else { Kind::Char };
    Rule { allow: true, kind, major: meta.major, minor: meta.minor, access }.to_value()
}

#[cfg(test)]
mod tests;
