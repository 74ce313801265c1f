//! How many allocations a request over a connection that is kept alive takes, with all that the runtime adds.
#![cfg(feature = "http")]

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::thread;

use tidegate::http::HttpFetcher;
use tidegate::{FetchCx, Fetcher, Request};
use url::Url;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The most that a request may take: the future of the fetch, the limits of its context, its URL, a timer, the head of the answer
/// and its share count, the two parts of the table of fields, the name of a field that is not a standard one, the head as it is given,
/// which a crawl shares, and the body.
const MOST: u64 = 11;

/// Answers requests on one connection, and allocates nothing.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut bytes = [0; 4096];
    let mut length = 0;
    loop {
        match stream.read(&mut bytes[length..])? {
            0 => return Ok(()),
            n => length += n,
        }
        if bytes[..length].ends_with(b"\r\n\r\n") {
            length = 0;
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nServer: test\r\nX-Own: 1\r\n\r\nhello",
            )?;
        }
    }
}

#[test]
fn a_request_takes_few_allocations() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url: Url = format!("http://{}/", listener.local_addr().expect("bound")).parse().expect("a URL");
    let server = thread::spawn(move || serve(&listener));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio.block_on(async {
        let runtime = tidegate_tokio::current();
        let fetcher = HttpFetcher::builder(&runtime).build().expect("defaults are valid");
        let request = Request::from(url);
        let fetch_all = async |times: u64| {
            let before = dhat::HeapStats::get().total_blocks;
            for _ in 0..times {
                let response = fetcher.fetch(&request, &FetchCx::detached(&runtime)).await.expect("an answer");
                assert_eq!(&response.body[..], b"hello");
            }
            dhat::HeapStats::get().total_blocks - before
        };
        fetch_all(10).await;
        let taken = fetch_all(100).await;
        assert!(taken <= MOST * 100, "{taken} allocations for 100 requests");
    });
    server.join().expect("no panic").expect("served to the end");
}
