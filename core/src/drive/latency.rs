//! How long things take: histograms of each phase, over the whole run and over the last window.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Timings;

/// What is measured, in the order of the fields of [`Latencies`].
#[derive(Clone, Copy)]
enum Of {
    Queue,
    Local,
    Dns,
    Connect,
    Tls,
    FirstByte,
    Body,
    Total,
    Parse,
}

/// Durations of one kind. What is new is counted once, and added to the whole run when its half of a window is over.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// Without the two halves below.
    whole: Histogram<u64>,
    before: Histogram<u64>,
    now: Histogram<u64>,
}

/// All of them. About 700 KiB, of which only what is written to takes memory.
#[derive(Clone, Debug)]
pub(super) struct Tracks([Track; 9]);

/// Quantiles of durations; all zero where there was none. Each is at most 1 % above the true value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p50: Duration,
    /// 99 of 100.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p99: Duration,
    /// 999 of 1,000.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p999: Duration,
    /// The longest.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub max: Duration,
}

/// Quantiles over the whole run, and over the last window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Latency {
    /// Since the start.
    pub run: Quantiles,
    /// Between half of a window and all of it.
    pub window: Quantiles,
}

/// How long each part of an attempt took, where it happened. See [`Timings`] for where each begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Latencies {
    /// From submission to the start: queue, politeness, back-off.
    pub queue: Latency,
    /// What this machine added: lag, and waiting for room in the ledger and in the byte budget.
    pub local: Latency,
    /// Name resolution within a fetch.
    pub dns: Latency,
    /// Connection, where a new one was made.
    pub connect: Latency,
    /// TLS handshake, where there was one.
    pub tls: Latency,
    /// From the request being sent to the complete head.
    pub first_byte: Latency,
    /// The body.
    pub body: Latency,
    /// The attempt as a whole.
    pub total: Latency,
    /// Decoding and parsing a page.
    pub parse: Latency,
}

fn histogram() -> Histogram<u64> {
    // Microseconds, up to an hour, within a hundredth.
    Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("constant bounds are valid")
}

impl Track {
    pub(super) fn new() -> Self {
        Self { whole: histogram(), before: histogram(), now: histogram() }
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.now.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn turn(&mut self) {
        if !self.before.is_empty() {
            self.whole.add(&self.before).expect("equal bounds");
            self.before.reset();
        }
        std::mem::swap(&mut self.before, &mut self.now);
    }

    pub(super) fn latency(&self) -> Latency {
        let mut sum = self.before.clone();
        sum.add(&self.now).expect("equal bounds");
        let window = quantiles(&sum);
        sum.add(&self.whole).expect("equal bounds");
        Latency { run: quantiles(&sum), window }
    }
}

fn quantiles(of: &Histogram<u64>) -> Quantiles {
    if of.is_empty() {
        return Quantiles::default();
    }
    let at = |part| Duration::from_micros(of.value_at_quantile(part));
    Quantiles { count: of.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: Duration::from_micros(of.max()) }
}

impl Tracks {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Track::new()))
    }

    fn record(&mut self, of: Of, took: Option<Duration>) {
        if let Some(took) = took {
            self.0[of as usize].record(took);
        }
    }

    /// An attempt ended.
    pub(super) fn fetched(&mut self, timings: &Timings) {
        let t = timings;
        for (of, took) in [
            (Of::Queue, t.queue),
            (Of::Local, t.local),
            (Of::Dns, t.dns),
            (Of::Connect, t.connect),
            (Of::Tls, t.tls),
            (Of::FirstByte, t.first_byte),
            (Of::Body, t.body),
            (Of::Total, t.total),
        ] {
            self.record(of, took);
        }
    }

    /// A page was decoded and parsed.
    pub(super) fn parsed(&mut self, took: Duration) {
        self.record(Of::Parse, Some(took));
    }

    /// Half a window is over.
    pub(super) fn turn(&mut self) {
        self.0.iter_mut().for_each(Track::turn);
    }

    pub(super) fn latencies(&self) -> Latencies {
        let of = |of: Of| self.0[of as usize].latency();
        Latencies {
            queue: of(Of::Queue),
            local: of(Of::Local),
            dns: of(Of::Dns),
            connect: of(Of::Connect),
            tls: of(Of::Tls),
            first_byte: of(Of::FirstByte),
            body: of(Of::Body),
            total: of(Of::Total),
            parse: of(Of::Parse),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(is: Duration, expected: Duration) {
        assert!(is >= expected && is <= expected + expected / 100, "{is:?}, not {expected:?}");
    }

    #[test]
    fn the_whole_run_keeps_what_the_window_forgets() {
        let mut tracks = Tracks::new();
        (1..=1_000).for_each(|n| tracks.parsed(MS * n));
        let parse = tracks.latencies().parse;
        assert_eq!(parse.run, parse.window);
        assert_eq!(parse.run.count, 1_000);
        near(parse.run.p50, 500 * MS);
        near(parse.run.p99, 990 * MS);
        near(parse.run.p999, 999 * MS);
        near(parse.run.max, 1_000 * MS);
        tracks.turn();
        tracks.parsed(7 * MS);
        let parse = tracks.latencies().parse;
        assert_eq!((parse.run.count, parse.window.count), (1_001, 1_001), "half a window is kept whole");
        tracks.turn();
        let parse = tracks.latencies().parse;
        assert_eq!((parse.run.count, parse.window.count), (1_001, 1));
        near(parse.window.max, 7 * MS);
        near(parse.run.max, 1_000 * MS);
        tracks.turn();
        assert_eq!(tracks.latencies().parse.window, Quantiles::default());
    }

    #[test]
    fn what_did_not_happen_is_not_counted() {
        let mut tracks = Tracks::new();
        let timings = Timings { queue: Some(MS), total: Some(Duration::MAX), ..Timings::default() };
        tracks.fetched(&timings);
        let latencies = tracks.latencies();
        assert_eq!((latencies.queue.run.count, latencies.dns.run.count, latencies.total.run.count), (1, 0, 1));
        assert!(latencies.total.run.max <= Duration::from_secs(3_640), "an hour at most");
    }
}
