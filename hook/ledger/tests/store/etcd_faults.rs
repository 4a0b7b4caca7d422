//! What etcd's clients meet: members that die or hang, quotas, compaction, users, TLS.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Permission, PermissionType};
use gpuctl_ledger::config::LedgerConfig;
use gpuctl_ledger::store::{
    Condition, EtcdStore, Outcome, Revision, Store, StoreError, Write, open,
};
use nix::sys::signal::Signal;

use crate::LIMIT;
use crate::etcd_server::{Cluster, Tls, options, until};
use crate::suite::{collect, done, put};

/// Longer than a limit, for a loaded machine.
const SLACK: Duration = Duration::from_millis(700);

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}

/// An asynchronous runtime, for etcd's own client.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Commits by several writers go on while one of three members is killed. Each commit carries a
/// token; one whose answer is lost is read back by it. In the end nothing is counted twice or lost.
#[test]
fn no_commit_is_lost_or_doubled_when_a_member_is_killed() {
    const WRITERS: usize = 4;
    const EACH: usize = 40;
    let Some(mut cluster) = Cluster::start(3, &[]) else { return };
    done(&cluster.store(LIMIT), &[], &[put("/sum", b"0")]);
    let stores: Vec<_> = (0..WRITERS).map(|_| cluster.store(LIMIT)).collect();
    let unknown = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (writer, store) in stores.iter().enumerate() {
            let unknown = &unknown;
            scope.spawn(move || {
                for i in 0..EACH {
                    raise(store, &format!("/token/{writer}/{i}"), unknown);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(150));
        // The one that all of them talk to.
        cluster.members[0].kill();
    });
    println!("{} answers were lost", unknown.load(Ordering::Relaxed));
    let store = &stores[0];
    let total = store.get("/sum").unwrap().unwrap().value;
    assert_eq!(String::from_utf8_lossy(&total), (WRITERS * EACH).to_string());
    assert_eq!(store.list("/token/").unwrap().entries.len(), WRITERS * EACH);
}

fn raise(store: &EtcdStore, token: &str, unknown: &AtomicUsize) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while Instant::now() < deadline {
        let Ok(Some(sum)) = store.get("/sum") else { continue };
        let n: usize = String::from_utf8_lossy(&sum.value).parse().unwrap();
        let conditions =
            [Condition::At("/sum".into(), sum.revision), Condition::Absent(token.into())];
        let writes = [put("/sum", (n + 1).to_string().as_bytes()), put(token, b"")];
        match store.commit(&conditions, &writes) {
            Ok(Outcome::Done(_)) => return,
            Ok(Outcome::Conflict) | Err(StoreError::Unreachable(_)) => {}
            Err(StoreError::Unknown(_)) => {
                unknown.fetch_add(1, Ordering::Relaxed);
                let mut written = false;
                until("read back", || {
                    store.get(token).map(|entry| written = entry.is_some()).is_ok()
                });
                if written {
                    return;
                }
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("not in time");
}

#[test]
fn a_member_that_hangs_is_bounded_and_its_commits_unknown() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let limit = Duration::from_millis(1500);
    let store = cluster.store(limit);
    done(&store, &[], &[put("/a", b"1")]);
    let mut watch = store.watch("/", Revision(1)).unwrap();
    collect(&mut *watch, 1);
    cluster.members[0].signal(Signal::SIGSTOP);
    // It has just answered, so the commit is sent.
    let (commit, took) = timed(|| store.commit(&[], &[put("/b", b"")]));
    assert!(matches!(commit, Err(StoreError::Unknown(_))), "{commit:?}");
    assert!(took < limit + SLACK, "{took:?}");
    // Now it is asked first, and no commit is sent.
    let (commit, took) = timed(|| store.commit(&[], &[put("/c", b"")]));
    assert!(matches!(commit, Err(StoreError::Unreachable(_))), "{commit:?}");
    assert!(took < limit + SLACK, "{took:?}");
    for read in [&|| store.get("/a").map(drop), &|| store.list("/").map(drop), &|| {
        store.watch("/", Revision(1)).map(drop)
    }] as [&dyn Fn() -> Result<(), StoreError>; 3]
    {
        let (read, took) = timed(read);
        assert!(matches!(read, Err(StoreError::Unreachable(_))), "{read:?}");
        assert!(took < limit + SLACK, "{took:?}");
    }
    let (changes, took) = timed(|| watch.next(Duration::from_millis(300)));
    assert_eq!(changes, Ok(Vec::new()));
    assert!(took < Duration::from_millis(300) + SLACK, "{took:?}");
    cluster.members[0].signal(Signal::SIGCONT);
    until("it goes on", || store.get("/a").is_ok());
    assert_eq!(store.get("/c").unwrap(), None, "called unreachable, so it was never sent");
    done(&store, &[], &[put("/d", b"")]);
    // A connection that has been idle is asked first as well, and its commit not sent.
    std::thread::sleep(Duration::from_millis(1200));
    cluster.members[0].signal(Signal::SIGSTOP);
    let commit = store.commit(&[], &[put("/e", b"")]);
    assert!(matches!(commit, Err(StoreError::Unreachable(_))), "{commit:?}");
    cluster.members[0].signal(Signal::SIGCONT);
    until("it goes on", || store.get("/a").is_ok());
    assert_eq!(store.get("/e").unwrap(), None);
}

/// Someone who accepts connections and says nothing stands first in the list.
#[test]
fn a_silent_member_is_passed_over() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    let members = [&silent_address, &cluster.members[0].address];
    let limit = Duration::from_secs(2);
    let store = EtcdStore::open(options(&members.map(|m| m.as_str()), limit));
    let (outcome, took) = timed(|| store.commit(&[], &[put("/a", b"1")]));
    assert!(matches!(outcome, Ok(Outcome::Done(_))), "{outcome:?}");
    assert!(took < limit, "{took:?}");
    // From then on the one that answers is asked first.
    let (entry, took) = timed(|| store.get("/a"));
    assert!(entry.unwrap().is_some());
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn nobody_there_is_bounded_and_opening_takes_no_time() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let limit = Duration::from_millis(600);
    for members in [&[free.as_str()][..], &["192.0.2.1:2379"], &["name.invalid:2379"]] {
        let (store, took) = timed(|| EtcdStore::open(options(members, limit)));
        assert!(took < Duration::from_millis(50), "{took:?}");
        let (read, took) = timed(|| store.get("/a"));
        assert!(matches!(read, Err(StoreError::Unreachable(_))), "{read:?}");
        assert!(took < limit + SLACK, "{took:?}");
        let (commit, took) = timed(|| store.commit(&[], &[put("/a", b"")]));
        assert!(matches!(commit, Err(StoreError::Unreachable(_))), "{commit:?}");
        assert!(took < limit + SLACK, "{took:?}");
        let ((), took) = timed(|| drop(store));
        assert!(took < SLACK, "{took:?}");
    }
}

#[test]
fn it_can_be_used_and_dropped_within_another_runtime() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let address = cluster.members[0].address.clone();
    runtime().block_on(async move {
        let store = EtcdStore::open(options(&[&address], LIMIT));
        let revision = done(&store, &[], &[put("/a", b"1")]);
        assert_eq!(store.get("/a").unwrap().unwrap().revision, revision);
        let mut watch = store.watch("/", Revision(1)).unwrap();
        drop(store);
        assert_eq!(collect(&mut *watch, 1).len(), 1);
    });
}

