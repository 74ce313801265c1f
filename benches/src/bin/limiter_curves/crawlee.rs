//! The rule of Crawlee's `AutoscaledPool`, written anew: the desired concurrency goes up by a twentieth every ten seconds
//! while it is used and the *client's* machine is not overloaded.
//!
//! Names and defaults are those of `@crawlee/core` (`AutoscaledPoolOptions`, from 4.0 on `ConcurrencySystemOptions`).
//! What `Snapshotter` and `SystemStatus` call overloaded are memory, event loop, CPU, and the client of Crawlee's own
//! storage, whose 429 count (`maxClientErrors`); what the crawled site answers is none of them. The model's client is
//! never short of anything, so nothing ever takes the concurrency down. A 429 or 5xx of the site makes the request
//! fail; it goes back to the end of the queue, without a wait, `maxRequestRetries` times.

use std::collections::VecDeque;
use std::time::Duration;

use crate::policy::{Client, MOST, Outcome, Start};

/// `autoscaleIntervalSecs`.
const INTERVAL: Duration = Duration::from_secs(10);
/// `scaleUpStepRatio`.
const STEP: f64 = 0.05;
/// `desiredConcurrencyRatio`: the part of the desired concurrency that must be in use.
const USED: f64 = 0.90;
/// What its HTTP crawlers set as `desiredConcurrency`; the pool by itself begins with `minConcurrency`, 1.
const FIRST: u32 = 10;
/// `maxRequestRetries`.
const RETRIES: u32 = 3;
/// URLs that wait, as many as the engine takes in.
const QUEUE: usize = 10_000;

#[derive(Clone, Copy)]
struct Waiting {
    host: usize,
    attempts: u32,
}

pub(crate) struct Crawlee {
    hosts: usize,
    /// The host of the next URL.
    next: usize,
    queue: VecDeque<Waiting>,
    running: Vec<Option<Waiting>>,
    free: Vec<usize>,
    current: u32,
    desired: u32,
    scales_at: Duration,
    lost: u64,
}

impl Crawlee {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            hosts,
            next: 0,
            queue: VecDeque::new(),
            running: Vec::new(),
            free: Vec::new(),
            current: 0,
            desired: FIRST,
            scales_at: INTERVAL,
            lost: 0,
        }
    }
}

impl Client for Crawlee {
    fn start(&mut self, _: Duration) -> Option<Start> {
        while self.queue.len() < QUEUE {
            self.queue.push_back(Waiting { host: self.next, attempts: 0 });
            self.next = (self.next + 1) % self.hosts;
        }
        if self.current >= self.desired {
            return None;
        }
        let mut waiting = self.queue.pop_front()?;
        waiting.attempts += 1;
        self.current += 1;
        let job = self.free.pop().unwrap_or(self.running.len());
        self.running.resize(self.running.len().max(job + 1), None);
        self.running[job] = Some(waiting);
        Some(Start { job, host: waiting.host, attempt: waiting.attempts })
    }

    fn end(&mut self, _: Duration, job: usize, outcome: Outcome) {
        let Some(request) = self.running[job].take() else { return };
        self.free.push(job);
        self.current -= 1;
        match outcome {
            Outcome::Page => {}
            _ if request.attempts > RETRIES => self.lost += 1,
            _ => self.queue.push_back(request),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.scales_at)
    }

    fn wake(&mut self, now: Duration) {
        while self.scales_at <= now {
            self.scales_at += INTERVAL;
            if f64::from(self.current) >= (f64::from(self.desired) * USED).floor() {
                self.desired = (self.desired + (f64::from(self.desired) * STEP).ceil() as u32).min(MOST);
            }
        }
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_a_twentieth_and_at_least_by_one_while_it_is_used() {
        let mut pool = Crawlee::new(1);
        let mut desired = Vec::new();
        for round in 1..=13 {
            while pool.start(INTERVAL * round).is_some() {}
            pool.wake(INTERVAL * round);
            desired.push(pool.desired);
        }
        assert_eq!(desired, [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 25]);
        let mut idle = Crawlee::new(1);
        idle.wake(INTERVAL);
        assert_eq!(idle.desired, FIRST);
    }

    #[test]
    fn a_request_is_tried_four_times() {
        let mut pool = Crawlee::new(1);
        while pool.lost() == 0 {
            let start = pool.start(INTERVAL).expect("a free slot");
            pool.end(INTERVAL, start.job, Outcome::TimedOut);
            assert!(start.attempt <= 4);
        }
    }
}
