//! Which GPUs lie best to each other? Of those that are free, the set whose members have the best
//! links, and among equals the one that leaves the best links to those that come later.

use std::cmp::Reverse;

use crate::model::{Gpu, Path};

/// So many sets are looked at one by one: every choice out of 16 GPUs. Of more GPUs the set is built
/// up from each of them, link by link.
const MOST_SETS: u64 = 20_000;

/// How good the links within a set are: compared field by field, more is better. A field counts pairs
/// of members, so that sets of one size are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quality {
    /// Pairs with an NVLink between them.
    pub nvlinked: u32,
    /// NVLinks in all.
    pub nvlinks: u32,
    /// Pairs on one board or under one switch.
    pub switch: u32,
    /// Pairs with switches between them, and no host bridge.
    pub switches: u32,
    /// Pairs within one host bridge.
    pub bridge: u32,
    /// Pairs within one socket.
    pub socket: u32,
}

impl Quality {
    /// Of one pair. What is within a switch is within the socket too.
    fn of(one: &Gpu, other: &Gpu) -> Self {
        let peer = one.to(other);
        let within = |path: Path| u32::from(peer.path <= path);
        Self {
            nvlinked: u32::from(peer.nvlinks > 0),
            nvlinks: peer.nvlinks,
            switch: within(Path::Switch),
            switches: within(Path::Switches),
            bridge: within(Path::Bridge),
            socket: within(Path::Socket),
        }
    }

    fn add(&mut self, other: Self) {
        self.nvlinked += other.nvlinked;
        self.nvlinks = self.nvlinks.saturating_add(other.nvlinks);
        self.switch += other.switch;
        self.switches += other.switches;
        self.bridge += other.bridge;
        self.socket += other.socket;
    }

    /// Of a set.
    pub fn within(set: &[&Gpu]) -> Self {
        let mut sum = Self::default();
        for (at, one) in set.iter().enumerate() {
            for other in set.iter().skip(at + 1) {
                sum.add(Self::of(one, other));
            }
        }
        sum
    }
}

/// A free GPU, and what else counts for it.
#[derive(Debug, Clone, Copy)]
pub struct Free<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Whether the container held it last.
    pub held: bool,
    /// Whether others can do more with it: it is shared where this container wants it whole.
    pub spared: bool,
}

/// How good a choice is: compared field by field. More of what was held last, then less of what is
/// to be spared, then better links within, then better links among those left, then lower indexes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Merit {
    held: usize,
    unspared: Reverse<usize>,
    within: Quality,
    left: Quality,
    indexes: Reverse<Vec<u32>>,
}

/// The free GPUs with every pair's quality.
struct Table<'a> {
    free: &'a [Free<'a>],
    pairs: Vec<Quality>,
}

