//! `tidegate crawl`: seeds, and what they lead to.

use std::sync::{Arc, Mutex, PoisonError};

use regex::Regex;
use tidegate::{Outcome, Profile, Request, Scope, Settled, parse_target};
use url::{Host, Url};

use super::args::CrawlArgs;
use super::output::{Outputs, line};
use super::page::{Follow, PageParser, SeedHeaders};
use super::record::{CrawlKeys, Record, Shape, message};
use super::setup::{Setup, USER_AGENT};
use super::{Failure, run, say};
use crate::demo::{DemoOptions, DemoSite};

pub(super) fn run(args: CrawlArgs) -> Result<u8, Failure> {
    let CrawlArgs { urls, demo, depth, max_pages, scope, include, exclude, links, robots: _, no_robots, common } = args;
    let demo = demo.then(|| DemoSite::start(DemoOptions::default())).transpose();
    let demo = demo.map_err(|error| Failure::run(format!("cannot start the demo site: {error}")))?;
    let urls = demo.as_ref().map_or(urls, |site| vec![site.url().into()]);
    let seeds: Vec<Url> = urls.iter().filter_map(|url| parse_target(url).ok()).collect();
    let user_agent = user_agent(common.user_agent.as_deref(), &seeds)?;
    let setup = Setup::new(&common, Profile::crawl(), user_agent, demo.is_some())?;
    let outputs = Outputs::open(&common, demo.is_some())?;
    if let Some(site) = demo.as_ref().filter(|_| !common.quiet) {
        let robots = if no_robots { "not asked" } else { "heeded" };
        say(format_args!("demo site at {}; {}, robots.txt {robots}", site.url(), setup.politeness()));
    }
    let headers = SeedHeaders::new(&common.header, &seeds);
    let mut builder = setup
        .builder(&common)
        .fetcher(setup.fetcher.clone())
        .seeds(urls.iter().map(|url| headers.dress(Request::get(url.as_str()))))
        .scope(filtered(scope, include, exclude))
        .parse_with(PageParser::new(&common).following(Follow { list: links, headers }));
    if no_robots {
        builder = builder.no_robots();
    }
    if let Some(depth) = depth {
        builder = builder.max_depth(depth);
    }
    if let Some(pages) = max_pages.limit() {
        builder = builder.max_pages(u64::from(pages.get()));
    }
    let reached = Reached::default();
    let shape = Shape { headers: common.include_headers };
    let observed = reached.clone();
    let ended = run::to_end(
        builder,
        &common,
        outputs,
        Box::new(move |delivery, buffer| {
            observed.observe(&delivery.item);
            line(&Record::new(delivery, shape, CrawlKeys::of(&delivery.item)), buffer)
        }),
    )?;
    ended.finish(&common, None, reached.none())
}

/// What the crawl calls itself: it must say who is asking, except on servers of this machine.
fn user_agent<'a>(given: Option<&'a str>, seeds: &[Url]) -> Result<&'a str, Failure> {
    match given {
        Some(user_agent) => Ok(user_agent),
        None if seeds.iter().all(is_loopback) => Ok(USER_AGENT),
        None => Err(Failure::usage(
            "a crawl visits other people's servers and must say who it is: give \
             --user-agent 'name/version (+mailto:you@example.org)'",
        )),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn filtered(scope: Scope, include: Vec<Regex>, exclude: Vec<Regex>) -> Scope {
    if include.is_empty() && exclude.is_empty() {
        return scope;
    }
    scope.filtered(move |url| {
        let any = |list: &[Regex]| list.iter().any(|regex| regex.is_match(url.as_str()));
        (include.is_empty() || any(&include)) && !any(&exclude)
    })
}

/// Whether a seed was reached.
#[derive(Clone, Debug, Default)]
struct Reached(Arc<Mutex<Seeds>>);

#[derive(Debug, Default)]
struct Seeds {
    failed: u64,
    others: u64,
    first: Option<String>,
}

impl Reached {
    fn observe(&self, settled: &Settled) {
        if settled.request.depth() > 0 {
            return;
        }
        let mut seeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &settled.outcome {
            Outcome::Error(error) => {
                seeds.failed += 1;
                seeds.first.get_or_insert_with(|| format!("{}: {}", error.kind().code(), message(error)));
            }
            _ => seeds.others += 1,
        }
    }

    /// Why no seed was reached, where none was.
    fn none(&self) -> Option<String> {
        let seeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seeds.first.as_deref().filter(|_| seeds.failed > 0 && seeds.others == 0)?;
        Some(format!("no seed was reachable: {first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<Url> {
        list.iter().map(|url| url.parse().expect("literal")).collect()
    }

    #[test]
    fn only_a_crawl_of_this_machine_may_be_anonymous() {
        let own = urls(&["http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/", "http://a.localhost/"]);
        assert_eq!(user_agent(None, &own).expect("own"), USER_AGENT);
        let others = urls(&["http://127.0.0.1/", "http://localhost.a.test/"]);
        assert_eq!(user_agent(None, &others).expect_err("others").code, 2);
        assert_eq!(user_agent(Some("bot/1"), &others).expect("named"), "bot/1");
    }

    #[test]
    fn expressions_narrow_the_scope() {
        let regex = |text| Regex::new(text).expect("literal");
        let scope = filtered(Scope::any(), vec![regex("/a"), regex("/b")], vec![regex(r"\.pdf$")]);
        let has = |url: &str| scope.contains(&url.parse().expect("literal"));
        assert!(has("http://x.test/a/1") && has("http://x.test/b") && !has("http://x.test/c"));
        assert!(!has("http://x.test/a.pdf"));
    }
}
