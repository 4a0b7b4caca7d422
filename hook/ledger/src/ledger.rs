//! The typed book on top of a store: records by key, and commits of conditions and writes. Which
//! records change together is decided by the callers ([`crate::grant`] and the engine); here it is
//! made sure that they are read and written as what they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Config;
use crate::keys::Keys;
use crate::model::{
    Binding, BootId, ContainerId, ContainerName, ContainerRecord, Lease, NodeName, NodeRecord,
    Operation, SCHEMA, Token, Unit, Version, VersionRecord,
};
use crate::store::{self, Condition, Entry, Outcome, Range, Revision, Store, StoreError, Write};

/// Why the ledger did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The store's word.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A record was written by a newer version of the program.
    #[error(
        "the record {key} has schema {found}, this program knows {SCHEMA}: upgrade docker-gpuctl"
    )]
    TooNew {
        /// Its key.
        key: String,
        /// Its schema.
        found: u64,
    },
    /// A record is not what its key says.
    #[error("the record {0} is damaged")]
    Damaged(String),
    /// The node's name belongs to another machine.
    #[error(
        "node {0} belongs to another machine in this ledger: give this one another name in the config"
    )]
    OtherMachine(NodeName),
    /// The config is wrong.
    #[error("{0}")]
    Config(String),
}

/// A record and the revision that last wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The record.
    pub record: T,
    /// What a condition on it names.
    pub revision: Revision,
}

/// All leases of the node at one moment.
pub type Leases = BTreeMap<Unit, At<Lease>>;

/// Leases and open changes at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// The leases of the node.
    pub leases: Leases,
    /// The names of the containers to which a change is open.
    pub changing: Vec<ContainerName>,
}

/// Conditions and writes that belong together.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only if the key has no value.
    pub fn absent(&mut self, key: String) -> &mut Self {
        self.conditions.push(Condition::Absent(key));
        self
    }
    /// Only if the key was last written by this revision.
    pub fn at(&mut self, key: String, revision: Revision) -> &mut Self {
        self.conditions.push(Condition::At(key, revision));
        self
    }
    /// Only if the key is as it was seen: at that revision, or absent.
    pub fn unchanged(&mut self, key: String, seen: Option<Revision>) -> &mut Self {
        match seen {
            Some(revision) => self.at(key, revision),
            None => self.absent(key),
        }
    }
    /// Write a record.
    pub fn put(&mut self, key: String, record: &impl Serialize) -> &mut Self {
        // Records are plain structs with string keys: they always have a JSON form.
        let value = serde_json::to_vec(record).unwrap_or_default();
        self.writes.push(Write::Put(key, value));
        self
    }
    /// Remove a record.
    pub fn delete(&mut self, key: String) -> &mut Self {
        self.writes.push(Write::Delete(key));
        self
    }
    /// Whether it would do nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// The book of one node.
pub struct Ledger {
    store: Box<dyn Store>,
    keys: Keys,
    node: NodeName,
    until: Option<Instant>,
    machine: Option<(String, BootId)>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the store that the config names.
    ///
    /// # Errors
    /// When the node has no name or the store cannot be opened.
    pub fn open(config: &Config) -> Result<Self, LedgerError> {
        let node = config.node_name().map_err(LedgerError::Config)?;
        Ok(Self::on(store::open(&config.ledger)?, node))
    }

    /// The book of `node` on this store.
    pub fn on(store: Box<dyn Store>, node: NodeName) -> Self {
        Self { store, keys: Keys::new(&node), node, until: None, machine: None }
    }

