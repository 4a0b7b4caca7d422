//! Who has a connection: so many in all, so many for each user, and root comes in always, so that
//! one member of the group cannot shut the service for the others or for root.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why somebody gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All,
    /// This user has as many as a user may have.
    User,
}

/// The bounds, and the user for whom there are none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) all: usize,
    pub(super) user: usize,
    pub(super) unbounded: u32,
}

/// All places; how many each user has.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    taken: Mutex<BTreeMap<u32, usize>>,
}

/// A place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    user: u32,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has one.
    pub(super) fn are_free(&self) -> bool {
        self.taken().is_empty()
    }

    /// A place for this user.
    pub(super) fn take(self: &Arc<Self>, user: u32) -> Result<Place, Full> {
        let mut taken = self.taken();
        let Bounds { all, user: most, unbounded } = self.bounds;
        if user != unbounded {
            let bounded: usize =
                taken.iter().filter(|(of, _)| **of != unbounded).map(|(_, n)| n).sum();
            if taken.get(&user).is_some_and(|n| *n >= most) {
                return Err(Full::User);
            }
            if bounded >= all {
                return Err(Full::All);
            }
        }
        *taken.entry(user).or_default() += 1;
        Ok(Place { of: Arc::clone(self), user })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        if let Some(n) = taken.get_mut(&self.user) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_shuts_nobody_out_and_root_comes_in_always() {
        let places = Places::new(Bounds { all: 5, user: 3, unbounded: 0 });
        let root: Vec<Place> = (0..10).map(|_| places.take(0).unwrap()).collect();
        let mut one: Vec<Place> = (0..3).map(|_| places.take(1).unwrap()).collect();
        assert_eq!(places.take(1).unwrap_err(), Full::User);
        let two: Vec<Place> = (0..2).map(|_| places.take(2).unwrap()).collect();
        assert_eq!(places.take(2).unwrap_err(), Full::All);
        assert_eq!(places.take(3).unwrap_err(), Full::All);
        assert!(places.take(0).is_ok());
        one.pop();
        assert!(places.take(3).is_ok());
        assert!(!places.are_free());
        drop((root, one, two));
        assert!(places.are_free());
    }
}
