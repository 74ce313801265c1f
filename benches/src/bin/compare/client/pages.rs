//! Crawls of a whole site on one core: fetch, find the links, follow those in scope.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use futures::channel::mpsc::{self, UnboundedSender};
use reqwest::{Client, Url};
use scraper::{Html, Selector};
use tidegate::rt::Runtime;
use tidegate::sink::Delivery;
use tidegate::{Crawl, Outcome, Output, Page, ParseError, Profile, Scope, Settled, SinkError};
use tidegate_benches::now;

use super::tidegate::{fetcher, limits, most};
use super::{Spawn, roots};
use crate::Failure;
use crate::meter::{self, Meter};
use crate::work::Work;

/// tidegate: the links of its own parser, parsed by its own threads, which share the core.
pub(super) async fn run(work: &Work, runtime: &Runtime) -> Result<(), Failure> {
    fn links(page: &Page, out: &mut Output<()>) -> Result<(), ParseError> {
        for link in tidegate_parse::links(page)? {
            out.follow(link);
        }
        Ok(())
    }
    let (seed, scope) = work.seed();
    let fetcher = fetcher(work, runtime)?;
    let meter = Arc::new(Meter::begin()?);
    let counting = Arc::clone(&meter);
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(most(work))
        .max_in_flight_per_host(None)
        .adaptive(false)
        .limits(limits())
        .seed(seed)
        .scope(Scope::prefix(scope))
        .fetcher(fetcher)
        .parse_with(links)
        .outcomes(move |delivery: &Delivery<Settled>| -> Result<(), SinkError> {
            let settled = &delivery.item;
            match &settled.outcome {
                Outcome::Ok => counting.took(settled.timings.total.unwrap_or_default(), settled.bytes),
                Outcome::Error(e) => counting.failed(crate::chain(e)),
                // A link out of scope, or to a page that is known.
                _ => {}
            }
            Ok(())
        })
        .start()?;
    crawl.await?;
    Ok(meter::report(meter.end())?)
}

/// What is left to do, and what has been seen.
struct Shared {
    client: Client,
    scope: String,
    seen: Mutex<HashSet<String>>,
    meter: Meter,
    find: fn(&str) -> Vec<String>,
}

/// reqwest, in as many tasks as may be in flight, with the links that `find` gives.
pub(super) async fn run_reqwest(work: &Work, spawn: Spawn<'_>, find: fn(&str) -> Vec<String>) -> Result<(), Failure> {
    let client = Client::builder().no_proxy().tls_backend_preconfigured(roots::config(work)?).build()?;
    let (seed, scope) = work.seed();
    let seen = Mutex::new(HashSet::from([seed.clone()]));
    let shared = Arc::new(Shared { client, scope, seen, meter: Meter::begin()?, find });
    let (found, mut queue) = mpsc::unbounded();
    let room = Arc::new(tokio::sync::Semaphore::new(work.concurrency as usize));
    // A page holds a sender until its links are in the queue, so that the queue ends with the last page.
    let found = Found(found);
    found.0.unbounded_send((seed, found.clone()))?;
    drop(found);
    while let Some((url, found)) = queue.next().await {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let shared = Arc::clone(&shared);
        spawn(Box::pin(async move {
            if let Err(e) = shared.visit(&url, &found).await {
                shared.meter.failed(crate::chain(&*e));
            }
            drop(permit);
        }));
    }
    Ok(meter::report(shared.meter.end())?)
}

/// Where links go, each with another way there.
#[derive(Clone)]
struct Found(UnboundedSender<(String, Self)>);

impl Shared {
    async fn visit(&self, url: &str, found: &Found) -> Result<(), Failure> {
        let since = now();
        let response = self.client.get(url).send().await?.error_for_status()?;
        let base = response.url().clone();
        let text = response.text().await?;
        self.meter.answered(since, text.len());
        for link in (self.find)(&text) {
            let Ok(mut link) = base.join(&link) else { continue };
            link.set_fragment(None);
            if link.as_str().starts_with(&self.scope) && self.is_new(&link) {
                found.0.unbounded_send((link.into(), found.clone()))?;
            }
        }
        Ok(())
    }

    fn is_new(&self, url: &Url) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        !seen.contains(url.as_str()) && seen.insert(url.as_str().to_owned())
    }
}

/// What stands behind `href="`.
pub(super) fn scan(text: &str) -> Vec<String> {
    text.split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .map(|(link, _)| link.replace("&amp;", "&"))
        .collect()
}

/// The links of a document.
pub(super) fn select(text: &str) -> Vec<String> {
    let Ok(links) = Selector::parse("a[href], area[href]") else { return Vec::new() };
    Html::parse_document(text).select(&links).filter_map(|link| link.attr("href")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found() {
        let text = r#"<a href="a?x=1&amp;y=2">a</a><p href=no><a class=b href="b">b</a>"#;
        assert_eq!(scan(text), ["a?x=1&y=2", "b"]);
        assert_eq!(select(text), ["a?x=1&y=2", "b"]);
    }
}
