//! Which port? A pure decision.

use std::collections::BTreeSet;

use gpuctl_ledger::config::PortRange;

/// A port of the range that nobody has: the one wished for, else the first free one from a place that
/// the name gives. So a name gets the same port again where that is free, and many that ask at once
/// do not all ask for the same.
pub(super) fn choose(
    range: PortRange,
    taken: &BTreeSet<u16>,
    name: &str,
    inside: &str,
    wish: Option<u16>,
) -> Option<u16> {
    let within = |port: &u16| (range.first..=range.last).contains(port);
    if let Some(wish) = wish.filter(|port| within(port) && !taken.contains(port)) {
        return Some(wish);
    }
    let size = u64::from(range.last - range.first) + 1;
    let from = place(name, inside) % size;
    let nth = |step: u64| u16::try_from(u64::from(range.first) + (from + step) % size).ok();
    (0..size).filter_map(nth).find(|port| !taken.contains(port))
}

/// FNV-1a: the same in every version of the program, which a hash map's is not.
fn place(name: &str, inside: &str) -> u64 {
    let bytes = name.bytes().chain(*b"\0").chain(inside.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn a_name_gets_the_same_port_again_and_names_are_spread() {
        let none = BTreeSet::new();
        let of = |name: &str| choose(range(20000, 29999), &none, name, "22/tcp", None).unwrap();
        assert_eq!(of("train"), of("train"));
        let ports: BTreeSet<u16> = (0..100).map(|n| of(&format!("job{n}"))).collect();
        assert!(ports.len() > 95, "{ports:?}");
    }

    #[test]
    fn what_is_wished_for_is_had_where_it_is_free_and_in_the_range() {
        let taken = BTreeSet::from([20001]);
        let of = |wish| choose(range(20000, 20001), &taken, "a", "22/tcp", wish);
        for wish in [None, Some(20000), Some(20001), Some(80)] {
            assert_eq!(of(wish), Some(20000), "{wish:?}");
        }
        assert_eq!(
            choose(range(20000, 20001), &BTreeSet::new(), "a", "1/tcp", Some(20001)),
            Some(20001)
        );
        assert_eq!(choose(range(65535, 65535), &BTreeSet::new(), "a", "1/tcp", None), Some(65535));
    }

    proptest! {
        #[test]
        fn all_of_a_range_are_given_each_once_and_then_none(
            first in 1u16..60000, size in 0u16..200, names in prop::collection::vec("[a-z]{1,8}", 1..4)
        ) {
            let range = range(first, first + size);
            let mut taken = BTreeSet::new();
            for n in 0..=size {
                let name = &names[usize::from(n) % names.len()];
                let port = choose(range, &taken, name, "22/tcp", None);
                let port = port.expect("one is free");
                prop_assert!((first..=first + size).contains(&port));
                prop_assert!(taken.insert(port), "{port} was given twice");
            }
            prop_assert_eq!(choose(range, &taken, "x", "22/tcp", None), None);
        }
    }
}
