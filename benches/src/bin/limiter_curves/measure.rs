//! What is told of a run: curves by the bucket, and figures over all of it.

use std::time::Duration;

use crate::scenario::Scenario;

/// What happened, as the model tells it.
pub(crate) struct Recorder {
    bucket: Duration,
    length: Duration,
    buckets: Vec<Bucket>,
    /// Of the pages of the current bucket.
    latencies: Vec<Duration>,
    /// Of the pages of the last half.
    late: Vec<Duration>,
    /// Fetches in flight, every [`SAMPLE`].
    in_flight: Vec<u32>,
    pub(crate) sent: u64,
    pub(crate) first: u64,
    pub(crate) failures: u64,
    pub(crate) in_wait: u64,
}

/// How often the fetches in flight are looked at.
pub(crate) const SAMPLE: Duration = Duration::from_millis(50);

/// A point of the curves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) pages: u64,
    pub(crate) sent: u64,
    pub(crate) failures: u64,
    /// Mean.
    pub(crate) in_flight: f64,
    /// Of the pages; `None` where none came.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

/// The figures of a run. "Steady" is its last half.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measures {
    /// Pages a second, steady.
    pub(crate) rate: f64,
    /// Of the pages that the servers could have given, steady.
    pub(crate) share: f64,
    /// Mean, steady.
    pub(crate) in_flight: f64,
    /// Coefficient of variation of the fetches in flight, steady: their standard deviation by their mean.
    pub(crate) variation: f64,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    /// Refusals and timeouts, of the whole run.
    pub(crate) failures: u64,
    /// Requests sent although the server had asked for a wait, or was known to be down.
    pub(crate) in_wait: u64,
    /// Requests by URLs.
    pub(crate) amplification: f64,
    pub(crate) lost: u64,
    /// From the end of the fault until the rate is at 90 % of that before it, or of the best where less is possible.
    pub(crate) recovery: Option<Duration>,
    /// Until 90 % of the steady mean are in flight.
    pub(crate) reach: Option<Duration>,
    /// The most in flight, and when they first were.
    pub(crate) peak: (u32, Duration),
}

impl Recorder {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            bucket: scenario.bucket,
            length: scenario.length,
            buckets: Vec::new(),
            latencies: Vec::new(),
            late: Vec::new(),
            in_flight: Vec::new(),
            sent: 0,
            first: 0,
            failures: 0,
            in_wait: 0,
        }
    }

    pub(crate) fn sample(&mut self, in_flight: u32) {
        self.in_flight.push(in_flight);
    }

    pub(crate) fn page(&mut self, now: Duration, latency: Duration) {
        self.latencies.push(latency);
        if now >= self.length / 2 {
            self.late.push(latency);
        }
    }

    /// A bucket is full.
    pub(crate) fn close_bucket(&mut self) {
        self.latencies.sort_unstable();
        let done = |of: fn(&Bucket) -> u64| self.buckets.iter().map(of).sum::<u64>();
        let samples = (self.bucket.as_nanos() / SAMPLE.as_nanos()) as usize;
        let in_flight = &self.in_flight[self.in_flight.len().saturating_sub(samples)..];
        self.buckets.push(Bucket {
            pages: self.latencies.len() as u64,
            sent: self.sent - done(|bucket| bucket.sent),
            failures: self.failures - done(|bucket| bucket.failures),
            in_flight: mean(in_flight),
            p50: quantile(&self.latencies, 0.5),
            p99: quantile(&self.latencies, 0.99),
        });
        self.latencies.clear();
    }

    pub(crate) fn finish(mut self, scenario: &Scenario, lost: u64) -> (Vec<Bucket>, Measures) {
        self.late.sort_unstable();
        let half = self.length / 2;
        let width = self.bucket.as_secs_f64();
        let time = |n: usize| self.bucket * n as u32;
        let late = || self.buckets.iter().enumerate().filter(|(n, _)| time(*n) >= half);
        let pages: u64 = late().map(|(_, bucket)| bucket.pages).sum();
        let best: f64 = late().map(|(n, _)| scenario.best(time(n)) * width).sum();
        let steady = &self.in_flight[self.in_flight.len() / 2..];
        let at = |n: usize| SAMPLE * n as u32;
        let enough = 0.9 * mean(steady);
        let peak = self.in_flight.iter().copied().max().unwrap_or_default();
        let measures = Measures {
            rate: pages as f64 / (self.length - half).as_secs_f64(),
            share: if best > 0.0 { pages as f64 / best } else { 0.0 },
            in_flight: mean(steady),
            variation: variation(steady),
            p50: quantile(&self.late, 0.5),
            p99: quantile(&self.late, 0.99),
            failures: self.failures,
            in_wait: self.in_wait,
            amplification: self.sent as f64 / self.first.max(1) as f64,
            lost,
            recovery: scenario.fault.and_then(|(begins, ends)| {
                let rates: Vec<_> = self.buckets.iter().map(|bucket| bucket.pages as f64 / width).collect();
                let bucket = |at: Duration| (at.as_nanos() / self.bucket.as_nanos()) as usize;
                recovery(&rates, bucket(begins), bucket(ends), |n| scenario.best(time(n))).map(time)
            }),
            reach: self.in_flight.iter().position(|n| f64::from(*n) >= enough).map(at),
            peak: (peak, at(self.in_flight.iter().position(|n| *n == peak).unwrap_or_default())),
        };
        (self.buckets, measures)
    }
}

fn mean(values: &[u32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation by mean.
fn variation(values: &[u32]) -> f64 {
    let mean = mean(values);
    let variance =
        values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
    if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }
}

/// Of sorted values, the nearest rank.
fn quantile(values: &[Duration], part: f64) -> Option<Duration> {
    let rank = (values.len() as f64 * part).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Buckets from the end of a fault until the rate is back: at 90 % of its mean over the ten buckets before the fault, or of
/// the best that is possible where that is less.
fn recovery(rates: &[f64], begins: usize, ends: usize, best: impl Fn(usize) -> f64) -> Option<usize> {
    let before = &rates[begins.saturating_sub(10)..begins];
    let before = before.iter().sum::<f64>() / before.len().max(1) as f64;
    (ends..rates.len()).position(|n| rates[n] >= 0.9 * before.min(best(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variation_is_none_for_a_level_and_one_for_a_square_wave() {
        assert_eq!(variation(&[200; 8]), 0.0);
        assert_eq!(variation(&[0, 100, 0, 100]), 1.0);
        // A sawtooth from 50 to 100 swings by a fifth of its mean.
        let sawtooth: Vec<_> = (0..500).map(|n| 50 + n % 51).collect();
        assert!((variation(&sawtooth) - 0.196).abs() < 0.01, "{}", variation(&sawtooth));
        assert_eq!(variation(&[]), 0.0);
    }

    #[test]
    fn recovery_counts_from_the_end_of_the_fault() {
        let rates = [100.0, 100.0, 0.0, 0.0, 10.0, 50.0, 95.0, 100.0];
        assert_eq!(recovery(&rates, 2, 4, |_| 100.0), Some(2));
        assert_eq!(recovery(&rates, 2, 4, |_| 50.0), Some(1));
        assert_eq!(recovery(&rates[..6], 2, 4, |_| 100.0), None);
    }

    #[test]
    fn quantiles_take_the_nearest_rank() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Some(Duration::from_millis(100)));
        assert_eq!(quantile(&values, 0.99), Some(Duration::from_millis(198)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
