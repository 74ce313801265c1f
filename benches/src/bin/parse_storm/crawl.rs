//! The storm as a crawl: fetch loop and parse stage.

use std::sync::{Arc, mpsc};

use tidegate::http::HttpFetcher;
use tidegate::rt::{Inline, Job, Offload, Place, Rejected, Runtime, Ticket};
use tidegate::{Crawl, Output, Page, ParseError, Profile, Report};
use tidegate_benches::Ticker;

use crate::{Failure, Run, Stage, Storm};

/// As that of the tasks.
pub(crate) fn run(runtime: &Runtime, storm: &Storm, stage: Stage) -> Result<Run, Failure> {
    let pages = storm.pages.get();
    let fetcher =
        HttpFetcher::builder(runtime).pool_max_idle(pages as usize).pool_max_idle_per_host(pages as usize).build()?;
    let path = if storm.gate { "gate" } else { "page" };
    let started = runtime.now();
    let ticker = Ticker::start(runtime);
    let report = crawl(runtime, storm, fetcher.clone(), path, stage)?;
    let seconds = runtime.now().saturating_duration_since(started).as_secs_f64();
    let lateness = ticker.stop()?;
    crawl(runtime, storm, fetcher.clone(), "page", Stage::None)?;
    let failed = u64::from(pages).saturating_sub(report.totals.counters.ok);
    Ok(Run { lateness, seconds, failed, connections: Box::new(fetcher) })
}

fn crawl(runtime: &Runtime, storm: &Storm, fetcher: HttpFetcher, path: &str, stage: Stage) -> Result<Report, Failure> {
    let (runtime, work) = match stage {
        Stage::None => (runtime.clone(), None),
        Stage::Inline(work) => (runtime.clone().with_offload(Inline::new()), Some(work)),
        Stage::Offload(offload, work) => (runtime.clone().with_offload(Shared(offload)), Some(work)),
    };
    let parser = move |page: &Page, _: &mut Output<()>| -> Result<(), ParseError> {
        if let Some(work) = &work {
            work.parse(page.body());
        }
        Ok(())
    };
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(storm.pages)
        .adaptive(false)
        .seeds((0..storm.pages.get()).map(|n| format!("{}/{path}/{n}", storm.origin)))
        .fetcher(fetcher)
        .parse_with(parser)
        .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    Ok(report.recv()??)
}

/// An offload that outlives the crawl.
struct Shared(Arc<dyn Offload>);

impl Offload for Shared {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        self.0.submit(job)
    }

    fn capacity(&self) -> std::num::NonZeroUsize {
        self.0.capacity()
    }

    fn place(&self) -> Place {
        self.0.place()
    }

    fn give_up(&self, job: Ticket) -> bool {
        self.0.give_up(job)
    }
}