impl<'a> Table<'a> {
    fn new(free: &'a [Free<'a>]) -> Self {
        let pair = |a: &Free<'_>, b: &Free<'_>| Quality::of(a.gpu, b.gpu);
        let pairs = free.iter().flat_map(|a| free.iter().map(move |b| pair(a, b))).collect();
        Self { free, pairs }
    }

    fn pair(&self, a: usize, b: usize) -> Quality {
        self.pairs.get(a * self.free.len() + b).copied().unwrap_or_default()
    }

    fn within(&self, set: &[usize]) -> Quality {
        let mut sum = Quality::default();
        for (at, &a) in set.iter().enumerate() {
            for &b in set.iter().skip(at + 1) {
                sum.add(self.pair(a, b));
            }
        }
        sum
    }

    fn count(&self, set: &[usize], which: impl Fn(&Free<'_>) -> bool) -> usize {
        set.iter().filter(|&&at| self.free.get(at).is_some_and(&which)).count()
    }

    /// Whether a set may be better than what there is: what is left is looked at only where it can
    /// still decide.
    fn may_beat(&self, set: &[usize], have: &Merit) -> bool {
        let held = self.count(set, |free| free.held);
        let unspared = Reverse(self.count(set, |free| free.spared));
        (held, unspared, self.within(set)) >= (have.held, have.unspared, have.within)
    }

    fn merit(&self, set: &[usize]) -> Merit {
        let left: Vec<usize> = (0..self.free.len()).filter(|at| !set.contains(at)).collect();
        let mut indexes: Vec<u32> =
            set.iter().filter_map(|&at| self.free.get(at)).map(|free| free.gpu.index).collect();
        indexes.sort_unstable();
        Merit {
            held: self.count(set, |free| free.held),
            unspared: Reverse(self.count(set, |free| free.spared)),
            within: self.within(set),
            left: self.within(&left),
            indexes: Reverse(indexes),
        }
    }

    /// Every set of `n`, one after the other.
    fn best_of_all(&self, n: usize) -> Option<Vec<usize>> {
        let mut set: Vec<usize> = (0..n).collect();
        let mut best: Option<(Merit, Vec<usize>)> = None;
        loop {
            if best.as_ref().is_none_or(|(have, _)| self.may_beat(&set, have)) {
                let merit = self.merit(&set);
                if best.as_ref().is_none_or(|(have, _)| merit > *have) {
                    best = Some((merit, set.clone()));
                }
            }
            // The next one: the last place that can still move does, and those behind it follow.
            let most = self.free.len();
            let Some(at) = (0..n).rev().find(|&at| set.get(at).is_some_and(|v| *v < most - n + at))
            else {
                return best.map(|(_, set)| set);
            };
            let from = set.get(at).copied().unwrap_or_default() + 1;
            for (offset, place) in set.iter_mut().skip(at).enumerate() {
                *place = from + offset;
            }
        }
    }

    /// Built up from each GPU by the one that lies best to those chosen so far. Where several do, and
    /// more are to follow, by one that has a good one to follow it, else by one that nobody misses.
    fn built_up(&self, n: usize) -> Option<Vec<usize>> {
        let all = 0..self.free.len();
        let grow = |first: usize| {
            let mut set = vec![first];
            while set.len() < n {
                let follow = n - set.len() > 1;
                let outside = || all.clone().filter(|at| !set.contains(at));
                let next = outside().max_by_key(|&at| {
                    let mut links = Quality::default();
                    set.iter().for_each(|&have| links.add(self.pair(have, at)));
                    let others = outside().filter(|other| *other != at);
                    let friend = others.map(|other| self.pair(at, other)).max().unwrap_or_default();
                    let (wanted, missed) = if follow {
                        (friend, Reverse(Quality::default()))
                    } else {
                        (Quality::default(), Reverse(friend))
                    };
                    let free = self.free.get(at);
                    let held = free.is_some_and(|f| f.held);
                    let spared = free.is_some_and(|f| f.spared);
                    (held, !spared, links, wanted, missed, Reverse(at))
                });
                let Some(next) = next else { break };
                set.push(next);
            }
            set
        };
        all.clone().map(grow).max_by_key(|set| self.merit(set))
    }
}

/// How many sets of `k` there are of `n`, as far as it matters.
fn sets(n: usize, k: usize) -> u64 {
    let k = k.min(n - k.min(n));
    let mut sum: u64 = 1;
    for at in 0..k {
        let (n, at) = (n as u64, at as u64);
        sum = sum.saturating_mul(n - at) / (at + 1);
        if sum > MOST_SETS {
            return sum;
        }
    }
    sum
}

/// The best `n` of those that are free, as places in `free`, in its order; `None` where there are not so
/// many.
pub fn choose(free: &[Free<'_>], n: usize) -> Option<Vec<usize>> {
    if n > free.len() {
        return None;
    }
    if n == 0 {
        return Some(Vec::new());
    }
    let table = Table::new(free);
    let mut set =
        if sets(free.len(), n) <= MOST_SETS { table.best_of_all(n) } else { table.built_up(n) }?;
    set.sort_unstable();
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grant waits for this under the lock of grants: the most sets that are tried one by one.
    #[test]
    fn eight_of_sixteen_are_chosen_within_a_moment() {
        let gpus: Vec<Gpu> = (0..16)
            .map(|n| {
                let text = format!(
                    r#"{{"index":{n},"unit":"GPU-{n}","minor":{n},"model":"m","pci":"0","memory":1,
                    "numa":{},"links":[{}]}}"#,
                    n / 8,
                    n ^ 1
                );
                serde_json::from_str(&text).unwrap()
            })
            .collect();
        let free: Vec<Free<'_>> =
            gpus.iter().map(|gpu| Free { gpu, held: false, spared: false }).collect();
        let began = std::time::Instant::now();
        assert_eq!(choose(&free, 8).unwrap(), (0..8).collect::<Vec<_>>());
        let took = began.elapsed();
        println!("{took:?}");
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }
}
