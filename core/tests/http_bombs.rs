//! A thousand bombs at a time, of each encoding, under a byte budget: each URL has its one outcome, the budget is kept, and a host
//! without bombs is crawled meanwhile.
#![cfg(feature = "http")]

mod common;

use std::io::Read as _;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::{Server, limits, run};
use tidegate::http::HttpFetcher;
use tidegate::{Crawl, Outcome, Profile, Request, Settled};

const BOMBS: usize = 1_000;
const BUDGET: u64 = 4 << 20;
/// Of each bomb, decoded; far above what a page may have here.
const DECODED: usize = 1 << 20;
const MOST: u64 = 64 << 10;

fn encode(coding: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let level = flate2::Compression::best();
    match coding {
        "gzip" => flate2::bufread::GzEncoder::new(data, level).read_to_end(&mut out).map(drop),
        "deflate" => flate2::bufread::ZlibEncoder::new(data, level).read_to_end(&mut out).map(drop),
        "br" => brotli::CompressorReader::new(data, 4096, 5, 22).read_to_end(&mut out).map(drop),
        _ => zstd::stream::copy_encode(data, &mut out, 3),
    }
    .expect("memory");
    out
}

/// Lets nobody through before so many are there.
#[derive(Default)]
struct Crowd(Mutex<usize>, Condvar);

impl Crowd {
    fn wait_for(&self, most: usize) {
        let mut here = self.0.lock().expect("no panic while locked");
        *here += 1;
        self.1.notify_all();
        drop(self.1.wait_while(here, |here| *here < most).expect("no panic while locked"));
    }
}

// B1, B6, H5
#[test]
fn a_thousand_at_once_of_each_encoding() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = encode(coding, &vec![0; DECODED]);
        let length = bomb.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n");
        let (reply, crowd) = ([head.as_bytes(), &bomb].concat(), Arc::new(Crowd::default()));
        let server = Server::start(move |peer| {
            peer.request()?;
            crowd.wait_for(BOMBS);
            peer.send(&reply)?;
            peer.wait_for_close();
            Ok(())
        });
        let asked = Arc::new(AtomicUsize::new(0));
        let pages = Arc::clone(&asked);
        let good = Server::start(move |peer| {
            while peer.request()?.is_some() {
                pages.fetch_add(1, Ordering::SeqCst);
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?;
            }
            Ok(())
        });
        let outcomes = tidegate::sink::collect::<Settled>();
        let report = run(async |rt| {
            let mut limits = limits();
            (limits.body_decoded, limits.body_wire) = (MOST, MOST);
            let bombs = (0..BOMBS).map(|n| Request::get(server.url(&format!("/{n}"))));
            let pages = (0..50).map(|n| Request::get(good.url(&format!("/{n}"))));
            let most = NonZeroU32::new(BOMBS as u32).expect("some");
            let mut profile = Profile::own();
            profile.per_host = Some(most);
            let crawl = Crawl::builder::<()>(rt.clone())
                .profile(profile)
                .limits(limits)
                .max_in_flight(most.saturating_add(10))
                .byte_budget(BUDGET)
                .adaptive(false)
                .retries(0)
                .fetcher(HttpFetcher::builder(&rt).build().expect("valid"))
                .outcomes(outcomes.clone())
                .seeds(bombs.chain(pages));
            crawl.run().await.expect("it ends well")
        });
        let counters = report.totals.counters;
        assert_eq!((counters.ok, counters.error), (50, BOMBS as u64), "{coding}: {report}");
        assert_eq!(
            report.totals.errors.into_iter().collect::<Vec<_>>(),
            [("body.too_large", BOMBS as u64)],
            "{coding}"
        );
        assert!(report.totals.bytes_in_memory_peak <= BUDGET, "{coding}: {}", report.totals.bytes_in_memory_peak);
        assert_eq!(report.totals.bytes_in_memory, 0);
        assert_eq!((server.accepted(), asked.load(Ordering::SeqCst)), (BOMBS, 50));
        let told = outcomes.take();
        assert_eq!(
            told.iter().filter(|d| matches!(d.item.outcome, Outcome::Error(_))).count(),
            BOMBS,
            "one outcome each"
        );
        assert_eq!(told.len(), BOMBS + 50);
    }
}