/// A watch whose member dies says so; begun anew from the last revision seen it misses nothing and
/// repeats nothing.
#[test]
fn a_watch_goes_on_at_another_member() {
    let Some(mut cluster) = Cluster::start(3, &[]) else { return };
    let store = Arc::new(cluster.store(LIMIT));
    let writer = cluster.store(LIMIT);
    done(&writer, &[], &[put("/w/0", b"")]);
    let mut last = Revision(1);
    let mut seen = Vec::new();
    let mut watch = store.watch("/w/", last).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 1..60 {
                // Repeated on Unknown: were it done already, this is a conflict and as good.
                let key = format!("/w/{i}");
                until("written", || {
                    let absent = [Condition::Absent(key.clone())];
                    writer.commit(&absent, &[put(&key, b"")]).is_ok()
                });
                std::thread::sleep(Duration::from_millis(5));
            }
            over.store(true, Ordering::SeqCst);
        });
        let (mut killed, mut errors) = (false, 0);
        let deadline = Instant::now() + Duration::from_secs(40);
        while (seen.len() < 60 || !over.load(Ordering::SeqCst)) && Instant::now() < deadline {
            if seen.len() > 10 && !killed {
                cluster.members[0].kill();
                killed = true;
            }
            match watch.next(Duration::from_millis(200)) {
                Ok(changes) => {
                    for change in changes {
                        let gpuctl_ledger::store::Change::Put(entry) = change else { panic!() };
                        last = entry.revision;
                        seen.push(entry.key);
                    }
                }
                Err(StoreError::Unreachable(_)) => {
                    errors += 1;
                    until("a new watch", || {
                        store.watch("/w/", last).map(|new| watch = new).is_ok()
                    });
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(killed && errors > 0, "the watch never noticed");
    });
    assert_eq!(seen, (0..60).map(|i| format!("/w/{i}")).collect::<Vec<_>>());
}

#[test]
fn what_is_compacted_says_so() {
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let store = cluster.store(LIMIT);
    for i in 0..5_u8 {
        done(&store, &[], &[put("/a", &[i])]);
    }
    let now = store.list("/").unwrap().revision;
    let address = cluster.members[0].address.clone();
    runtime().block_on(async {
        let mut client = Client::connect([address], None).await.unwrap();
        client.compact(now.0, None).await.unwrap();
    });
    let watched =
        store.watch("/", Revision(1)).and_then(|mut watch| watch.next(Duration::from_secs(5)));
    assert_eq!(watched, Err(StoreError::Compacted));
    assert_eq!(store.watch("/", Revision(-1)).err(), Some(StoreError::Compacted));
    let mut watch = store.watch("/", now).unwrap();
    done(&store, &[], &[put("/a", b"new")]);
    assert_eq!(collect(&mut *watch, 1).len(), 1);
}

