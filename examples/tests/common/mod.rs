//! What the tests of the crawl share: runtimes, a watchdog, a site made of closures, and the check of the accounts.

#![allow(dead_code, clippy::print_stderr, reason = "each test binary uses a part of it; the watchdog speaks")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tidegate::rt::Runtime;
use tidegate::sink::Collect;
use tidegate::{Builder, Crawl, Error, Head, Output, Page, ParseError, Profile, Report, Request, Response, Settled};

/// One test for each case on each runtime, with one thread and with two.
macro_rules! on_all_runtimes {
    ($($case:ident),* $(,)?) => {
        on_all_runtimes!(@module tokio_1, tidegate_tokio::dedicated(), $($case)*);
        on_all_runtimes!(@module tokio_2, tidegate_tokio::runtime($crate::common::TWO), $($case)*);
        on_all_runtimes!(@module smol_1, tidegate_smol::dedicated(), $($case)*);
        on_all_runtimes!(@module smol_2, tidegate_smol::runtime($crate::common::TWO), $($case)*);
    };
    (@module $name:ident, $runtime:expr, $($case:ident)*) => {
        mod $name {
            $(#[test]
            fn $case() {
                $crate::common::watched(concat!(stringify!($name), "::", stringify!($case)), || {
                    super::$case(&$runtime.expect("threads and descriptors"));
                });
            })*
        }
    };
}

pub(crate) const TWO: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(1);

/// Runs a test; one that hangs takes the process down and says its name.
pub(crate) fn watched(name: &'static str, test: impl FnOnce()) {
    let (done, over) = std::sync::mpsc::channel::<()>();
    let dog = std::thread::spawn(move || {
        if over.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("watchdog: {name} hangs");
            std::process::abort();
        }
    });
    let result = catch_unwind(AssertUnwindSafe(test));
    drop(done);
    dog.join().expect("the watchdog does not panic");
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Waits for a condition; the watchdog bounds it.
pub(crate) fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        #[expect(clippy::disallowed_methods, reason = "polls a condition from outside of any runtime")]
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn n(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// A door that tasks wait at until the test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    pub(crate) fn open(&self) {
        let wakers = {
            let mut state = lock(&self.0);
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) async fn wait(&self) {
        std::future::poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Is polled a few times before it is ready.
pub(crate) async fn dally(times: u32) {
    let mut left = times;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// How often each URL was asked for.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<BTreeMap<String, u32>>>);

impl Seen {
    /// Counts one; gives how many there were before.
    pub(crate) fn add(&self, url: &str) -> u32 {
        let mut map = lock(&self.0);
        let count = map.entry(url.to_owned()).or_insert(0);
        *count += 1;
        *count - 1
    }

    pub(crate) fn of(&self, url: &str) -> u32 {
        lock(&self.0).get(url).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> BTreeMap<String, u32> {
        lock(&self.0).clone()
    }

    pub(crate) fn total(&self) -> u32 {
        lock(&self.0).values().sum()
    }
}

/// An answer of a made-up site.
pub(crate) fn answer(request: &Request, status: u16, body: impl Into<String>) -> Response {
    let status = http::StatusCode::from_u16(status).expect("a literal of a test");
    Response::new(Head::new(request.target().expect("a URL that was admitted"), status), body.into())
}

pub(crate) fn with_header(mut response: Response, name: &'static str, value: &str) -> Response {
    Arc::make_mut(&mut response.head).headers.insert(name, value.parse().expect("a literal of a test"));
    response
}

/// A binary tree of pages `/0` to `/size - 1`, each with an item that is its own number.
pub(crate) fn tree(request: &Request, size: u32) -> Result<Response, Error> {
    let target = request.target()?;
    let number: u32 = target.path()[1..].parse().expect("a page of the tree");
    let mut body = format!("={number}\n");
    for child in [2 * number + 1, 2 * number + 2] {
        if child < size {
            body.push_str(&format!(">/{child}\n"));
        }
    }
    Ok(answer(request, 200, body))
}

/// `=item` and `>link`, one a line.
pub(crate) fn lines(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    for line in page.utf8().lines() {
        match line.split_at_checked(1) {
            Some(("=", item)) => out.item(item.to_owned()),
            Some((">", href)) => out.follow(href),
            _ => {}
        }
    }
    Ok(())
}

/// A crawl that is in a hurry.
pub(crate) fn crawl(runtime: &Runtime) -> Builder<String> {
    Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .backoff(ms(1), ms(3))
        .retry_budget(100.0)
        .random_seed(7)
        .parse_with(lines)
}

pub(crate) fn outcomes() -> Collect<Settled> {
    tidegate::sink::collect()
}

/// The accounts of a crawl that has ended: conservation, and exactly one outcome for each URL.
pub(crate) fn settled(report: &Report, outcomes: &Collect<Settled>) -> Vec<Settled> {
    let c = &report.totals.counters;
    assert_eq!(c.submitted, c.ok + c.error + c.skipped + c.cancelled, "{report}");
    assert_eq!((c.in_flight, c.jobs, c.parse_queued), (0, 0, 0), "{report}");
    let mut list: Vec<_> = outcomes.take().into_iter().map(|delivery| delivery.item).collect();
    list.sort_by_key(|settled| settled.job);
    let jobs: Vec<_> = list.iter().map(|settled| settled.job).collect();
    assert_eq!(jobs, (1..=c.submitted).collect::<Vec<_>>(), "one outcome for each URL: {report}");
    let count = |name: &str| list.iter().filter(|settled| settled.outcome.name() == name).count() as u64;
    assert_eq!(
        (c.ok, c.error, c.skipped, c.cancelled),
        (count("ok"), count("error"), count("skipped"), count("cancelled"))
    );
    list
}

/// `path outcome`, for the error and skip codes too.
pub(crate) fn summary(settled: &[Settled]) -> BTreeMap<String, String> {
    let one = |s: &Settled| {
        let path = s.request.target().map_or_else(|_| s.request.url().to_owned(), |url| url.path().to_owned());
        (path, code(s))
    };
    settled.iter().map(one).collect()
}

pub(crate) fn code(settled: &Settled) -> String {
    match &settled.outcome {
        tidegate::Outcome::Error(error) => error.kind().code().to_owned(),
        tidegate::Outcome::Skipped(reason) => reason.code().to_owned(),
        other => other.name().to_owned(),
    }
}
