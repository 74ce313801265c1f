//! The jobs of a host that may be started, in their order.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::event::JobId;

/// A job in the queue of its host: those that somebody waits for first, then the highest priority, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) awaited: bool,
    pub(super) priority: i32,
    pub(super) seq: u64,
    pub(super) job: JobId,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |waiting: &Self| (waiting.awaited, waiting.priority, Reverse(waiting.seq));
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A queue by rank. Most jobs come in the order in which they go, and cost no more than in one without ranks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those that came after all others here, and go after them.
    in_order: VecDeque<Waiting>,
    others: BinaryHeap<Waiting>,
}

impl Queue {
    pub(super) fn push(&mut self, waiting: Waiting) {
        if self.in_order.back().is_none_or(|last| waiting < *last) {
            self.in_order.push_back(waiting);
        } else {
            self.others.push(waiting);
        }
    }

    /// The next one.
    pub(super) fn peek(&self) -> Option<&Waiting> {
        self.in_order.front().max(self.others.peek())
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        if self.others.peek() > self.in_order.front() { self.others.pop() } else { self.in_order.pop_front() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.others.is_empty()
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.in_order.iter().chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_goes_by_rank(steps in prop::collection::vec((any::<bool>(), -1..2i32, 0..40u64, 0..3u8), 0..60)) {
            let (mut queue, mut reference) = (Queue::default(), BinaryHeap::new());
            for (index, (awaited, priority, seq, pops)) in (0..).zip(steps) {
                // No two are of one rank.
                let waiting = Waiting { awaited, priority, seq: seq << 8 | index, job: JobId { index: 0, serial: 0 } };
                queue.push(waiting);
                reference.push(waiting);
                for _ in 0..pops {
                    prop_assert_eq!(queue.peek(), reference.peek());
                    prop_assert_eq!(queue.pop(), reference.pop());
                }
                prop_assert_eq!((queue.is_empty(), queue.iter().count()), (reference.is_empty(), reference.len()));
            }
        }
    }
}