#[test]
fn a_used_up_quota_is_not_writable_and_can_be_read() {
    let Some(cluster) = Cluster::start(1, &["--quota-backend-bytes", "6000000"]) else { return };
    let store = cluster.store(LIMIT);
    done(&store, &[], &[put("/a", b"1")]);
    let large = || Write::Put("/large".into(), vec![0; 1_000_000]);
    let refused = (0..20).find_map(|_| store.commit(&[], &[large()]).err());
    assert!(matches!(refused, Some(StoreError::NotWritable(..))), "{refused:?}");
    assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
}

/// Sets up users as docs say: root, and a node that may use its own prefix only.
fn set_up_users(address: &str) {
    runtime().block_on(async {
        let mut client = Client::connect([address], None).await.unwrap();
        client.user_add("root", "root", None).await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.role_add("gpu1").await.unwrap();
        let own = Permission::new(PermissionType::Readwrite, "/gpu1/").with_range_end("/gpu10");
        client.role_grant_permission("gpu1", own).await.unwrap();
        client.user_add("gpu1", "secret", None).await.unwrap();
        client.user_grant_role("gpu1", "gpu1").await.unwrap();
        client.auth_enable().await.unwrap();
    });
}

#[test]
fn users_have_their_own_prefix_and_tokens_are_renewed() {
    let Some(mut cluster) = Cluster::start(1, &[]) else { return };
    let address = cluster.members[0].address.clone();
    set_up_users(&address);
    let as_user = |user: Option<(&str, &str)>| {
        let mut options = options(&[&address], LIMIT);
        options.user = user.map(|(u, p)| (u.to_owned(), p.to_owned()));
        EtcdStore::open(options)
    };
    let denied = |store: &EtcdStore, key: &str| {
        let (read, took) = timed(|| store.get(key));
        assert!(matches!(read, Err(StoreError::Denied(_))), "{read:?}");
        assert!(took < LIMIT, "{took:?}");
        let commit = store.commit(&[], &[put(key, b"")]);
        assert!(matches!(commit, Err(StoreError::Denied(_))), "{commit:?}");
    };
    denied(&as_user(None), "/gpu1/a");
    denied(&as_user(Some(("gpu1", "wrong"))), "/gpu1/a");
    denied(&as_user(Some(("nobody", "secret"))), "/gpu1/a");
    let store = as_user(Some(("gpu1", "secret")));
    denied(&store, "/gpu2/a");
    let revision = done(&store, &[], &[put("/gpu1/a", b"1")]);
    assert_eq!(store.list("/gpu1/").unwrap().entries.len(), 1);
    assert!(matches!(store.list("/").err(), Some(StoreError::Denied(_))));
    let mut watch = store.watch("/gpu1/", Revision(revision.0 - 1)).unwrap();
    assert_eq!(collect(&mut *watch, 1).len(), 1);
    assert!(matches!(store.watch("/gpu2/", revision).err(), Some(StoreError::Denied(_))));
    // A restart forgets all tokens.
    cluster.members[0].kill();
    cluster.members[0].start();
    until("it is back", || store.get("/gpu1/a").is_ok());
    done(&store, &[], &[put("/gpu1/a", b"2")]);
    // So does a change of the password, while the connection stays.
    runtime().block_on(async {
        let as_root = etcd_client::ConnectOptions::new().with_user("root", "root");
        let mut root = Client::connect([&address], Some(as_root)).await.unwrap();
        root.user_change_password("gpu1", "secret").await.unwrap();
    });
    done(&store, &[], &[put("/gpu1/a", b"3")]);
    assert_eq!(store.get("/gpu1/a").unwrap().unwrap().value, b"3");
}

#[test]
fn tls_with_certificates_from_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tls) = Tls::make(folder.path()) else { return };
    let pem = |name: &str| Some(tls.folder.join(name));
    let Some(cluster) = Cluster::start_in(tempfile::tempdir().unwrap(), 1, &[], Some(&tls)) else {
        return;
    };
    let address = &cluster.members[0].address;
    let config = LedgerConfig {
        url: format!("etcds://{address}"),
        ca_file: pem("ca.pem"),
        cert_file: pem("client.pem"),
        key_file: pem("client.key"),
        ..LedgerConfig::default()
    };
    let store = open(&config).unwrap();
    until("it starts", || store.get("/a").is_ok());
    done(&*store, &[], &[put("/a", b"1")]);
    assert_eq!(store.shown(), config.url);

    let refused = |change: &dyn Fn(&mut LedgerConfig)| {
        let mut config = LedgerConfig { timeout_ms: 800, ..config.clone() };
        change(&mut config);
        let read = open(&config).unwrap().get("/a");
        assert!(matches!(read, Err(StoreError::Unreachable(_))), "{read:?}");
    };
    refused(&|c| (c.cert_file, c.key_file) = (None, None));
    let other = tempfile::tempdir().unwrap();
    let other = Tls::make(other.path()).unwrap();
    refused(&|c| c.ca_file = Some(other.folder.join("ca.pem")));
}
