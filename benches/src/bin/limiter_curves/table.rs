//! The figures as a table, the curves as CSV.

use std::io::{self, Write};
use std::time::Duration;

use crate::measure::Measures;
use crate::model::Run;
use crate::scenario::Scenario;

pub(crate) const HEAD: &str = "scenario   policy      pages/s  best%  in flight    CV  p50 ms  p99 ms  failures  in wait  sent/URL     lost  recovers s  reaches s";

/// A line of the table.
pub(crate) fn line(scenario: &str, policy: &str, measures: &Measures) -> String {
    let Measures {
        rate,
        share,
        in_flight,
        variation,
        p50,
        p99,
        failures,
        in_wait,
        amplification,
        lost,
        recovery,
        reach,
        peak: _,
    } = measures;
    let share = share * 100.0;
    let (recovery, reach) = (seconds(*recovery), seconds(*reach));
    let (p50, p99) = (millis(*p50), millis(*p99));
    format!(
        "{scenario:<10} {policy:<10} {rate:>8.0} {share:>6.1} {in_flight:>10.1} {variation:>5.2} {p50:>7} {p99:>7} \
         {failures:>9} {in_wait:>8} {amplification:>9.3} {lost:>8} {recovery:>11} {reach:>10}"
    )
}

pub(crate) fn csv(scenario: &Scenario, runs: &[Run], mut out: impl Write) -> io::Result<()> {
    writeln!(out, "policy,seconds,pages_per_second,sent_per_second,failures_per_second,in_flight,p50_ms,p99_ms")?;
    let width = scenario.bucket.as_secs_f64();
    let millis =
        |time: Option<Duration>| time.map(|time| format!("{:.1}", time.as_secs_f64() * 1e3)).unwrap_or_default();
    for run in runs {
        for (n, bucket) in run.buckets.iter().enumerate() {
            let per_second = |count: u64| count as f64 / width;
            writeln!(
                out,
                "{},{:.1},{:.1},{:.1},{:.1},{:.1},{},{}",
                run.policy.text(),
                (n + 1) as f64 * width,
                per_second(bucket.pages),
                per_second(bucket.sent),
                per_second(bucket.failures),
                bucket.in_flight,
                millis(bucket.p50),
                millis(bucket.p99),
            )?;
        }
    }
    Ok(())
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{:.0}", time.as_secs_f64() * 1e3))
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{:.1}", time.as_secs_f64()))
}