    /// The same book for at most `limit` from now: after that it begins no call any more. One that was
    /// begun has the store's own limit. For the hooks, which a runtime waits for.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.until = Some(Instant::now() + limit);
        self
    }

    /// The same book, whose [`Ledger::sight`] makes sure that the node's name is this machine's, as
    /// [`Ledger::bind_node`] does, without a round trip of its own.
    #[must_use]
    pub fn of_machine(mut self, machine_id: String, boot_id: BootId) -> Self {
        self.machine = Some((machine_id, boot_id));
        self
    }

    fn in_time(&self) -> Result<(), LedgerError> {
        match self.until {
            Some(until) if Instant::now() >= until => {
                Err(LedgerError::Store(StoreError::Unreachable(self.store.shown().to_owned())))
            }
            _ => Ok(()),
        }
    }

    /// How its keys are spelled.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
    /// The node's name.
    pub fn node(&self) -> &NodeName {
        &self.node
    }
    /// The store underneath.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Makes sure that the node's name is this machine's, binding it at first use.
    ///
    /// # Errors
    /// [`LedgerError::OtherMachine`], or the store's.
    pub fn bind_node(&self, machine_id: &str, boot_id: &BootId) -> Result<(), LedgerError> {
        for _ in 0..3 {
            if let Some(At { record, .. }) = self.get::<NodeRecord>(&self.keys.node())? {
                return self.is_machine(&record, machine_id);
            }
            let record = NodeRecord {
                schema: SCHEMA,
                node: self.node.clone(),
                machine_id: machine_id.to_owned(),
                boot_id: boot_id.clone(),
                inventory: None,
            };
            let mut batch = Batch::new();
            batch.absent(self.keys.node()).put(self.keys.node(), &record);
            // Written or not, the next round reads what is there now.
            match self.commit(&batch) {
                Ok(_) | Err(LedgerError::Store(StoreError::Unknown(_))) => {}
                Err(e) => return Err(e),
            }
        }
        Err(LedgerError::Store(StoreError::Unreachable(self.store.shown().to_owned())))
    }

    fn is_machine(&self, record: &NodeRecord, machine_id: &str) -> Result<(), LedgerError> {
        if record.machine_id == machine_id {
            Ok(())
        } else {
            Err(LedgerError::OtherMachine(self.node.clone()))
        }
    }

    /// Sees whether the store takes writes: a commit whose condition does not hold.
    ///
    /// # Errors
    /// The store's.
    pub fn try_write(&self) -> Result<(), LedgerError> {
        let mut batch = Batch::new();
        batch.absent(self.keys.node()).delete(self.keys.node());
        self.commit(&batch).map(drop)
    }

    /// One record; `None` where the key has no value.
    ///
    /// # Errors
    /// The store's, or what is wrong with the record.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<At<T>>, LedgerError> {
        self.in_time()?;
        self.store.get(key)?.map(|entry| decode(&entry)).transpose()
    }

    /// All records under a prefix, by key.
    ///
    /// # Errors
    /// As [`Ledger::get`]; one damaged record fails the whole.
    pub fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<At<T>>, LedgerError> {
        self.in_time()?;
        self.store.list(prefix)?.entries.iter().map(decode).collect()
    }

    /// All leases of the node.
    ///
    /// # Errors
    /// As [`Ledger::list`].
    pub fn leases(&self) -> Result<Leases, LedgerError> {
        let leases: Vec<At<Lease>> = self.list(&self.keys.leases())?;
        Ok(by_unit(leases))
    }

    /// All leases and open changes, of one moment and in one round trip.
    ///
    /// # Errors
    /// As [`Ledger::list`], and [`LedgerError::OtherMachine`] where the machine was said.
    pub fn sight(&self) -> Result<Sight, LedgerError> {
        let mut ranges =
            vec![Range::Prefix(self.keys.leases()), Range::Prefix(self.keys.operations())];
        if self.machine.is_some() {
            ranges.push(Range::Key(self.keys.node()));
        }
        self.in_time()?;
        let mut parts = self.store.read(&ranges)?.parts.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let (leases, open, node) = (part(), part(), part());
        if let Some((machine_id, boot_id)) = &self.machine {
            match node.first() {
                Some(entry) => self.is_machine(&decode(entry)?.record, machine_id)?,
                None => self.bind_node(machine_id, boot_id)?,
            }
        }
        let open = open.iter().map(decode::<Operation>);
        Ok(Sight {
            leases: by_unit(leases.iter().map(decode).collect::<Result<_, _>>()?),
            changing: open.map(|at| Ok(at?.record.name)).collect::<Result<_, LedgerError>>()?,
        })
    }

    /// The binding of a container.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn binding(&self, id: &ContainerId) -> Result<Option<At<Binding>>, LedgerError> {
        self.get(&self.keys.binding(id))
    }

    /// The record of a managed container.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn container(
        &self,
        name: &ContainerName,
    ) -> Result<Option<At<ContainerRecord>>, LedgerError> {
        self.get(&self.keys.container(name))
    }

    /// One version of a managed container.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn version(
        &self,
        name: &ContainerName,
        version: Version,
    ) -> Result<Option<At<VersionRecord>>, LedgerError> {
        self.get(&self.keys.version(name, version))
    }

    /// The journal of the change to a container that is under way.
    ///
    /// # Errors
    /// As [`Ledger::get`].
    pub fn operation(&self, name: &ContainerName) -> Result<Option<At<Operation>>, LedgerError> {
        self.get(&self.keys.operation(name))
    }

    /// The names of the containers to which a change is open.
    ///
    /// # Errors
    /// As [`Ledger::list`].
    pub fn changing(&self) -> Result<Vec<ContainerName>, LedgerError> {
        let open: Vec<At<Operation>> = self.list(&self.keys.operations())?;
        Ok(open.into_iter().map(|at| at.record.name).collect())
    }

    /// All of a batch, or nothing of it.
    ///
    /// # Errors
    /// The store's; after [`StoreError::Unknown`] it may have happened.
    pub fn commit(&self, batch: &Batch) -> Result<Outcome, LedgerError> {
        self.in_time()?;
        Ok(self.store.commit(&batch.conditions, &batch.writes)?)
    }

    /// A batch whose lost answer is read back: `proof` looks whether it has happened.
    ///
    /// # Errors
    /// The store's, also when the reading back fails; then it is still unknown.
    pub fn commit_proved(
        &self,
        batch: &Batch,
        proof: impl Fn(&Self) -> Result<bool, LedgerError>,
    ) -> Result<Outcome, LedgerError> {
        match self.commit(batch) {
            Err(LedgerError::Store(StoreError::Unknown(shown))) => {
                if proof(self)? {
                    Ok(Outcome::Done(Revision(0)))
                } else {
                    // It may still arrive: only its conditions, which then fail or hold, decide.
                    Err(LedgerError::Store(StoreError::Unknown(shown)))
                }
            }
            other => other,
        }
    }

    /// Frees the leases of `container` that stand under `token`: all, or those of `only`.
    /// What stands under another token, or is not there, is left and is no fault.
    ///
    /// The caller has seen the holder gone.
    ///
    /// # Errors
    /// The store's.
    pub fn release(
        &self,
        container: &ContainerId,
        token: Option<&Token>,
        only: Option<&[Unit]>,
    ) -> Result<Vec<Unit>, LedgerError> {
        self.change_leases(container, token, |lease| {
            if only.is_some_and(|only| !only.contains(&lease.unit)) {
                Change::Keep
            } else {
                Change::Delete
            }
        })
    }

    /// Changes the leases of `container` under `token` (any token for `None`), each as `decide`
    /// says, in one commit; tried again when somebody else was quicker. The units changed.
    ///
    /// # Errors
    /// The store's.
    pub fn change_leases(
        &self,
        container: &ContainerId,
        token: Option<&Token>,
        decide: impl Fn(&Lease) -> Change,
    ) -> Result<Vec<Unit>, LedgerError> {
        self.change_leases_seen(self.leases()?, container, token, decide)
    }

    /// As [`Ledger::change_leases`], where the leases have just been read.
    ///
    /// # Errors
    /// The store's.
    pub fn change_leases_seen(
        &self,
        seen: Leases,
        container: &ContainerId,
        token: Option<&Token>,
        decide: impl Fn(&Lease) -> Change,
    ) -> Result<Vec<Unit>, LedgerError> {
        let mut seen = Some(seen);
        for _ in 0..16 {
            let mut batch = Batch::new();
            let mut changed = Vec::new();
            let leases = match seen.take() {
                Some(seen) => seen,
                None => self.leases()?,
            };
            for (unit, lease) in leases {
                let mine = lease.record.holder.container == *container
                    && token.is_none_or(|token| lease.record.token == *token);
                if !mine {
                    continue;
                }
                let key = self.keys.lease(&unit);
                match decide(&lease.record) {
                    Change::Keep => continue,
                    Change::Delete => batch.at(key.clone(), lease.revision).delete(key),
                    Change::Put(new) => batch.at(key.clone(), lease.revision).put(key, &*new),
                };
                changed.push(unit);
            }
            if batch.is_empty() {
                return Ok(changed);
            }
            match self.commit(&batch) {
                Ok(Outcome::Done(_)) => return Ok(changed),
                // Lost answers are safe to look at again: what is done is no longer found.
                Ok(Outcome::Conflict) | Err(LedgerError::Store(StoreError::Unknown(_))) => {}
                Err(e) => return Err(e),
            }
        }
        Err(LedgerError::Store(StoreError::Unreachable(self.store.shown().to_owned())))
    }
}

