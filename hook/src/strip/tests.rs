//! The rewritten rules against an evaluator of its own, which asks for one device at a time.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A list of rules as runc's emulator runs it.
struct Device {
    default: bool,
    exceptions: HashMap<(bool, i64, i64), u8>,
}

impl Device {
    /// `None` where runc refuses the list.
    fn run(rules: &[Value]) -> Option<Self> {
        let mut default = false;
        let mut exceptions: HashMap<(bool, i64, i64), u8> = HashMap::new();
        for rule in rules {
            let allow = rule["allow"].as_bool().unwrap_or(false);
            let kind = rule["type"].as_str().unwrap_or("a");
            let access = rule["access"].as_str().unwrap_or("rwm");
            let bit = |(bit, c): (u8, char)| if access.contains(c) { bit } else { 0 };
            let bits: u8 = [(1, 'r'), (2, 'w'), (4, 'm')].map(bit).iter().sum();
            if kind == "a" {
                default = allow;
                exceptions.clear();
                continue;
            }
            let number = |key: &str| rule[key].as_i64().unwrap_or(-1);
            let key = (kind == "b", number("major"), number("minor"));
            if allow != default {
                *exceptions.entry(key).or_default() |= bits;
                continue;
            }
            for wide in [(key.0, -1, key.2), (key.0, key.1, -1), (key.0, -1, -1)] {
                if wide != key && exceptions.get(&wide).is_some_and(|have| have & bits != 0) {
                    return None;
                }
            }
            if let Some(have) = exceptions.get_mut(&key) {
                *have &= !bits;
            }
        }
        Some(Self { default, exceptions })
    }

    /// Whether one bit of access to one device is allowed, as the kernel then decides.
    fn allows(&self, block: bool, major: i64, minor: i64, bit: u8) -> bool {
        let keys = [(major, minor), (major, -1), (-1, minor), (-1, -1)];
        let has = |&(j, n): &(i64, i64)| {
            self.exceptions.get(&(block, j, n)).is_some_and(|have| have & bit != 0)
        };
        keys.iter().any(has) != self.default
    }
}

fn allowed(rules: &[Value], block: bool, major: i64, minor: i64, bit: u8) -> Option<bool> {
    Some(Device::run(rules)?.allows(block, major, minor, bit))
}

