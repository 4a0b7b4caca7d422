//! What every store does. Each case has a prefix of its own, so that all can run on one store, one
//! after another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpuctl_ledger::store::{
    Change, Condition, LARGEST_VALUE, LONGEST_KEY, Outcome, Range, Revision, Store, StoreError,
    Watch, Write,
};

/// A case: its name, and what it does with a store.
pub(crate) type Case = (&'static str, fn(&Arc<dyn Store>));

/// Every case.
pub(crate) const CASES: &[Case] = &[
    ("get", get),
    ("list", list),
    ("several ranges", several_ranges),
    ("conditions", conditions),
    ("a conflict writes nothing", conflict_writes_nothing),
    ("delete", delete),
    ("deleting nothing", delete_nothing),
    ("revisions", revisions),
    ("limits", limits),
    ("binary and empty values", values),
    ("eight threads count", eight_threads_count),
    ("watch", watch_in_order),
    ("watch from a revision", watch_resumes),
    ("watch of a quiet prefix", watch_quiet),
    ("watch wakes", watch_wakes),
];

pub(crate) fn all(store: &Arc<dyn Store>) {
    cases(store, CASES);
}

pub(crate) fn cases(store: &Arc<dyn Store>, cases: &[Case]) {
    for (name, case) in cases {
        println!("{}: {name}", store.shown());
        case(store);
    }
}

pub(crate) fn put(key: &str, value: &[u8]) -> Write {
    Write::Put(key.into(), value.to_vec())
}

/// A commit that must be done.
pub(crate) fn done(store: &dyn Store, conditions: &[Condition], writes: &[Write]) -> Revision {
    match store.commit(conditions, writes) {
        Ok(Outcome::Done(revision)) => revision,
        other => panic!("not done: {other:?}"),
    }
}

fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|e| e.value)
}

fn get(store: &Arc<dyn Store>) {
    assert_eq!(store.get("/get/a").unwrap(), None);
    let revision = done(&**store, &[], &[put("/get/a", b"1")]);
    let entry = store.get("/get/a").unwrap().unwrap();
    assert_eq!(
        (entry.key.as_str(), &entry.value[..], entry.revision),
        ("/get/a", &b"1"[..], revision)
    );
    assert_eq!(store.get("/get/").unwrap(), None, "a prefix is no key");
    assert_eq!(store.get("/get/a/").unwrap(), None);
}

fn list(store: &Arc<dyn Store>) {
    let keys =
        ["/list", "/list.", "/list/", "/list/a", "/list/a/b", "/list/b", "/list/~", "/list0"];
    let writes: Vec<_> = keys.iter().map(|k| put(k, k.as_bytes())).collect();
    let revision = done(&**store, &[], &writes);
    let listed = |prefix: &str| {
        let listing = store.list(prefix).unwrap();
        assert!(listing.revision >= revision);
        listing
            .entries
            .into_iter()
            .map(|e| {
                assert_eq!((e.key.as_bytes(), e.revision), (&e.value[..], revision));
                e.key
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("/list/"), ["/list/", "/list/a", "/list/a/b", "/list/b", "/list/~"]);
    assert_eq!(listed("/list/a"), ["/list/a", "/list/a/b"]);
    assert_eq!(listed("/list/~"), ["/list/~"]);
    assert_eq!(listed("/list"), keys);
    assert!(listed("/list/c").is_empty());
    assert!(store.list("").unwrap().entries.len() >= keys.len());
}

fn several_ranges(store: &Arc<dyn Store>) {
    let keys = ["/several/a/1", "/several/a/2", "/several/b", "/several/b/1"];
    let writes: Vec<_> = keys.iter().map(|k| put(k, k.as_bytes())).collect();
    let revision = done(&**store, &[], &writes);
    let key = |key: &str| Range::Key(key.into());
    let prefix = |prefix: &str| Range::Prefix(prefix.into());
    let asked =
        [prefix("/several/a/"), key("/several/b"), key("/several/none"), prefix("/several/none/")];
    let read = store.read(&asked).unwrap();
    assert!(read.revision >= revision);
    let found: Vec<Vec<_>> =
        read.parts.iter().map(|part| part.iter().map(|e| e.key.as_str()).collect()).collect();
    assert_eq!(found, [&keys[..2], &keys[2..3], &[], &[]], "by range, and as asked");
    for entry in read.parts.iter().flatten() {
        assert_eq!((entry.key.as_bytes(), entry.revision), (&entry.value[..], revision));
    }
    assert_eq!(store.read(&[key("/several/b"), key("")]), Err(StoreError::BadRecord));
    // One view: what is written together is seen together.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0_u32..50 {
                let n = i.to_le_bytes();
                done(&**store, &[], &[put("/several/x", &n), put("/several/y", &n)]);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let read = store.read(&[key("/several/y"), prefix("/several/x")]).unwrap();
            let values: Vec<_> =
                read.parts.iter().map(|part| part.first().map(|e| &e.value)).collect();
            assert_eq!(values[0], values[1]);
        }
    });
}

