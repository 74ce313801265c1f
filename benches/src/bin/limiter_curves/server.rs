//! A model of a server: so many requests are served at a time, the others stand in line, and all of it gets slower with
//! what is open. Time and seed are arguments.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a refusal takes.
const REFUSAL: Duration = Duration::from_millis(20);

/// What a server can bear.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Requests that are served at a time.
    pub(crate) slots: u32,
    /// Mean time of a service on a server that is not overloaded.
    pub(crate) service: Duration,
    /// Standard deviation of the logarithm of a service time.
    pub(crate) spread: f64,
    /// The way there and back, in which no slot is held.
    pub(crate) path: Duration,
    /// Part of itself by which a service gets longer for each further `slots` requests that are open.
    pub(crate) slowdown: f64,
    /// Open requests above which it answers 503.
    pub(crate) most_open: u32,
    /// Requests a second, by a bucket of one second, above which it answers 429.
    pub(crate) per_second: Option<u32>,
    /// The `Retry-After` of its refusals.
    pub(crate) retry_after: Option<Duration>,
}

impl Default for Limits {
    /// 200 at once in 100 ms; a service takes half as long again for each further 200; 503 above 3,000.
    fn default() -> Self {
        Self {
            slots: 200,
            service: Duration::from_millis(100),
            spread: 0.1,
            path: Duration::ZERO,
            slowdown: 0.5,
            most_open: 3_000,
            per_second: None,
            retry_after: None,
        }
    }
}

/// A refusal that is at the client at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) at: Duration,
    pub(crate) retry_after: Option<Duration>,
}

/// A server with what it has to do.
pub(crate) struct Server {
    pub(crate) limits: Limits,
    /// Answers 503 to all.
    pub(crate) is_down: bool,
    open: u32,
    busy: u32,
    line: VecDeque<u64>,
    tokens: f64,
    filled: Duration,
    rng: fastrand::Rng,
}

impl Server {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            tokens: limits.per_second.unwrap_or_default().into(),
            limits,
            is_down: false,
            open: 0,
            busy: 0,
            line: VecDeque::new(),
            filled: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Takes a request into its line, or refuses it.
    pub(crate) fn arrive(&mut self, now: Duration, request: u64) -> Option<Refusal> {
        if self.is_down || self.open >= self.limits.most_open || !self.take_token(now) {
            return Some(Refusal { at: now + REFUSAL + self.limits.path, retry_after: self.limits.retry_after });
        }
        self.open += 1;
        self.line.push_back(request);
        None
    }

    fn take_token(&mut self, now: Duration) -> bool {
        let Some(rate) = self.limits.per_second.map(f64::from) else { return true };
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * rate).min(rate);
        self.filled = now;
        let may = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(may));
        may
    }

    /// The next of the line that is served from now on, and until when.
    pub(crate) fn serve(&mut self, now: Duration) -> Option<(u64, Duration)> {
        if self.busy >= self.limits.slots {
            return None;
        }
        let request = self.line.pop_front()?;
        self.busy += 1;
        let slots = f64::from(self.limits.slots);
        let beyond = (f64::from(self.open) - slots).max(0.0) / slots;
        let time = self.limits.service.mul_f64(self.jitter() * (1.0 + self.limits.slowdown * beyond));
        Some((request, now + time))
    }

    /// A service has ended.
    pub(crate) fn served(&mut self) {
        self.busy -= 1;
        self.open -= 1;
    }

    /// The client waits no more. What is being served is served to its end.
    pub(crate) fn leave(&mut self, request: u64) {
        let before = self.line.len();
        self.line.retain(|waiting| *waiting != request);
        self.open -= (before - self.line.len()) as u32;
    }

    /// Log-normal with a mean of one.
    fn jitter(&mut self) -> f64 {
        let (u, v) = (1.0 - self.rng.f64(), self.rng.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let spread = self.limits.spread;
        (spread * normal - spread * spread / 2.0).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn server(limits: Limits) -> Server {
        Server::new(limits, 7)
    }

    #[test]
    fn what_finds_no_slot_stands_in_line_in_its_order() {
        let mut server = server(Limits { slots: 2, ..Limits::default() });
        (0..4).for_each(|request| assert_eq!(server.arrive(MS, request), None));
        let started: Vec<_> = std::iter::from_fn(|| server.serve(MS)).map(|(request, _)| request).collect();
        assert_eq!(started, [0, 1]);
        server.served();
        assert_eq!(server.serve(MS * 100).map(|(request, _)| request), Some(2));
        assert_eq!(server.serve(MS * 100), None);
    }

    #[test]
    fn a_service_gets_longer_with_what_is_open() {
        let mean = |open: u32| {
            let mut server = server(Limits { slots: 100, ..Limits::default() });
            (0..u64::from(open)).for_each(|request| _ = server.arrive(MS, request));
            let times: Vec<_> = std::iter::from_fn(|| server.serve(MS)).map(|(_, until)| until - MS).collect();
            times.iter().sum::<Duration>() / times.len() as u32
        };
        let near = |time: Duration, ms: f64| (time.as_secs_f64() * 1000.0 / ms - 1.0).abs() < 0.05;
        assert!(near(mean(100), 100.0), "{:?}", mean(100));
        assert!(near(mean(200), 150.0), "{:?}", mean(200));
        assert!(near(mean(500), 300.0), "{:?}", mean(500));
    }

    #[test]
    fn it_refuses_beyond_what_may_be_open() {
        let mut server = server(Limits { slots: 1, most_open: 2, ..Limits::default() });
        assert_eq!(server.arrive(MS, 0), None);
        assert_eq!(server.arrive(MS, 1), None);
        assert_eq!(server.arrive(MS, 2), Some(Refusal { at: MS * 21, retry_after: None }));
        server.leave(1);
        assert_eq!(server.arrive(MS, 3), None);
    }

    #[test]
    fn the_bucket_holds_a_second() {
        let retry_after = Some(Duration::from_secs(2));
        let mut server = server(Limits { per_second: Some(50), retry_after, ..Limits::default() });
        let mut taken = |now: Duration| (0..100).filter(|request| server.arrive(now, *request).is_none()).count();
        assert_eq!(taken(Duration::ZERO), 50);
        assert_eq!(taken(MS * 500), 25);
        assert_eq!(taken(MS * 9_000), 50);
    }
}
