//! How many fetches may be in flight now: grows with success, shrinks under local pressure.

/// A limit that starts low, grows by one for each success (doubling every round trip) and falls back under pressure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limiter {
    limit: u32,
    max: u32,
    floor: u32,
}

impl Limiter {
    pub(super) fn new(start: Option<u32>, max: u32, floor: u32) -> Self {
        let max = max.max(1);
        Self { limit: start.unwrap_or(max).clamp(1, max), max, floor: floor.clamp(1, max) }
    }

    pub(super) fn limit(self) -> u32 {
        self.limit
    }

    pub(super) fn success(&mut self) {
        self.limit = (self.limit + 1).min(self.max);
    }

    /// This process or machine has no room for more than `in_flight`.
    pub(super) fn pressure(&mut self, in_flight: u32) {
        let lower = self.limit.min(in_flight) / 4 * 3;
        self.limit = self.limit.min(lower.max(self.floor));
    }

    /// Begins again from what is in flight, so that what was held back does not come as a burst.
    pub(super) fn restart(&mut self, in_flight: u32) {
        self.limit = self.limit.min(in_flight.max(self.floor));
    }
}