fn conditions(store: &Arc<dyn Store>) {
    let (a, b) = ("/cond/a".to_owned(), "/cond/b".to_owned());
    let first = done(&**store, &[Condition::Absent(a.clone())], &[put(&a, b"1")]);
    let holds =
        |c: &[Condition]| store.commit(c, &[put("/cond/x", b"")]).unwrap() != Outcome::Conflict;
    assert!(!holds(&[Condition::Absent(a.clone())]));
    assert!(holds(&[Condition::At(a.clone(), first)]));
    assert!(!holds(&[Condition::At(a.clone(), Revision(first.0 - 1))]));
    assert!(!holds(&[Condition::At(a.clone(), Revision(first.0 + 1))]));
    assert!(!holds(&[Condition::At(b.clone(), first)]), "what is absent is at no revision");
    assert!(!holds(&[Condition::At(b.clone(), Revision(0))]), "not even at 0");
    assert!(!holds(&[Condition::At(a.clone(), first), Condition::Absent(a.clone())]));
    assert!(holds(&[Condition::At(a.clone(), first), Condition::Absent(b)]));
    let second = done(&**store, &[Condition::At(a.clone(), first)], &[put(&a, b"2")]);
    assert!(!holds(&[Condition::At(a.clone(), first)]), "written since");
    assert!(holds(&[Condition::At(a, second)]));
}

fn conflict_writes_nothing(store: &Arc<dyn Store>) {
    done(&**store, &[], &[put("/conf/taken", b"old")]);
    let before = store.list("/conf/").unwrap();
    let outcome = store.commit(
        &[Condition::Absent("/conf/free".into()), Condition::Absent("/conf/taken".into())],
        &[put("/conf/free", b"new"), put("/conf/taken", b"new"), put("/conf/third", b"new")],
    );
    assert_eq!(outcome, Ok(Outcome::Conflict));
    assert_eq!(store.list("/conf/").unwrap(), before, "neither entries nor the revision");
}

fn delete(store: &Arc<dyn Store>) {
    let key = "/del/a".to_owned();
    let first = done(&**store, &[], &[put(&key, b"1"), put("/del/b", b"stays")]);
    let gone = done(&**store, &[Condition::At(key.clone(), first)], &[Write::Delete(key.clone())]);
    assert!(gone > first);
    assert_eq!(store.get(&key).unwrap(), None);
    assert_eq!(value(&**store, "/del/b"), Some(b"stays".to_vec()));
    assert_eq!(
        store.commit(&[Condition::At(key.clone(), first)], &[put(&key, b"2")]),
        Ok(Outcome::Conflict)
    );
    let again = done(&**store, &[Condition::Absent(key.clone())], &[put(&key, b"3")]);
    assert!(again > gone);
    assert_eq!(value(&**store, &key), Some(b"3".to_vec()));
}

fn delete_nothing(store: &Arc<dyn Store>) {
    let before = store.list("/none/").unwrap().revision;
    assert_eq!(done(&**store, &[], &[Write::Delete("/none/a".into())]), before);
    assert_eq!(done(&**store, &[Condition::Absent("/none/a".into())], &[]), before);
    let mixed = done(&**store, &[], &[Write::Delete("/none/a".into()), put("/none/b", b"")]);
    assert!(mixed > before);
}

