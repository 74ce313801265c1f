//! Who blocked the loop of a crawl over real sockets: what the watchdog saw while it lasted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use tidegate::rt::Runtime;
use tidegate::{
    Accept, Builder, Crawl, Delivery, Handle, Head, Output, Page, ParseError, Parser, Profile, Request, Shutdown,
    SinkError, Stall, StallCause,
};

/// Answers every request but those to `/held`, on every connection.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    addr
}

fn answer(mut stream: TcpStream) {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stream.read(&mut part) {
        request.extend_from_slice(&part[..read]);
        if request.ends_with(b"\r\n\r\n") {
            let held = request.starts_with(b"GET /held ");
            request.clear();
            if held {
                continue;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").is_err() {
                return;
            }
        }
    }
}

/// Blocks on every tenth page until the watchdog has shut the gate for it; does not block where it is shut already, or where
/// the crawl is to end, since nobody looks then.
#[derive(Clone, Default)]
struct Blocker {
    handle: Arc<OnceLock<Handle>>,
    over: Arc<AtomicBool>,
}

impl Blocker {
    fn is_slow(url: &str) -> bool {
        url.ends_with('5')
    }

    fn meets(&self, url: &str) {
        let Some(handle) = self.handle.get().filter(|_| Self::is_slow(url)) else { return };
        let closed = || handle.snapshot().lag.gate_closed;
        let before = closed();
        while closed() == before && !self.over.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

struct InHook(Blocker);

impl Parser<String> for InHook {
    fn accept(&self, head: &Head) -> Accept {
        self.0.meets(head.url.as_str());
        Accept::Body
    }

    fn parse(&self, _: &Page, _: &mut Output<String>) -> Result<(), ParseError> {
        Ok(())
    }
}

/// Crawls until a stall by `cause` with a URL is told, for a thousand pages at most. One more is in flight all the time: nobody
/// looks while nothing is.
fn first_stall(crawl: Builder<String>, blocker: &Blocker, cause: StallCause) -> Stall {
    let addr = serve();
    let pages = std::iter::once("held".to_owned()).chain((0..1000).map(|n| n.to_string()));
    let crawl = crawl
        .profile(Profile::own())
        .requests(futures::stream::iter(pages.map(move |page| Request::get(format!("http://{addr}/{page}")))))
        .max_in_flight(NonZeroU32::MIN.saturating_add(3))
        .rate(200.0)
        .start()
        .expect("valid");
    let handle = crawl.handle();
    blocker.handle.set(handle.clone()).expect("it is set once");
    let (told, found) = std::sync::mpsc::channel();
    let is_told = move |stalls: &[Stall]| {
        let stall = stalls.iter().find(|stall| stall.cause == cause && stall.url.is_some());
        stall.is_some_and(|stall| told.send(stall.clone()).is_ok())
    };
    let over = Arc::clone(&blocker.over);
    let looks = thread::spawn(move || {
        let end = |now: &tidegate::Snapshot| now.counters.ok + now.counters.error >= 1000;
        loop {
            let now = handle.snapshot();
            if is_told(&now.recent_stalls) || end(&now) {
                over.store(true, Ordering::Release);
                return handle.shutdown(Shutdown::Now);
            }
            thread::yield_now();
        }
    });
    let report = futures::executor::block_on(crawl).expect("the run ends well");
    looks.join().expect("no panic");
    found.try_recv().unwrap_or_else(|_| panic!("nobody was named: {:?}", report.totals.recent_stalls))
}

/// A hook of the parser's.
pub(crate) fn a_hook_that_blocks_is_named(runtime: Runtime) {
    let blocker = Blocker::default();
    let crawl = Crawl::builder(runtime).profile(Profile::own()).parse_with(InHook(blocker.clone()));
    let stall = first_stall(crawl, &blocker, StallCause::Hook);
    assert!(stall.url.as_deref().is_some_and(Blocker::is_slow), "{stall:?}");
}

/// A sink, by the URL of the first delivery of those that it was offered.
pub(crate) fn a_sink_that_blocks_is_named(runtime: Runtime) {
    let blocker = Blocker::default();
    let item = |page: &Page, out: &mut Output<String>| -> Result<(), ParseError> {
        out.item(page.url().to_string());
        Ok(())
    };
    let blocks = blocker.clone();
    let sink = move |delivery: &Delivery<String>| {
        blocks.meets(&delivery.item);
        Ok::<(), SinkError>(())
    };
    let crawl = Crawl::builder(runtime).profile(Profile::own()).parse_with(item).sink(sink);
    let stall = first_stall(crawl, &blocker, StallCause::Sink);
    assert!(stall.lag > std::time::Duration::ZERO, "{stall:?}");
}
