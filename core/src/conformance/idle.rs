//! A crawl that has nothing to do polls nothing.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::support::on;
use super::{Harness, Signal};
use crate::rt::{BoxFuture, Runtime, Spawn};
use crate::{Crawl, Error, Head, Profile, Request, Response};

/// A crawl whose frontier waits from the start polls nothing for a second of the runtime's time.
pub fn a_crawl_that_waits_polls_nothing<H: Harness>(harness: &Arc<H>) {
    polls_nothing(harness, 0);
}

/// The same after it has fetched something.
pub fn a_crawl_that_waits_again_polls_nothing<H: Harness>(harness: &Arc<H>) {
    polls_nothing(harness, 3);
}

fn polls_nothing<H: Harness>(harness: &Arc<H>, fetches: usize) {
    /// Longer than any beat of the crawl.
    const QUIET: Duration = Duration::from_millis(200);
    /// Such times that it may need to come to rest.
    const PATIENCE: u32 = 20;

    let polls = Arc::new(AtomicU64::new(0));
    let (runtime, counted) = (harness.runtime(), Counted { outer: harness.runtime(), polls: Arc::clone(&polls) });
    on(&**harness, async move {
        let waits = Signal::new();
        let asked = waits.clone();
        let wait = stream::once(poll_fn(move |_| {
            asked.raise();
            Poll::<Request>::Pending
        }));
        let requests = stream::iter((0..fetches).map(|n| Request::get(format!("http://192.0.2.1/{n}")))).chain(wait);
        let crawl = Crawl::builder::<()>(runtime.clone().with_spawn(counted))
            .profile(Profile::own())
            .requests(requests)
            .fetcher(async |request: Request| answer(&request))
            .start()
            .expect("nothing is missing");
        let handle = crawl.handle();
        waits.wait().await;
        // Until what it had to do is done: as soon as nothing happens for a while.
        let (mut before, mut looked) = (u64::MAX, 0);
        while before != polls.load(SeqCst) {
            assert!(looked < PATIENCE, "a crawl that waits does not come to rest");
            looked += 1;
            before = polls.load(SeqCst);
            runtime.sleep_until(runtime.now() + QUIET).await;
        }
        runtime.sleep_until(runtime.now() + Duration::from_secs(1)).await;
        assert_eq!(polls.load(SeqCst) - before, 0, "polls of a crawl that waits");
        let settled = handle.snapshot().counters.ok;
        assert_eq!(settled, fetches as u64);
        drop(crawl);
    });
}

fn answer(request: &Request) -> Result<Response, Error> {
    Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), "hello"))
}

/// Counts how often tasks are polled.
struct Counted {
    outer: Runtime,
    polls: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self, mut task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let polls = Arc::clone(&self.polls);
        Box::pin(poll_fn(move |cx| {
            polls.fetch_add(1, SeqCst);
            task.as_mut().poll(cx)
        }))
    }
}

impl Spawn for Counted {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.outer.spawner().spawn(self.count(task));
    }

    fn spawn_from(&self, task: BoxFuture<'static, ()>, from: &'static Location<'static>) {
        self.outer.spawner().spawn_from(self.count(task), from);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        self.outer.spawner().yield_now()
    }

    fn parallelism(&self) -> NonZeroUsize {
        self.outer.spawner().parallelism()
    }
}