/// What becomes of a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// It is freed.
    Delete,
    /// It is written anew.
    Put(Box<Lease>),
}

fn by_unit(leases: Vec<At<Lease>>) -> Leases {
    leases.into_iter().map(|lease| (lease.record.unit.clone(), lease)).collect()
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<At<T>, LedgerError> {
    let damaged = || LedgerError::Damaged(entry.key.clone());
    let value: Value = serde_json::from_slice(&entry.value).map_err(|_| damaged())?;
    let found = value.get("schema").and_then(Value::as_u64).ok_or_else(damaged)?;
    if found > u64::from(SCHEMA) {
        return Err(LedgerError::TooNew { key: entry.key.clone(), found });
    }
    let record = serde_json::from_value(value).map_err(|_| damaged())?;
    Ok(At { record, revision: entry.revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LedgerConfig;

    #[test]
    fn after_its_time_a_hooks_ledger_begins_no_call() {
        let open = || {
            let config = LedgerConfig { url: "sqlite::memory:".into(), ..LedgerConfig::default() };
            Ledger::on(store::open(&config).unwrap(), NodeName::new("n").unwrap())
        };
        assert!(open().within(Duration::from_secs(60)).leases().is_ok());
        let late = open().within(Duration::ZERO);
        assert!(matches!(late.leases(), Err(LedgerError::Store(StoreError::Unreachable(_)))));
        let mut batch = Batch::new();
        batch.put("/k".into(), &1);
        assert!(matches!(late.commit(&batch), Err(LedgerError::Store(StoreError::Unreachable(_)))));
    }
}
