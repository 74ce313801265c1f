//! Who made a stall, and how many are told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::StallCause;

/// Work that took long, told when it was over.
#[derive(Clone, Debug)]
pub(super) struct Slow {
    pub(super) cause: StallCause,
    pub(super) url: Option<String>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

/// What the probe or the watchdog saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) lag: Duration,
    pub(super) throttled: bool,
}

/// Stalls and works that are remembered.
const KEPT: usize = 16;

/// Finds the causes of stalls, and tells no more than so many a second.
#[derive(Debug)]
pub(super) struct Stalls {
    slow: VecDeque<Slow>,
    most: u32,
    second: Option<(Instant, u32)>,
}

impl Stalls {
    pub(super) fn new(most_a_second: u32) -> Self {
        Self { slow: VecDeque::new(), most: most_a_second, second: None }
    }

    pub(super) fn slow(&mut self, slow: Slow) {
        push_bounded(&mut self.slow, slow);
    }

    /// A quota stops threads in the middle of whatever they do, so it is asked first; then who worked longest meanwhile.
    pub(super) fn cause(&self, seen: &Seen) -> (StallCause, Option<String>) {
        if seen.throttled {
            return (StallCause::Throttled, None);
        }
        let within = self.slow.iter().filter(|slow| slow.ended >= seen.began && slow.began <= seen.ended);
        let took = |slow: &Slow| slow.ended.saturating_duration_since(slow.began);
        let longest = within.max_by_key(|slow| took(slow)).filter(|slow| took(slow) >= seen.lag / 2);
        longest.map_or((StallCause::ForeignTask, None), |slow| (slow.cause, slow.url.clone()))
    }

    /// Whether another is told in this second.
    pub(super) fn may_tell(&mut self, now: Instant) -> bool {
        let (since, told) = self.second.get_or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *told) = (now, 0);
        }
        *told += 1;
        *told <= self.most
    }
}

/// Adds to a list that keeps the last few.
pub(super) fn push_bounded<T>(list: &mut VecDeque<T>, one: T) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_longest_work_within_is_the_cause_where_it_is_half_of_the_stall() {
        let start = Manual::new().runtime().now();
        let slow = |cause, began: u32, ended: u32| Slow {
            cause,
            url: Some(began.to_string()),
            began: start + began * MS,
            ended: start + ended * MS,
        };
        let seen = |began: u32, ended: u32, throttled| Seen {
            began: start + began * MS,
            ended: start + ended * MS,
            lag: (ended - began) * MS,
            throttled,
        };
        let mut stalls = Stalls::new(1);
        stalls.slow(slow(StallCause::Sink, 0, 400));
        stalls.slow(slow(StallCause::Fetch, 1000, 1150));
        stalls.slow(slow(StallCause::Hook, 1150, 1180));
        let cause = |seen| stalls.cause(&seen);
        assert_eq!(cause(seen(1005, 1305, false)), (StallCause::Fetch, Some("1000".into())), "half");
        assert_eq!(cause(seen(1005, 1306, false)), (StallCause::ForeignTask, None), "less than half");
        assert_eq!(cause(seen(1005, 1205, true)), (StallCause::Throttled, None));
        assert_eq!(cause(seen(100, 300, false)).0, StallCause::Sink, "around it");
        assert_eq!(cause(seen(401, 500, false)).0, StallCause::ForeignTask, "the work was before");
    }

    #[test]
    fn no_more_than_so_many_are_told_a_second() {
        let start = Manual::new().runtime().now();
        let mut stalls = Stalls::new(2);
        let told = |stalls: &mut Stalls, at: u32| stalls.may_tell(start + at * MS);
        assert_eq!(
            [0, 10, 999, 1000, 1001, 1999].map(|at| told(&mut stalls, at)),
            [true, true, false, true, true, false]
        );
    }
}