fn revisions(store: &Arc<dyn Store>) {
    let mut last = store.list("/rev/").unwrap().revision;
    for i in 0..5 {
        let revision = done(&**store, &[], &[put(&format!("/rev/{i}"), b""), put("/rev/all", b"")]);
        assert!(revision > last);
        last = revision;
    }
    let listing = store.list("/rev/").unwrap();
    assert_eq!(listing.revision, last);
    let of: BTreeMap<_, _> = listing.entries.iter().map(|e| (&e.key[..], e.revision)).collect();
    assert!((1..5).all(|i| of[&*format!("/rev/{i}")] > of[&*format!("/rev/{}", i - 1)]));
    assert_eq!(of["/rev/all"], last);
}

fn limits(store: &Arc<dyn Store>) {
    let largest = vec![0x55; LARGEST_VALUE];
    done(&**store, &[], &[Write::Put("/lim/a".into(), largest.clone())]);
    assert_eq!(value(&**store, "/lim/a").as_ref(), Some(&largest));
    let longest = format!("/lim/{}", "k".repeat(LONGEST_KEY - 5));
    done(&**store, &[], &[put(&longest, b"x")]);
    assert_eq!(value(&**store, &longest), Some(b"x".to_vec()));
    let many: Vec<_> = (0..128).map(|i| put(&format!("/lim/many/{i:03}"), b"")).collect();
    done(&**store, &[], &many);
    assert_eq!(store.list("/lim/many/").unwrap().entries.len(), 128);
    // More in one listing than a gRPC message carries by default.
    for i in 0..6 {
        done(&**store, &[], &[Write::Put(format!("/lim/big/{i}"), largest.clone())]);
    }
    assert_eq!(store.list("/lim/big/").unwrap().entries.len(), 6);

    let bad = Err(StoreError::BadRecord);
    let too_large = Write::Put("/lim/b".into(), vec![0; LARGEST_VALUE + 1]);
    assert_eq!(store.commit(&[], &[too_large]), bad);
    assert_eq!(store.commit(&[], &[put("/lim/b", b"1"), put("/lim/b", b"2")]), bad);
    let too_long = "k".repeat(LONGEST_KEY + 1);
    for odd in ["", "/lim/\n", "/lim/\0", "/lim/\u{e9}", too_long.as_str()] {
        assert_eq!(store.commit(&[], &[put(odd, b"")]), bad, "{odd:?}");
        assert_eq!(store.commit(&[], &[Write::Delete(odd.into())]), bad, "{odd:?}");
        assert_eq!(store.commit(&[Condition::Absent(odd.into())], &[]), bad, "{odd:?}");
        assert_eq!(store.get(odd), Err(StoreError::BadRecord), "{odd:?}");
        if !odd.is_empty() {
            assert_eq!(store.list(odd), Err(StoreError::BadRecord), "{odd:?}");
            assert!(store.watch(odd, Revision(1)).is_err(), "{odd:?}");
        }
    }
    assert_eq!(value(&**store, "/lim/b"), None);
}

fn values(store: &Arc<dyn Store>) {
    let all: Vec<u8> = (0..=255).collect();
    done(&**store, &[], &[put("/val/all", &all), put("/val/empty", b"")]);
    assert_eq!(value(&**store, "/val/all"), Some(all));
    assert_eq!(value(&**store, "/val/empty"), Some(Vec::new()));
    // Signs that mean something to SQL.
    let key = "/val/%_'\"*?[a-z]\\ ;--";
    done(&**store, &[], &[put(key, b"odd")]);
    assert_eq!(value(&**store, key), Some(b"odd".to_vec()));
    assert_eq!(store.list("/val/%").unwrap().entries.len(), 1);
}

/// Two counters are raised together by compare and set; were a commit ever half done, or two done
/// on the same revision, they would differ or fall short.
fn eight_threads_count(store: &Arc<dyn Store>) {
    const EACH: u64 = 15;
    const KEYS: [&str; 2] = ["/count/a", "/count/b"];
    done(&**store, &[], &KEYS.map(|k| put(k, b"0")));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut left = EACH;
                while left > 0 {
                    let listing = store.list("/count/").unwrap();
                    let [a, b] = &listing.entries[..] else { panic!("{listing:?}") };
                    assert_eq!((&a.value, a.revision), (&b.value, b.revision), "half a commit");
                    let n: u64 = std::str::from_utf8(&a.value).unwrap().parse().unwrap();
                    let next = (n + 1).to_string();
                    let at = Condition::At(a.key.clone(), a.revision);
                    let writes = KEYS.map(|k| put(k, next.as_bytes()));
                    if let Outcome::Done(_) = store.commit(&[at], &writes).unwrap() {
                        left -= 1;
                    }
                }
            });
        }
    });
    let total = (8 * EACH).to_string().into_bytes();
    assert_eq!(value(&**store, KEYS[0]), Some(total.clone()));
    assert_eq!(value(&**store, KEYS[1]), Some(total));
}