fn spec(rules: Vec<Value>) -> Spec {
    let nodes: Vec<Value> = (0..4)
        .map(|n| json!({"path": format!("/dev/nvidia{n}"), "type": "c", "major": 195, "minor": n}))
        .chain([json!({"path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255})])
        .chain([json!({"path": "/dev/cap", "type": "c", "major": 236, "minor": 1}), json!(null)])
        .collect();
    let value = json!({"linux": {"devices": nodes, "resources": {"devices": rules}}});
    Spec::from_value(value).unwrap()
}

fn rules_of(spec: &Spec) -> Vec<Value> {
    spec.value()["linux"]["resources"]["devices"].as_array().unwrap().clone()
}

fn minors_of(spec: &Spec) -> Vec<u32> {
    spec.nodes().iter().filter(|n| n.major == 195).map(|n| n.minor).collect()
}

/// Docker's spellings of a number: left out, -1, or itself.
fn number(key: &'static str, of: &'static [i64]) -> impl Strategy<Value = Option<(String, Value)>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some((key.to_owned(), json!(-1)))),
        4 => proptest::sample::select(of).prop_map(move |n| Some((key.to_owned(), json!(n)))),
    ]
}

fn rule() -> impl Strategy<Value = Value> {
    let kind = proptest::sample::select(&[None, Some("a"), Some("b"), Some("c"), Some("c")][..]);
    let access = proptest::sample::select(&["rwm", "rw", "r", "m"][..]);
    let majors = number("major", &[1, 10, 195, 236, 511]);
    let minors = number("minor", &[0, 1, 3, 229, 254, 255]);
    (prop::bool::weighted(0.75), kind, majors, minors, access).prop_map(
        |(allow, kind, major, minor, access)| {
            let mut map = serde_json::Map::new();
            map.insert("allow".into(), allow.into());
            map.insert("access".into(), access.into());
            kind.map(|k| map.insert("type".into(), k.into()));
            map.extend(major.into_iter().chain(minor));
            Value::Object(map)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn only_gpus_change_their_verdict(
        rules in prop::collection::vec(rule(), 0..8),
        keep in prop::collection::vec(prop::sample::select(&[0u32, 1, 3][..]), 0..3),
        caps in prop::option::of(Just(236u32)),
        parts in prop::collection::vec(prop::sample::select(&[0u32, 1, 3][..]), 0..3),
    ) {
        let mut after = spec(rules.clone());
        let kept = Keep { minors: &keep, caps: &parts, caps_major: caps };
        if whitelist_but(&mut after, kept).is_err() {
            prop_assert_eq!(after, spec(rules));
            return Ok(());
        }
        let (old, new) = (Device::run(&rules).unwrap(), Device::run(&rules_of(&after)).unwrap());
        for block in [false, true] {
            for major in [0i64, 1, 7, 10, 195, 236, 511] {
                for minor in [0i64, 1, 2, 3, 229, 254, 255, 70000] {
                    for bit in [1u8, 2, 4] {
                        let was = old.allows(block, major, minor, bit);
                        let is = new.allows(block, major, minor, bit);
                        let minor_u = u32::try_from(minor).unwrap();
                        let gpu = !block && major == 195 && ![254, 255].contains(&minor);
                        let gone = (gpu && !keep.contains(&minor_u))
                            || (!block && major == 236 && caps.is_some() && !parts.contains(&minor_u));
                        if !gone {
                            prop_assert_eq!(was, is, "{} {}:{} {}", block, major, minor, bit);
                        } else if bit != 4 {
                            prop_assert!(!is, "{}:{}", major, minor);
                        }
                    }
                }
            }
        }
        let mut again = after.clone();
        prop_assert_eq!(whitelist_but(&mut again, kept), Ok(false));
        prop_assert_eq!(again, after);
    }
}

#[test]
fn an_allow_all_becomes_a_whitelist_without_a_hole() {
    let device = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
    let fuse = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    for all in [
        json!({"allow": true, "access": "rwm"}),
        json!({"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}),
        json!({"allow": true, "type": "a", "major": 195, "minor": 2, "access": "r"}),
    ] {
        let deny = json!({"allow": false, "access": "rwm"});
        let mut s = spec(vec![deny.clone(), device.clone(), fuse.clone(), all]);
        assert_eq!(whitelist(&mut s, &[2], Some(236)), Ok(true));
        let rules = rules_of(&s);
        assert_eq!(rules[..3], [deny, device.clone(), fuse.clone()]);
        assert_eq!(rules.len(), 3 + 1 + 1 + 510 + 3, "deny-all, b *:*, c M:*, and three of 195");
        assert_eq!(rules.iter().filter(|r| r["allow"] == false).count(), 3);
        assert_eq!(minors_of(&s), [2, 255]);
        assert!(!s.nodes().iter().any(|n| n.major == 236));
        assert_eq!(allowed(&rules, true, 8, 0, 1), Some(true));
    }
}

#[test]
fn of_nvidia_caps_only_the_nodes_of_what_is_held_stay() {
    let one = |minor: i64| json!({"allow": true, "type": "c", "major": 236, "minor": minor, "access": "rw"});
    for rules in [
        vec![json!({"allow": true, "access": "rwm"})],
        vec![one(-1)],
        vec![one(1), one(2), one(3)],
        vec![json!({"allow": true, "type": "c", "access": "rwm"})],
    ] {
        let mut s = spec(rules);
        let keep = Keep { minors: &[0], caps: &[1, 2], caps_major: Some(236) };
        assert_eq!(whitelist_but(&mut s, keep), Ok(true));
        let opens = |minor| allowed(&rules_of(&s), false, 236, minor, 1).unwrap();
        assert_eq!([opens(1), opens(2), opens(3)], [true, true, false], "{:?}", rules_of(&s).len());
        assert!(s.nodes().iter().any(|n| n.major == 236 && n.minor == 1), "its node stays");
    }
    // What nothing opened is not opened now.
    let mut s = spec(vec![one(1)]);
    let keep = Keep { minors: &[], caps: &[1, 2], caps_major: Some(236) };
    whitelist_but(&mut s, keep).unwrap();
    assert_eq!(allowed(&rules_of(&s), false, 236, 2, 1), Some(false));
}

#[test]
fn a_wildcard_over_nvidias_major_becomes_what_is_held() {
    let wild = json!({"allow": true, "type": "c", "major": 195, "minor": -1, "access": "rw"});
    let mut s = spec(vec![wild]);
    assert_eq!(whitelist(&mut s, &[1, 1], None), Ok(true));
    let minors: Vec<i64> = rules_of(&s).iter().map(|r| r["minor"].as_i64().unwrap()).collect();
    assert_eq!(minors, [254, 255, 1]);
    assert!(rules_of(&s).iter().all(|r| r["access"] == "rw" && r["allow"] == true));
}

#[test]
fn rules_that_take_back_what_they_gave_are_written_as_their_outcome() {
    let wild = |allow: bool| json!({"allow": allow, "type": "c", "access": "rwm"});
    let exact = json!({"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rwm"});
    let mut s = spec(vec![wild(true), wild(false), exact]);
    assert_eq!(whitelist(&mut s, &[], None), Ok(true));
    assert_eq!(allowed(&rules_of(&s), false, 1, 3, 1), Some(false));
    assert_eq!(allowed(&rules_of(&s), false, 195, 0, 1), Some(false));
}

#[test]
fn a_hole_in_an_allow_all_is_refused_and_nothing_is_changed() {
    let all = json!({"allow": true, "access": "rwm"});
    let fuse = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    let before = spec(vec![all, fuse]);
    let mut s = before.clone();
    assert_eq!(whitelist(&mut s, &[], None), Err(StripError::Hole));
    assert_eq!(s, before);
}

#[test]
fn a_spec_without_gpus_is_left_as_it_is() {
    let before = Spec::from_value(json!({"linux": {"resources": {"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 195, "minor": 255, "access": "rwm"},
        {"allow": true, "type": "c", "access": "m"}
    ]}}}))
    .unwrap();
    let mut s = before.clone();
    assert_eq!(whitelist(&mut s, &[], Some(236)), Ok(false));
    assert_eq!(s, before);
    let mut empty = Spec::from_value(json!({})).unwrap();
    assert_eq!(whitelist(&mut empty, &[], None), Ok(false));
    assert_eq!(empty.value(), &json!({}));
}

/// A user writes as many rules as he likes, and each of these would be 510.
#[test]
fn a_crowd_of_wildcards_is_written_once_or_refused_and_takes_no_time() {
    let before = std::time::Instant::now();
    let one = json!({"allow": true, "type": "c", "access": "rwm"});
    let mut s = spec(vec![one; 100_000]);
    assert_eq!(whitelist(&mut s, &[3], Some(236)), Ok(true));
    let rules = rules_of(&s);
    assert!(rules.len() < 600, "{} rules", rules.len());
    assert_eq!(allowed(&rules, false, 195, 4, 2), Some(false));
    assert_eq!(allowed(&rules, false, 195, 3, 2), Some(true));
    assert_eq!(allowed(&rules, false, 10, 200, 2), Some(true));
    let once = s.clone();
    assert!(whitelist(&mut s, &[3], Some(236)) == Ok(false) && s == once);

    let minor =
        |n: u32| json!({"allow": true, "type": "c", "major": -1, "minor": n, "access": "r"});
    let mut s = spec((0..100_000).map(minor).collect());
    let once = s.clone();
    assert_eq!(whitelist(&mut s, &[3], None), Err(StripError::TooMany));
    assert!(s == once);

    // What has nothing to do with GPUs may be long.
    let other =
        |n: u32| json!({"allow": n < 90_000, "type": "b", "major": 8, "minor": n, "access": "r"});
    let mut s = spec((0..100_000).map(other).collect());
    let rules = rules_of(&s);
    assert_eq!(whitelist(&mut s, &[3], None), Ok(true));
    assert!(minors_of(&s) == [3, 255] && rules_of(&s) == rules);
    assert!(before.elapsed().as_secs() < 20, "{:?}", before.elapsed());
}
