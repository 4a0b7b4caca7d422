use proptest::prelude::*;

use super::*;

fn unit(n: u32) -> Unit {
    Unit::new(format!("GPU-{n}")).unwrap()
}

fn boot(text: &str) -> BootId {
    BootId::new(text).unwrap()
}

const NOW: Timestamp = Timestamp::EPOCH;

fn look(n: u32, bad: Option<&str>, pids: Option<&[u32]>) -> Look {
    let leftover = |pid: &u32| Leftover { pid: *pid, name: String::new(), of: None };
    Look {
        unit: unit(n),
        bad: bad.map(str::to_owned),
        leftovers: pids.map(|pids| pids.iter().map(leftover).collect()),
    }
}

fn next(before: Quarantine, looks: &[Look]) -> Turn {
    turn(before, looks, &boot("b"), "d", NOW)
}

#[test]
fn programs_own_xids_do_not_count_and_unknown_ones_do() {
    for xid in [13, 31, 43, 45, 68, 109] {
        assert_eq!(weigh(xid), Weight::OfPrograms, "{xid}");
    }
    for xid in [48, 62, 64, 74, 79, 94, 95, 119, 120, 0, 9999] {
        assert_eq!(weigh(xid), Weight::Fatal, "{xid}");
    }
    for xid in [63, 92, 121, 154] {
        assert_eq!(weigh(xid), Weight::Informational, "{xid}");
    }
    let mut quarantine = Quarantine::empty(boot("b"));
    assert!(quarantine.fault(&unit(1), 31, NOW).is_none());
    assert!(quarantine.fault(&unit(1), 79, NOW).is_some());
    assert!(quarantine.fault(&unit(1), 79, NOW).is_none(), "told once");
    assert!(quarantine.of(&unit(1)).unwrap().cause.words().contains("fell off the bus"));
}

#[test]
fn a_process_that_is_left_over_is_held_until_it_is_seen_gone() {
    let one = next(Quarantine::empty(boot("b")), &[look(2, None, Some(&[7]))]);
    assert_eq!((one.began.len(), one.over.len()), (1, 0));
    // The driver does not say, or does not show the card: no proof of anything.
    let two = next(one.now, &[look(2, None, None)]);
    let two = next(two.now, &[]);
    assert!(two.now.of(&unit(2)).is_some() && two.over.is_empty());
    let three = next(two.now, &[look(2, None, Some(&[]))]);
    assert!(three.now.of(&unit(2)).is_none());
    assert_eq!(three.over[0].1, "the process is gone");
}

#[test]
fn an_xid_is_over_after_a_reset_a_reload_or_a_boot_and_by_nothing_else() {
    let mut held = Quarantine::empty(boot("b"));
    held.driver = "d".into();
    held.fault(&unit(3), 79, NOW).unwrap();
    let well = [look(3, None, Some(&[]))];
    let still = next(held.clone(), &well);
    assert!(still.now.of(&unit(3)).is_some(), "that it answers is no proof that it is sound");
    assert!(turn(held.clone(), &well, &boot("b"), "", NOW).over.is_empty());
    assert_eq!(turn(held.clone(), &well, &boot("b"), "e", NOW).over.len(), 1);
    assert_eq!(turn(held.clone(), &[], &boot("c"), "d", NOW).over.len(), 1);
    let lost = next(held, &[look(3, Some("it fell off the bus"), None)]);
    assert_eq!(lost.now.held.len(), 2);
    let back = next(lost.now, &well);
    assert_eq!((back.now.held.len(), back.over.len()), (0, 2));
}

#[test]
fn cleared_by_hand_stays_cleared_while_it_is_to_be_seen() {
    let shown = [look(2, None, Some(&[7])), look(5, Some("lost"), None)];
    let mut held = next(Quarantine::empty(boot("b")), &shown).now;
    held.fault(&unit(3), 48, NOW).unwrap();
    let cleared = held.pardon();
    assert_eq!(cleared.len(), 2, "the lost card stays");
    let after = next(held, &shown);
    assert!(after.began.is_empty() && after.now.of(&unit(2)).is_none());
    assert!(after.now.of(&unit(5)).is_some());
    // Gone and there again, it is another one of that number.
    let gone = next(after.now, &[look(2, None, Some(&[]))]);
    assert!(gone.now.pardoned.is_empty());
    assert_eq!(next(gone.now, &shown[..1]).began.len(), 1);
}

fn looks() -> impl Strategy<Value = Vec<Look>> {
    let one = |n: u32| {
        (any::<bool>(), proptest::option::of(proptest::collection::btree_set(1u32..4, 0..3)))
            .prop_map(move |(bad, pids)| {
                let pids: Option<Vec<u32>> = pids.map(|p| p.into_iter().collect());
                look(n, bad.then_some("lost"), pids.as_deref())
            })
    };
    (one(0), one(1), proptest::option::of(one(2)))
        .prop_map(|(a, b, c)| [Some(a), Some(b), c].into_iter().flatten().collect())
}

proptest! {
    #[test]
    fn what_is_seen_is_held_and_what_is_held_goes_only_by_what_is_seen(
        all in proptest::collection::vec((looks(), proptest::option::of((0u32..3, 78u64..81))), 1..12)
    ) {
        let mut before = Quarantine::empty(boot("b"));
        for (looks, fault) in all {
            if let Some((n, xid)) = fault {
                before.fault(&unit(n), xid, NOW);
            }
            let turn = next(before.clone(), &looks);
            for look in &looks {
                for l in look.leftovers.iter().flatten() {
                    let cause = Cause::Process { pid: l.pid, name: String::new(), of: None };
                    prop_assert!(turn.now.has(&look.unit, &cause));
                }
                prop_assert!(look.bad.is_none() || turn.now.of(&look.unit).is_some());
            }
            for (over, _) in &turn.over {
                // Nothing goes of a card that was not seen.
                prop_assert!(looks.iter().any(|l| l.unit == over.unit));
            }
            // Every reason is held, has begun or is over: none is lost, none told twice.
            prop_assert_eq!(
                before.held.len() + turn.began.len(),
                turn.now.held.len() + turn.over.len()
            );
            // A second look that shows the same changes nothing more.
            let again = next(turn.now.clone(), &looks);
            prop_assert!(again.began.is_empty() && again.over.is_empty());
            before = turn.now;
        }
    }

    #[test]
    fn nothing_clears_by_hand_what_does_not_answer(looks in looks()) {
        let mut held = next(Quarantine::empty(boot("b")), &looks).now;
        held.pardon();
        for look in looks {
            prop_assert_eq!(held.of(&look.unit).is_some(), look.bad.is_some());
        }
    }
}
