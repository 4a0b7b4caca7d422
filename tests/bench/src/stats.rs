//! Medians.

use std::time::Duration;

/// Times of one thing, taken many times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// None yet.
    pub(crate) const fn empty() -> Self {
        Self(Vec::new())
    }

    /// One more.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    /// How many.
    pub(crate) fn n(&self) -> usize {
        self.0.len()
    }

    /// The time that half of them do not exceed, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The time that nine of ten do not exceed, in milliseconds.
    pub(crate) fn p90(&self) -> f64 {
        self.quantile(0.9)
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let at = share * last as f64;
        let value = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let (low, high) = (value(at.floor() as usize), value(at.ceil() as usize));
        low + (high - low) * at.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let mut sample = Sample::default();
        assert!(sample.median().is_nan());
        for ms in [4, 1, 3, 2] {
            sample.add(Duration::from_millis(ms));
        }
        assert_eq!((sample.n(), sample.median()), (4, 2.5));
        assert!((sample.p90() - 3.7).abs() < 1e-9);
    }
}
