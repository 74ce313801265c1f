//! Client and servers in virtual time: equal seeds give equal runs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::measure::{Bucket, Measures, Recorder, SAMPLE};
use crate::policy::{Client, Outcome, Policy, Start};
use crate::scenario::{Change, Scenario};
use crate::server::Server;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Run {
    pub(crate) policy: Policy,
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) measures: Measures,
}

struct Model {
    client: Box<dyn Client>,
    servers: Vec<Server>,
    /// Until when each server asked to be left alone, as far as the client knows.
    waits: Vec<Duration>,
    now: Duration,
    due: BinaryHeap<Reverse<(Duration, u64, Due)>>,
    order: u64,
    /// Requests that the client waits for, by their numbers.
    open: HashMap<u64, Open>,
    number: u64,
    /// When it gives up which request: the oldest first.
    deadlines: VecDeque<(Duration, u64)>,
    recorder: Recorder,
    /// The end of the time in which the servers are down, from the first 503 that the client has seen.
    down_until: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Open {
    start: Start,
    at: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Change(usize),
    Served { host: usize, request: u64 },
    Page { request: u64 },
    Refused { request: u64, retry_after: Option<Duration> },
}

/// Runs a scenario to its end.
pub(crate) fn run(scenario: &Scenario, policy: Policy, seed: u64) -> Run {
    let server = |n: u32| Server::new(scenario.limits.clone(), seed.wrapping_add(1 + u64::from(n)));
    let mut model = Model {
        client: policy.client(scenario, seed),
        servers: (0..scenario.hosts).map(server).collect(),
        waits: vec![Duration::ZERO; scenario.hosts as usize],
        now: Duration::ZERO,
        due: BinaryHeap::new(),
        order: 0,
        open: HashMap::new(),
        number: 0,
        deadlines: VecDeque::new(),
        recorder: Recorder::new(scenario),
        down_until: None,
    };
    for (n, (at, _)) in scenario.changes.iter().enumerate() {
        model.at(*at, Due::Change(n));
    }
    let buckets = (scenario.length.as_nanos() / scenario.bucket.as_nanos()) as u32;
    let samples = (scenario.bucket.as_nanos() / SAMPLE.as_nanos()) as u32;
    for bucket in 0..buckets {
        for sample in 1..=samples {
            model.run_until(scenario, scenario.bucket * bucket + SAMPLE * sample);
            model.recorder.sample(model.open.len() as u32);
        }
        model.recorder.close_bucket();
    }
    let lost = model.client.lost();
    let (buckets, measures) = model.recorder.finish(scenario, lost);
    Run { policy, buckets, measures }
}

impl Model {
    fn at(&mut self, time: Duration, due: Due) {
        self.order += 1;
        self.due.push(Reverse((time, self.order, due)));
    }

