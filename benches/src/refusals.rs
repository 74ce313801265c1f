//! When a [`LoadServer`](crate::LoadServer) refuses, and what it says then.

use std::ops::Range;
use std::time::Duration;

/// The rules by which requests are refused. Times are those since the first request.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// Requests a second that are answered, by a bucket that holds a second's worth; 0 for all.
    per_second: f64,
    tokens: f64,
    filled: Duration,
    /// When all are.
    down: Range<Duration>,
    retry_after: Option<u32>,
}

impl Refusals {
    pub(crate) fn new(per_second: u32, down: Range<Duration>, retry_after: Option<u32>) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second, filled: Duration::ZERO, down, retry_after }
    }

    /// The whole answer to a request that comes now, where it is refused.
    pub(crate) fn refuse(&mut self, now: Duration) -> Option<String> {
        let status = match () {
            () if self.down.contains(&now) => "503 Service Unavailable",
            () if !self.take(now) => "429 Too Many Requests",
            () => return None,
        };
        let wait = self.retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
        Some(format!("HTTP/1.1 {status}\r\n{wait}Content-Length: 0\r\n\r\n"))
    }

    fn take(&mut self, now: Duration) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let earned = now.saturating_sub(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(self.per_second);
        self.filled = self.filled.max(now);
        let may = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(may));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_bucket_holds_a_second_and_fills_up_again() {
        let mut refusals = Refusals::new(50, Duration::ZERO..Duration::ZERO, Some(2));
        let mut taken = |now: Duration| (0..100).filter(|_| refusals.refuse(now).is_none()).count();
        assert_eq!([taken(Duration::ZERO), taken(SECOND / 2), taken(SECOND * 9)], [50, 25, 50]);
        let answer = refusals.refuse(SECOND * 9).expect("the bucket is empty");
        assert_eq!(answer, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn it_is_down_from_then_until_then() {
        let mut refusals = Refusals::new(0, SECOND..SECOND * 3, None);
        let mut is_down = |now: Duration| refusals.refuse(now).is_some();
        let nano = Duration::from_nanos(1);
        assert_eq!(
            [is_down(SECOND - nano), is_down(SECOND), is_down(SECOND * 3 - nano), is_down(SECOND * 3)],
            [false, true, true, false]
        );
    }
}
