//! The members of the cluster: one connection each, made when needed, and from a member that does
//! not answer on to the next.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions, Txn, TxnResponse};
use etcd_client::{GetOptions, KvClient};
use tokio::time::{Instant, sleep, timeout};

use super::EtcdOptions;
use super::failure::{Fault, judge};
use crate::store::StoreError;

/// So recently a member must have answered for a commit to be sent to it without asking first.
const PROVEN_FOR: Duration = Duration::from_secs(1);
/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(50);
/// Pings on connections that carry a watch. etcd breaks with those who ping more often than 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
pub(super) const LARGEST_ANSWER: usize = 128 * 1024 * 1024;

/// See the module.
pub(super) struct Members {
    options: EtcdOptions,
    pub(super) shown: String,
    state: Mutex<State>,
}

struct State {
    /// The member that answered last.
    current: usize,
    /// By member: its connection, if there is one.
    links: Vec<Option<Link>>,
    /// Tells one connection from the next to the same member.
    made: u64,
}

#[derive(Clone)]
struct Link {
    client: Client,
    number: u64,
    proven: Option<Instant>,
}

/// A connection in use.
struct Use {
    member: usize,
    client: Client,
    number: u64,
    /// Made for this call: its credentials are as fresh as they get.
    fresh: bool,
}

impl Members {
    /// Of these options. Connects to nothing.
    pub(super) fn new(options: EtcdOptions) -> Self {
        let scheme = if options.tls.is_some() { "etcds" } else { "etcd" };
        let shown = format!("{scheme}://{}", options.members.join(","));
        let links = options.members.iter().map(|_| None).collect();
        Self { options, shown, state: Mutex::new(State { current: 0, links, made: 0 }) }
    }

    /// Longest time for one call.
    pub(super) fn limit(&self) -> Duration {
        self.options.timeout
    }

    /// What is said when nobody answers.
    pub(super) fn unreachable(&self) -> StoreError {
        StoreError::Unreachable(self.shown.clone())
    }

    /// How a client's error is to be taken.
    pub(super) fn judge(&self, error: &etcd_client::Error) -> Fault {
        judge(&self.shown, error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks members in turn until one answers: for what may be asked twice. Each gets its share of
    /// the time that is left.
    ///
    /// # Errors
    /// [`StoreError`], never [`StoreError::Unknown`].
    pub(super) async fn ask<T, F>(
        &self,
        deadline: Instant,
        request: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let count = self.options.members.len();
        let first = self.state().current;
        let mut renewed = false;
        let mut step = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || count == 0 {
                return Err(self.unreachable());
            }
            let asked = step % count;
            let member = (first + asked) % count;
            let share = left / u32::try_from(count - asked).unwrap_or(1);
            let (link, answer) = self.ask_one(member, share, &request).await;
            match answer {
                Ok(answer) => {
                    self.prove(link);
                    return Ok(answer);
                }
                // The token of an older connection may have expired: once more with a new one.
                Err(Fault::Final(StoreError::Denied(_)))
                    if !renewed && link.as_ref().is_some_and(|l| !l.fresh) =>
                {
                    renewed = true;
                    self.forget(link);
                    continue;
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Again | Fault::Broken) => self.forget(link),
            }
            step += 1;
            if step % count == 0 {
                sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    async fn ask_one<T, F>(
        &self,
        member: usize,
        share: Duration,
        request: &impl Fn(Client) -> F,
    ) -> (Option<Use>, Result<T, Fault>)
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let until = Instant::now() + share;
        let link = match timeout(share, self.link(member)).await {
            Ok(Ok(link)) => link,
            Ok(Err(fault)) => return (None, Err(fault)),
            Err(_) => return (None, Err(Fault::Again)),
        };
        let left = until.saturating_duration_since(Instant::now());
        let answer = timeout(left, request(link.client.clone())).await;
        (Some(link), answer.unwrap_or(Err(Fault::Broken)))
    }

    /// Sends a commit, once. It goes to a member that has just answered: one that hangs is found
    /// out by a question that may be repeated, not by the commit, which may not. `key` is one that
    /// may be read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn commit(
        &self,
        deadline: Instant,
        key: &str,
        txn: &Txn,
    ) -> Result<TxnResponse, StoreError> {
        let mut renewed = false;
        loop {
            let Some(link) = self.proven() else {
                self.ask(deadline, |client| async move {
                    let options = GetOptions::new().with_count_only();
                    let answer = kv(&client).get(key, Some(options)).await;
                    answer.map_err(|e| self.judge(&e))
                })
                .await?;
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.unreachable());
            }
            let fault = match timeout(left, kv(&link.client).txn(txn.clone())).await {
                Ok(Ok(answer)) => {
                    self.prove(Some(link));
                    return Ok(answer);
                }
                Ok(Err(error)) => self.judge(&error),
                Err(_) => Fault::Broken,
            };
            self.forget(Some(link));
            match fault {
                Fault::Again => sleep(PAUSE.min(left)).await,
                Fault::Broken => return Err(StoreError::Unknown(self.shown.clone())),
                Fault::Final(StoreError::Denied(_)) if !renewed => renewed = true,
                Fault::Final(error) => return Err(error),
            }
        }
    }

    /// The connection to the current member, if it answered just now.
    fn proven(&self) -> Option<Use> {
        let state = self.state();
        let member = state.current;
        let link = state.links.get(member)?.as_ref()?;
        link.proven.filter(|at| at.elapsed() < PROVEN_FOR)?;
        Some(Use { member, client: link.client.clone(), number: link.number, fresh: false })
    }

    /// Notes that a member answered.
    fn prove(&self, link: Option<Use>) {
        let Some(Use { member, number, .. }) = link else { return };
        let mut state = self.state();
        state.current = member;
        if let Some(Some(link)) = state.links.get_mut(member)
            && link.number == number
        {
            link.proven = Some(Instant::now());
        }
    }

    /// Gives up a connection, unless another call has already made a new one.
    fn forget(&self, link: Option<Use>) {
        let Some(Use { member, number, .. }) = link else { return };
        if let Some(slot) = self.state().links.get_mut(member)
            && slot.as_ref().is_some_and(|l| l.number == number)
        {
            *slot = None;
        }
    }

    /// A connection to a member, the one that there is or a new one.
    async fn link(&self, member: usize) -> Result<Use, Fault> {
        if let Some(Some(link)) = self.state().links.get(member) {
            let Link { client, number, .. } = link.clone();
            return Ok(Use { member, client, number, fresh: false });
        }
        let address = self.options.members.get(member).ok_or(Fault::Again)?;
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let client = Client::connect([url], Some(self.connect_options())).await.map_err(|e| {
            // Nothing but the question who we are has been sent.
            match self.judge(&e) {
                Fault::Broken => Fault::Again,
                fault => fault,
            }
        })?;
        let mut state = self.state();
        state.made += 1;
        let number = state.made;
        if let Some(slot) = state.links.get_mut(member) {
            *slot = Some(Link { client: client.clone(), number, proven: None });
        }
        Ok(Use { member, client, number, fresh: true })
    }

    fn connect_options(&self) -> ConnectOptions {
        // Half of a member's share, so that a host that is off leaves time for the others.
        let members = u32::try_from(self.options.members.len()).unwrap_or(1).max(1);
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.options.timeout / (2 * members))
            .with_keep_alive(PING_EVERY, self.options.timeout)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some((user, password)) = &self.options.user {
            options = options.with_user(user, password);
        }
        if let Some((authority, identity)) = &self.options.tls {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority));
            if let Some((cert, key)) = identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        options
    }
}

/// The client for keys, with room for long listings.
pub(super) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
}
