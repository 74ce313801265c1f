//! The guard: what a public page leads to must not be private, wherever names and redirects point.
#![cfg(feature = "http")]

mod common;

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::{Server, TestTcp, run};
use tidegate::http::HttpFetcher;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions};
use tidegate::{ErrorKind, FetchCx, Fetcher, Request};

/// Stands for the public network: whatever is connected to at 1.1.1.1 is the server of the test.
struct Public(SocketAddr);

impl TcpConnect for Public {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let is_public = addr.ip() == IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
        let connecting = TestTcp.connect(if is_public { self.0 } else { addr }, options);
        Box::pin(async move {
            let mut conn = connecting.await?;
            conn.peer = addr;
            Ok(conn)
        })
    }
}

// C4, G5
#[test]
fn a_public_page_does_not_lead_to_a_private_address() {
    let secret = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    for target in [
        secret.url("/"),
        secret.url("/").replace("127.0.0.1", "2130706433"),
        secret.url("/").replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        secret.url("/").replace("127.0.0.1", "0x7f.1"),
        "http://169.254.169.254/latest/".to_owned(),
    ] {
        let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        let front = Server::replying(redirect);
        run(async |rt| {
            let rt = rt.with_tcp(Public(front.addr));
            let fetcher = HttpFetcher::builder(&rt).build().expect("valid");
            let request = Request::get("http://1.1.1.1/");
            let error = fetcher.fetch(&request, &FetchCx::detached(&rt)).await.expect_err("it is private");
            assert_eq!(error.kind(), ErrorKind::GuardBlocked, "{target}: {error}");
        });
    }
    assert_eq!(secret.accepted(), 0);
}

#[test]
fn private_pages_and_those_who_ask_for_it_are_let_through() {
    let secret = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", secret.url("/"));
    let front = Server::replying(redirect);
    run(async |rt| {
        let own = HttpFetcher::builder(&rt).build().expect("valid");
        let response =
            own.fetch(&Request::get(front.url("/")), &FetchCx::detached(&rt)).await.expect("both are private");
        assert_eq!(&response.body[..], b"secret");
        let rt = rt.with_tcp(Public(front.addr));
        let fetcher = HttpFetcher::builder(&rt).build().expect("valid");
        let cx = FetchCx::detached(&rt).with_guard(false);
        let response = fetcher.fetch(&Request::get("http://1.1.1.1/"), &cx).await.expect("the guard is off");
        assert_eq!(&response.body[..], b"secret");
    });
}

// C4
#[test]
fn the_guard_judges_the_address_that_a_proxy_is_told_and_not_what_it_resolves() {
    let socks = Server::start(|peer| {
        let mut bytes = [0; 10];
        peer.stream.read_exact(&mut bytes[..3])?;
        peer.send(b"\x05\x00")?;
        peer.stream.read_exact(&mut bytes)?;
        peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")?;
        // The public site leads to the private one.
        let reply: &[u8] = match bytes[4..8] == [127, 0, 0, 1] {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
            false => b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        };
        while peer.request()?.is_some() {
            peer.send(reply)?;
        }
        Ok(())
    });
    for (scheme, expected) in [("socks5", Err(ErrorKind::GuardBlocked)), ("socks5h", Ok(200))] {
        run(async |rt| {
            let rt = rt.with_tcp(Public(socks.addr));
            let fetcher = HttpFetcher::builder(&rt).proxy(&format!("{scheme}://1.1.1.1")).build().expect("valid");
            let fetched = fetcher.fetch(&Request::get("http://9.9.9.9/"), &FetchCx::detached(&rt)).await;
            assert_eq!(fetched.map(|r| r.head.status.as_u16()).map_err(|e| e.kind()), expected, "{scheme}");
        });
    }
}
