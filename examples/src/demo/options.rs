//! The knobs of the demo site.

use std::time::Duration;

/// What the site is made of; the defaults are what `--demo` uses.
///
/// ```
/// use tidegate_examples::demo::DemoOptions;
///
/// let mut options = DemoOptions::default();
/// options.pages = 500;
/// assert_eq!(options.seed, 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DemoOptions {
    /// Decides names, prices, texts and links. The same seed gives the same site.
    pub seed: u64,
    /// HTML pages that a patient visitor finds from the home page; at least 200, of which a fifth are products.
    pub pages: u32,
    /// Port to listen on; 0, the default, takes a free one.
    pub port: u16,
    /// Requests to `/limited/` that are answered in any one second; 20 by default.
    pub limited_per_second: u32,
    /// How long after a 429 a further request is still taken to have been under way, and so is no violation; 50 ms by
    /// default.
    pub limited_grace: Duration,
    /// Paths `/monitor/0` to here; 5,000 by default.
    pub monitors: u32,
    /// How many request times are kept for histograms; 0, the default, keeps none.
    pub starts_log: usize,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            pages: 3_000,
            port: 0,
            limited_per_second: 20,
            limited_grace: Duration::from_millis(50),
            monitors: 5_000,
            starts_log: 0,
        }
    }
}