    /// Up to a time, what is due then left for later.
    fn run_until(&mut self, scenario: &Scenario, end: Duration) {
        loop {
            while let Some(start) = self.client.start(self.now) {
                self.send(start);
            }
            let event = self.due.peek().map(|Reverse((time, ..))| *time);
            let deadline = self.deadlines.front().map(|(time, _)| *time);
            let wake = self.client.timeout();
            let Some(next) = [event, deadline, wake].into_iter().flatten().min().filter(|time| *time < end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if wake.is_some_and(|time| time <= self.now) {
                self.client.wake(self.now);
            } else if event.is_some_and(|time| time <= self.now) {
                let due = self.due.pop().map(|Reverse((_, _, due))| due);
                due.into_iter().for_each(|due| self.take(scenario, due));
            } else if let Some((_, request)) = self.deadlines.pop_front() {
                self.give_up(request);
            }
        }
    }

    fn send(&mut self, start: Start) {
        let request = self.number;
        self.number += 1;
        self.recorder.sent += 1;
        self.recorder.first += u64::from(start.attempt == 1);
        let told = self.waits[start.host].max(self.down_until.unwrap_or_default());
        self.recorder.in_wait += u64::from(self.now < told);
        self.open.insert(request, Open { start, at: self.now });
        self.deadlines.push_back((self.now + PATIENCE, request));
        match self.servers[start.host].arrive(self.now, request) {
            Some(refusal) => self.at(refusal.at, Due::Refused { request, retry_after: refusal.retry_after }),
            None => self.serve(start.host),
        }
    }

    /// Begins what a server has a slot for.
    fn serve(&mut self, host: usize) {
        while let Some((request, until)) = self.servers[host].serve(self.now) {
            self.at(until, Due::Served { host, request });
        }
    }

    fn take(&mut self, scenario: &Scenario, due: Due) {
        match due {
            Due::Change(n) => {
                for host in 0..self.servers.len() {
                    match scenario.changes[n].1 {
                        Change::Slots(slots) => self.servers[host].limits.slots = slots,
                        Change::Path(path) => self.servers[host].limits.path = path,
                        Change::Down(down) => self.servers[host].is_down = down,
                    }
                    self.serve(host);
                }
            }
            Due::Served { host, request } => {
                let server = &mut self.servers[host];
                server.served();
                let path = server.limits.path;
                self.serve(host);
                self.at(self.now + path, Due::Page { request });
            }
            Due::Page { request } => self.end(request, Outcome::Page),
            Due::Refused { request, retry_after } => {
                let host = self.open.get(&request).map(|open| open.start.host);
                if let Some(host) = host {
                    if let Some(wait) = retry_after {
                        self.waits[host] = self.waits[host].max(self.now + wait);
                    }
                    if self.servers[host].is_down {
                        self.down_until = scenario.fault.map(|(_, ends)| ends);
                    }
                }
                self.end(request, Outcome::Refused { retry_after });
            }
        }
    }

    fn give_up(&mut self, request: u64) {
        let Some(open) = self.open.get(&request) else { return };
        let host = open.start.host;
        self.servers[host].leave(request);
        self.end(request, Outcome::TimedOut);
    }

    fn end(&mut self, request: u64, outcome: Outcome) {
        let Some(Open { start, at }) = self.open.remove(&request) else { return };
        match outcome {
            Outcome::Page => self.recorder.page(self.now, self.now - at),
            Outcome::Refused { .. } | Outcome::TimedOut => self.recorder.failures += 1,
        }
        self.client.end(self.now, start.job, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Name;
    use crate::table;

    fn short(name: Name) -> Scenario {
        Scenario { length: Duration::from_secs(6), ..name.scenario(Duration::from_secs(30)) }
    }

    #[test]
    fn equal_seeds_give_equal_curves() {
        let csv = |name: Name, seed| {
            let runs: Vec<_> = Policy::ALL.into_iter().map(|policy| run(&short(name), policy, seed)).collect();
            let mut out = Vec::new();
            table::csv(&short(name), &runs, &mut out).expect("a vector takes all");
            out
        };
        for name in [Name::Degrading, Name::Rate] {
            assert_eq!(csv(name, 3), csv(name, 3));
            assert_ne!(csv(name, 3), csv(name, 4));
        }
    }

    #[test]
    fn requests_during_a_wait_are_counted() {
        let in_wait = |policy| run(&short(Name::Rate), policy, 1).measures.in_wait;
        assert_eq!(in_wait(Policy::Fixed(200)), 0);
        // Ten at a time, each answered at once or refused at once, whatever was asked for.
        assert!(in_wait(Policy::Crawlee) > 100);
    }

    #[test]
    fn a_fixed_limit_gives_what_littles_law_says() {
        let Measures { rate, in_flight, variation, failures, .. } =
            run(&short(Name::Degrading), Policy::Fixed(10), 1).measures;
        // 10 in flight of 100 ms each.
        assert!((rate - 100.0).abs() < 3.0, "{rate}");
        assert_eq!((in_flight, variation, failures), (10.0, 0.0, 0));
    }
}
