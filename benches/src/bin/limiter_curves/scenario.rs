//! What the server does while it is crawled.

use std::time::Duration;

use clap::ValueEnum;

use crate::server::Limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Degrading,
    Unlimited,
    Rate,
    Down,
    DownTold,
    Shift,
    Latency,
    Many,
}

/// A course of events, the same for all policies.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: Name,
    /// What is drawn above the picture.
    pub(crate) title: &'static str,
    pub(crate) limits: Limits,
    pub(crate) hosts: u32,
    pub(crate) length: Duration,
    /// Over what the curves are averaged.
    pub(crate) bucket: Duration,
    pub(crate) changes: Vec<(Duration, Change)>,
    /// When the fault begins and when it is over, where there is one.
    pub(crate) fault: Option<(Duration, Duration)>,
    /// Fetches in flight at first, where it is not the engine's default.
    pub(crate) ramp_from: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Slots(u32),
    Path(Duration),
    Down(bool),
}

const SECOND: Duration = Duration::from_secs(1);

impl Name {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Degrading => "degrading",
            Self::Unlimited => "unlimited",
            Self::Rate => "rate",
            Self::Down => "down",
            Self::DownTold => "down-told",
            Self::Shift => "shift",
            Self::Latency => "latency",
            Self::Many => "many",
        }
    }

    /// A server that is down is so for `down`.
    pub(crate) fn scenario(self, down: Duration) -> Scenario {
        let up = SECOND * 20 + down;
        let unlimited = Limits { slots: u32::MAX, slowdown: 0.0, most_open: u32::MAX, ..Limits::default() };
        let plain = Scenario {
            name: self,
            title: "200 at once in 100 ms, slower beyond",
            limits: Limits::default(),
            hosts: 1,
            length: SECOND * 120,
            bucket: SECOND,
            changes: Vec::new(),
            fault: None,
            ramp_from: None,
        };
        let down = Scenario {
            changes: vec![(SECOND * 20, Change::Down(true)), (up, Change::Down(false))],
            fault: Some((SECOND * 20, up)),
            ..plain.clone()
        };
        match self {
            Self::Degrading => plain,
            Self::Unlimited => Scenario {
                title: "100 ms, however many are open",
                limits: unlimited,
                length: SECOND * 15,
                bucket: SECOND / 5,
                ramp_from: Some(1),
                ..plain
            },
            Self::Rate => Scenario {
                title: "429 with Retry-After: 2 above 50 requests/s",
                limits: Limits { per_second: Some(50), retry_after: Some(SECOND * 2), ..unlimited },
                ..plain
            },
            Self::Down => Scenario { title: "503 from 20 s on", ..down },
            Self::DownTold => Scenario {
                title: "503 with Retry-After: 2 from 20 s on",
                limits: Limits { retry_after: Some(SECOND * 2), ..down.limits },
                ..down
            },
            Self::Shift => Scenario {
                title: "200 at once, 50 from 40 s to 80 s",
                changes: vec![(SECOND * 40, Change::Slots(50)), (SECOND * 80, Change::Slots(200))],
                fault: Some((SECOND * 40, SECOND * 80)),
                ..plain
            },
            Self::Latency => Scenario {
                title: "the way there and back takes 200 ms more from 40 s on",
                changes: vec![(SECOND * 40, Change::Path(SECOND / 5))],
                fault: Some((SECOND * 40, SECOND * 40)),
                ..plain
            },
            Self::Many => Scenario {
                title: "1,000 hosts, each 4 at once in 100 ms",
                limits: Limits { slots: 4, most_open: 60, ..Limits::default() },
                hosts: 1_000,
                length: SECOND * 40,
                ..plain
            },
        }
    }
}

impl Scenario {
    /// Pages a second that the servers can give at most at that time, with 10,000 in flight.
    pub(crate) fn best(&self, time: Duration) -> f64 {
        let (mut slots, mut path, mut is_down) = (self.limits.slots, self.limits.path, false);
        for (_, change) in self.changes.iter().filter(|(at, _)| *at <= time) {
            match *change {
                Change::Slots(n) => slots = n,
                Change::Path(time) => path = time,
                Change::Down(down) => is_down = down,
            }
        }
        if is_down {
            return 0.0;
        }
        let hosts = f64::from(self.hosts);
        let served = f64::from(slots) / self.limits.service.as_secs_f64() * hosts;
        let in_flight = f64::from(crate::policy::MOST) / (self.limits.service + path).as_secs_f64();
        let allowed = self.limits.per_second.map_or(f64::INFINITY, |rate| f64::from(rate) * hosts);
        served.min(in_flight).min(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_possible_follows_the_changes() {
        let best = |name: Name, second| name.scenario(SECOND * 30).best(SECOND * second);
        assert_eq!([best(Name::Shift, 39), best(Name::Shift, 40), best(Name::Shift, 80)], [2_000.0, 500.0, 2_000.0]);
        assert_eq!([best(Name::Down, 0), best(Name::Down, 30), best(Name::Down, 50)], [2_000.0, 0.0, 2_000.0]);
        assert_eq!([best(Name::Rate, 9), best(Name::Unlimited, 9), best(Name::Many, 9)], [50.0, 100_000.0, 40_000.0]);
    }
}