/// Collects changes until there are `count`.
pub(crate) fn collect(watch: &mut dyn Watch, count: usize) -> Vec<Change> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut changes = Vec::new();
    while changes.len() < count && Instant::now() < deadline {
        changes.extend(watch.next(Duration::from_secs(1)).unwrap());
    }
    assert_eq!(changes.len(), count, "{changes:?}");
    assert_eq!(watch.next(Duration::from_millis(120)).unwrap(), [], "and no more");
    changes
}

fn told(change: &Change) -> (i64, String) {
    match change {
        Change::Put(e) => {
            (e.revision.0, format!("{}={}", e.key, String::from_utf8_lossy(&e.value)))
        }
        Change::Deleted(key, revision) => (revision.0, format!("{key} gone")),
    }
}

fn watch_in_order(store: &Arc<dyn Store>) {
    let start = store.list("/watch/").unwrap().revision;
    let mut watch = store.watch("/watch/", start).unwrap();
    let one =
        done(&**store, &[], &[put("/watch/b", b"1"), put("/watch/a", b"1"), put("/watch", b"no")]);
    done(&**store, &[], &[put("/watch0", b"no"), put("/other/a", b"no")]);
    let two = done(&**store, &[], &[put("/watch/a", b"2")]);
    let three = done(&**store, &[], &[put("/watch/a", b"3"), Write::Delete("/watch/b".into())]);
    let refused = [Condition::Absent("/watch/a".into())];
    assert_eq!(store.commit(&refused, &[put("/watch/c", b"no")]), Ok(Outcome::Conflict));
    done(&**store, &[], &[Write::Delete("/watch/never".into())]);
    let seen: Vec<_> = collect(&mut *watch, 5).iter().map(told).collect();
    let expected = [
        (one.0, "/watch/b=1"),
        (one.0, "/watch/a=1"),
        (two.0, "/watch/a=2"),
        (three.0, "/watch/a=3"),
        (three.0, "/watch/b gone"),
    ];
    assert_eq!(seen, expected.map(|(r, t)| (r, t.to_owned())));
}

fn watch_resumes(store: &Arc<dyn Store>) {
    let revisions: Vec<_> =
        (0..6).map(|i| done(&**store, &[], &[put("/resume/a", &[b'0' + i])])).collect();
    for (i, &from) in revisions.iter().enumerate() {
        let mut watch = store.watch("/resume/", from).unwrap();
        let seen: Vec<_> = collect(&mut *watch, 5 - i).iter().map(|c| told(c).0).collect();
        assert_eq!(seen, revisions[i + 1..].iter().map(|r| r.0).collect::<Vec<_>>());
    }
}

fn watch_quiet(store: &Arc<dyn Store>) {
    let start = store.list("").unwrap().revision;
    let mut watch = store.watch("/quiet/", start).unwrap();
    done(&**store, &[], &[put("/loud/a", b"1")]);
    for limit in [0, 1, 300] {
        let limit = Duration::from_millis(limit);
        let begun = Instant::now();
        assert_eq!(watch.next(limit).unwrap(), []);
        let took = begun.elapsed();
        assert!(took >= limit && took < limit + Duration::from_millis(500), "{took:?}");
    }
}

/// A change ends the wait for it.
fn watch_wakes(store: &Arc<dyn Store>) {
    let start = store.list("").unwrap().revision;
    let mut watch = store.watch("/wake/", start).unwrap();
    let writer = Arc::clone(store);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        done(&*writer, &[], &[put("/wake/a", b"1")])
    });
    let begun = Instant::now();
    let changes = watch.next(Duration::from_secs(8)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(told(&changes[0]).0, thread.join().unwrap().0);
}
