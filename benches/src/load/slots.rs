//! [`Slots`]: what a server is made of that gets slower the more is asked of it.

use std::collections::VecDeque;
use std::time::Duration;

/// So many answers are held back at a time; the others stand in line.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    count: usize,
    slowdown: f64,
    taken: usize,
    line: VecDeque<(T, Duration)>,
}

impl<T> Slots<T> {
    /// `count` slots; an answer takes `slowdown` times its delay longer for each further `count` requests that are open.
    pub(crate) fn new(count: usize, slowdown: f64) -> Self {
        Self { count, slowdown, taken: 0, line: VecDeque::new() }
    }

    /// How long to hold back an answer that should take `time`; `None` where it stands in line.
    pub(crate) fn take(&mut self, who: T, time: Duration) -> Option<Duration> {
        if self.taken < self.count {
            self.taken += 1;
            return Some(self.slowed(time));
        }
        self.line.push_back((who, time));
        None
    }

    /// A slot is free again: who is next to hold it, and for how long.
    pub(crate) fn give_back(&mut self) -> Option<(T, Duration)> {
        let Some((who, time)) = self.line.pop_front() else {
            self.taken -= 1;
            return None;
        };
        Some((who, self.slowed(time)))
    }

    fn slowed(&self, time: Duration) -> Duration {
        let (open, count) = ((self.taken + self.line.len()) as f64, self.count as f64);
        time.mul_f64(1.0 + self.slowdown * (open - count).max(0.0) / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(100);

    #[test]
    fn what_is_beyond_the_slots_stands_in_line_and_is_slower() {
        let mut slots = Slots::new(2, 1.0);
        assert_eq!(slots.take('a', TIME), Some(TIME));
        assert_eq!(slots.take('b', TIME), Some(TIME));
        assert_eq!(slots.take('c', TIME), None);
        assert_eq!(slots.take('d', TIME), None);
        // Three are open beside the one that ended: half as much again as there are slots.
        assert_eq!(slots.give_back(), Some(('c', TIME.mul_f64(1.5))));
        assert_eq!(slots.give_back(), Some(('d', TIME)));
        assert_eq!(slots.give_back(), None);
        assert_eq!(slots.take('e', TIME), Some(TIME));
    }
}
