//! How long to wait before a retry, and how many retries a crawl can afford.

use std::time::Duration;

/// Decorrelated jitter: each wait is drawn between `base` and three times the wait before it, at most `cap`.
/// (Brooker, "Exponential Backoff And Jitter", 2015.)
pub(super) fn backoff(base: Duration, cap: Duration, before: Duration, rng: &mut fastrand::Rng) -> Duration {
    let high = (before.max(base) * 3).min(cap);
    let low = base.min(high);
    low + (high - low).mul_f64(rng.f64())
}

/// Retries are earned by first attempts, so that a dying site cannot turn into a storm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    ratio: f64,
    floor: u32,
    starts: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(ratio: f64, floor: u32) -> Self {
        Self { ratio, floor, starts: 0, retries: 0 }
    }

    pub(super) fn start(&mut self) {
        self.starts += 1;
    }

    /// A first attempt never left this machine, and earns nothing.
    pub(super) fn unstart(&mut self) {
        self.starts -= 1;
    }

    pub(super) fn is_left(&self) -> bool {
        let earned = f64::from(self.floor) + self.starts as f64 * self.ratio;
        (self.retries as f64) < earned.floor()
    }

    /// Takes one retry, where there is one left.
    pub(super) fn take(&mut self) -> bool {
        let left = self.is_left();
        self.retries += u64::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_base_and_cap() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut rng = fastrand::Rng::with_seed(3);
        let mut wait = Duration::ZERO;
        for _ in 0..1000 {
            let next = backoff(base, cap, wait, &mut rng);
            assert!(next >= base && next <= cap && next <= wait.max(base) * 3);
            wait = next;
        }
    }

    #[test]
    fn the_budget_allows_the_floor_and_a_fifth() {
        let mut budget = Budget::new(0.2, 10);
        let allowed = |budget: &mut Budget| (0..1000).take_while(|_| budget.take()).count();
        assert_eq!(allowed(&mut budget), 10);
        (0..100).for_each(|_| budget.start());
        assert_eq!(allowed(&mut budget), 20);
    }
}
