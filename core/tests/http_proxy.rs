//! Fetching through a proxy: what goes to whom, and which error is whose.
#![cfg(feature = "http")]

mod common;

use common::{Server, fetch, run};
use tidegate::http::HttpFetcher;
use tidegate::{ErrorKind, FetchCx, Fetcher, Request, Response};

fn through(proxy: &str, url: &str) -> Result<Response, tidegate::Error> {
    run(async |rt| {
        let fetcher = HttpFetcher::builder(&rt).proxy(proxy).build().expect("a valid proxy");
        let header = |value| http::HeaderValue::from_static(value);
        let request = Request::get(url)
            .with_header(http::header::AUTHORIZATION, header("Bearer target"))
            .with_header(http::header::PROXY_AUTHORIZATION, header("Basic c3RheXM="));
        fetch(&rt, &fetcher, request).await
    })
}

// F6
#[test]
fn plain_http_is_asked_for_in_absolute_form() {
    let proxy = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let url = format!("http://me:pw@{}", proxy.addr);
    let response = through(&url, "http://origin.test:8080/a?b#c").expect("an answer");
    assert_eq!(&response.body[..], b"ok");
    assert_eq!(response.proxy.as_deref(), Some(format!("http://{}", proxy.addr).as_str()));
    let head = &proxy.heads()[0];
    assert!(head.starts_with("GET http://origin.test:8080/a?b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: origin.test:8080\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: Basic bWU6cHc=\r\n"), "{head}");
}

#[test]
fn a_proxy_that_wants_credentials_is_told_apart() {
    let proxy = Server::replying_once("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    let url = format!("http://{}", proxy.addr);
    for target in ["http://origin.test/", "https://origin.test/"] {
        if cfg!(not(feature = "tls")) && target.starts_with("https") {
            continue;
        }
        let error = through(&url, target).expect_err("no credentials");
        assert_eq!(error.kind(), ErrorKind::ProxyAuth, "{target}");
    }
}

// F1
#[test]
fn a_dead_proxy_is_not_a_dead_target() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let error = through(&format!("http://me:s3cret@{free}"), "http://origin.test/").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ProxyConnect);
    assert!(!format!("{error:?}").contains("s3cret"));
    assert_eq!(error.url(), Some("http://origin.test/"));
}

// C5
#[test]
fn proxies_take_turns() {
    let proxies = [0, 1].map(|_| Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    run(async |rt| {
        let builder = HttpFetcher::builder(&rt);
        let builder = proxies.iter().fold(builder, |builder, p| builder.proxy(&format!("http://{}", p.addr)));
        let fetcher = builder.build().expect("valid");
        for _ in 0..4 {
            fetch(&rt, &fetcher, Request::get("http://origin.test/")).await.expect("an answer");
        }
        let target = "http://origin.test/".parse().expect("literal");
        let cx = FetchCx::detached(&rt);
        assert_eq!(fetcher.resolve(&target, &cx).await.expect("nothing to find"), None);
    });
    assert_eq!(proxies.map(|p| (p.accepted(), p.heads().len())), [(1, 2), (1, 2)]);
}

// F1, F9
#[test]
fn an_attempt_goes_on_with_the_next_proxy_three_in_all() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let dead = [(); 3].map(|()| format!("http://{}", free()));
    let proxy = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let alive = format!("http://{}", proxy.addr);
    run(async |rt| {
        let request = || Request::get("http://origin.test/");
        let build = |dead: &[String]| {
            let all = dead.iter().chain([&alive]);
            all.fold(HttpFetcher::builder(&rt), |builder, p| builder.proxy(p)).build().expect("valid")
        };
        // The one that works is the third.
        let fetcher = build(&dead[..2]);
        for _ in 0..6 {
            fetch(&rt, &fetcher, request()).await.expect("an answer");
        }
        assert_eq!(proxy.heads().len(), 6);
        // It is the fourth: the next attempt begins with it.
        let fetcher = build(&dead);
        let error = fetch(&rt, &fetcher, request()).await.expect_err("three are dead");
        assert_eq!(error.kind(), ErrorKind::ProxyConnect);
        fetch(&rt, &fetcher, request()).await.expect("an answer");
    });
}

/// SOCKS: bytes of the handshakes, and what goes through the tunnel.
mod socks {
    use std::io::{self, Read};
    use std::sync::{Arc, Mutex};

    use super::common::{Peer, limits};
    use super::*;

    /// How many bytes are expected, and what is said to them.
    type Script = Vec<(usize, &'static [u8])>;

    type Said = Arc<Mutex<Vec<Vec<u8>>>>;

    /// A proxy that expects so many bytes before each of its replies, sends them byte by byte, and is the origin then.
    fn proxy(script: Script) -> (Server, Said) {
        let said = Said::default();
        let log = Arc::clone(&said);
        let server = Server::start(move |peer: &mut Peer| {
            for (expected, reply) in &script {
                let mut bytes = vec![0; *expected];
                peer.stream.read_exact(&mut bytes)?;
                log.lock().expect("no panic while locked").push(bytes);
                for byte in *reply {
                    peer.send(&[*byte])?;
                }
            }
            while peer.request()?.is_some() {
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            io::Result::Ok(())
        });
        (server, said)
    }

    // F4, F6
    #[test]
    fn a_request_goes_through_the_tunnel_as_if_there_were_none() {
        for (scheme, script, asked) in [
            (
                "socks5h",
                vec![(4, &b"\x05\x02"[..]), (9, b"\x01\x00"), (18, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")],
                &b"\x05\x01\x00\x03\x0borigin.test\x1f\x90"[..],
            ),
            (
                "socks5",
                vec![(4, b"\x05\x00"), (10, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")],
                b"\x05\x01\x00\x01\x7f\x00\x00\x09\x1f\x91",
            ),
            (
                "socks4a",
                vec![(23, b"\x00\x5a\x00\x00\x00\x00\x00\x00")],
                b"\x04\x01\x1f\x90\x00\x00\x00\x01me\0origin.test\0",
            ),
        ] {
            let (proxy, said) = proxy(script);
            let user = if scheme == "socks4a" { "me" } else { "me:s3cr" };
            run(async |rt| {
                let url = format!("{scheme}://{user}@{}", proxy.addr);
                let fetcher = HttpFetcher::builder(&rt)
                    .proxy(&url)
                    .resolve("origin.test", 8080, "127.0.0.9:8081".parse().expect("literal"))
                    .build()
                    .expect("valid");
                for _ in 0..2 {
                    let response =
                        fetch(&rt, &fetcher, Request::get("http://origin.test:8080/a")).await.expect("an answer");
                    assert_eq!(&response.body[..], b"ok");
                    assert_eq!(response.proxy.as_deref(), Some(format!("{scheme}://{}", proxy.addr).as_str()));
                }
            });
            assert_eq!(said.lock().expect("no panic").last().map(|bytes| &bytes[..]), Some(asked), "{scheme}");
            let heads = proxy.heads();
            assert_eq!((proxy.accepted(), heads.len()), (1, 2), "the tunnel is kept");
            assert!(heads[0].starts_with("GET /a HTTP/1.1\r\nhost: origin.test:8080\r\n"), "{}", heads[0]);
            assert!(!heads[0].contains("authorization") && !heads[0].contains("s3cr"), "{}", heads[0]);
        }
    }

    // F4, F1
    #[test]
    fn what_a_proxy_says_no_to_is_its_own_fault() {
        for (script, kind) in [
            (vec![(4, &b"\x05\xff"[..])], ErrorKind::ProxyAuth),
            (vec![(4, b"\x05\x02"), (9, b"\x01\x01")], ErrorKind::ProxyAuth),
            (vec![(4, b"\x05\x00"), (18, b"\x05\x04")], ErrorKind::ProxyRefused),
            (vec![(4, b"SSH-2.0")], ErrorKind::ProxyReply),
        ] {
            let (proxy, _) = proxy(script);
            let error = through(&format!("socks5h://me:s3cr@{}", proxy.addr), "http://origin.test:8080/")
                .expect_err("no tunnel");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!format!("{error:?}").contains("s3cr"));
        }
        // It closes, or says nothing, wherever it is in the handshake.
        for script in [vec![(4, &b""[..])], vec![(4, b"\x05")], vec![(4, b"\x05\x00"), (18, b"\x05\x00\x00\x03")]] {
            let said = script.clone();
            let server = Server::start(move |peer: &mut Peer| {
                for (expected, reply) in &said {
                    let mut bytes = vec![0; *expected];
                    peer.stream.read_exact(&mut bytes)?;
                    peer.send(reply)?;
                }
                Ok(())
            });
            let url = format!("socks5h://me:s3cr@{}", server.addr);
            let closed = through(&url, "http://origin.test:8080/").expect_err("no tunnel");
            assert_eq!(closed.kind(), ErrorKind::ProxyReply, "{closed}");
            let silent = Server::start(move |peer: &mut Peer| {
                for (_, reply) in &script {
                    peer.send(reply)?;
                }
                peer.wait_for_close();
                Ok(())
            });
            let error = run(async |rt| {
                let url = format!("socks5h://me:s3cr@{}", silent.addr);
                let fetcher = HttpFetcher::builder(&rt).proxy(&url).build().expect("valid");
                let mut limits = limits();
                limits.deadlines.proxy = std::time::Duration::from_millis(30);
                let cx = FetchCx::detached(&rt).with_limits(limits);
                fetcher.fetch(&Request::get("http://origin.test/"), &cx).await
            });
            assert_eq!(error.expect_err("no answer").kind(), ErrorKind::TimeoutProxy);
        }
    }
}

/// https: through a tunnel.
#[cfg(feature = "tls")]
mod tunnels {
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::thread;

    use super::common::{self, Peer, limits};
    use super::*;

    /// A proxy that opens tunnels: sends `reply` in pieces of one byte, then `early`, then moves bytes.
    fn tunnel(reply: &'static str, to: std::net::SocketAddr) -> Server {
        Server::start(move |peer: &mut Peer| {
            peer.request()?;
            let mut target = TcpStream::connect(to)?;
            for byte in reply.as_bytes() {
                peer.send(&[*byte])?;
            }
            let (mut up_from, mut up_to) = (peer.stream.try_clone()?, target.try_clone()?);
            thread::spawn(move || {
                let _ = io::copy(&mut up_from, &mut up_to);
                let _ = up_to.shutdown(std::net::Shutdown::Write);
            });
            io::copy(&mut target, &mut peer.stream).map(drop)
        })
    }

    // F2
    #[test]
    fn refusals_and_nonsense_are_typed() {
        for (reply, kind) in [
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", ErrorKind::ProxyRefused),
            ("HTTP/1.1 502 Bad Gateway\n\n", ErrorKind::ProxyRefused),
            ("hello there\r\n", ErrorKind::ProxyReply),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", ErrorKind::ProxyReply),
            ("", ErrorKind::ProxyReply),
        ] {
            let proxy = Server::replying_once(reply);
            let error = through(&format!("http://{}", proxy.addr), "https://origin.test/").expect_err("no tunnel");
            assert_eq!(error.kind(), kind, "{reply:?}");
        }
        let endless = Server::start(|peer| {
            peer.request()?;
            peer.send(b"HTTP/1.1 200 OK\r\n")?;
            while peer.stream.write_all(b"A: b\r\n").is_ok() {}
            Ok(())
        });
        let error = through(&format!("http://{}", endless.addr), "https://origin.test/").expect_err("no end");
        assert_eq!(error.kind(), ErrorKind::ProxyReply);
    }

    // F2
    #[test]
    fn a_silent_proxy_is_a_proxy_timeout() {
        let proxy = Server::start(|peer| {
            peer.wait_for_close();
            Ok(())
        });
        let error = run(async |rt| {
            let fetcher = HttpFetcher::builder(&rt).proxy(&format!("http://{}", proxy.addr)).build().expect("valid");
            let mut limits = limits();
            limits.deadlines.proxy = std::time::Duration::from_millis(30);
            let cx = FetchCx::detached(&rt).with_limits(limits);
            fetcher.fetch(&Request::get("https://origin.test/"), &cx).await
        });
        assert_eq!(error.expect_err("no answer").kind(), ErrorKind::TimeoutProxy);
    }

    // F2, F6: a reply that drips byte by byte and is followed at once by the tunnel.
    #[test]
    fn https_goes_through_a_tunnel() {
        for reply in ["HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 204 Fine\nVia: x\n\n"] {
            let (origin, root) = common::tls::server("origin.test", |stream| {
                while let Some(head) = common::read_head(stream)? {
                    assert!(head.contains("authorization: Bearer target\r\n"));
                    assert!(!head.contains("proxy-authorization"));
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")?;
                }
                Ok(())
            });
            let proxy = tunnel(reply, origin.addr);
            run(async |rt| {
                let tls = tidegate::tls::Config::builder().add_root_pem(root).build().expect("a valid root");
                let url = format!("http://me:pw@{}", proxy.addr);
                let fetcher = HttpFetcher::builder(&rt).tls(tls).proxy(&url).build().expect("valid");
                let bearer = http::HeaderValue::from_static("Bearer target");
                let request = Request::get("https://origin.test/x").with_header(http::header::AUTHORIZATION, bearer);
                for _ in 0..2 {
                    let response = fetch(&rt, &fetcher, request.clone()).await.expect("an answer");
                    assert_eq!(&response.body[..], b"secret");
                }
            });
            let heads = proxy.heads();
            assert_eq!(heads.len(), 1, "the tunnel is kept");
            assert!(heads[0].starts_with("CONNECT origin.test:443 HTTP/1.1\r\n"), "{}", heads[0]);
            assert!(heads[0].contains("Proxy-Authorization: Basic bWU6cHc=\r\n"));
            assert!(!heads[0].contains("Bearer"));
        }
    }
    /// A proxy over TLS, which is the origin of plain requests and opens a tunnel for others.
    fn tls_proxy(to: Option<std::net::SocketAddr>) -> (Server, String) {
        common::tls::server("proxy.test", move |stream| {
            let Some(head) = common::read_head(stream)? else { return Ok(()) };
            let Some(to) = to else {
                assert!(head.starts_with("GET http://origin.test/x HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("proxy-authorization: Basic bWU6cHc=\r\n"), "{head}");
                return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
            };
            assert!(head.starts_with("CONNECT origin.test:443 HTTP/1.1\r\n"), "{head}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            // Two messages each way make the handshake and the exchange.
            let mut target = TcpStream::connect(to)?;
            let mut bytes = [0; 1 << 15];
            stream.sock.set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
            target.set_read_timeout(Some(std::time::Duration::from_millis(5)))?;
            loop {
                for forth in [true, false] {
                    let read = if forth { stream.read(&mut bytes) } else { target.read(&mut bytes) };
                    let n = match read {
                        Ok(0) => return Ok(()),
                        Ok(n) => n,
                        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                        Err(e) => return Err(e),
                    };
                    if forth { target.write_all(&bytes[..n])? } else { stream.write_all(&bytes[..n])? }
                }
            }
        })
    }

    // F7, F6
    #[test]
    fn a_proxy_is_spoken_to_over_tls() {
        let (origin, origin_root) = common::tls::server("origin.test", |stream| {
            while let Some(head) = common::read_head(stream)? {
                assert!(!head.contains("proxy-authorization"), "{head}");
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")?;
            }
            Ok(())
        });
        for (url, to, body) in
            [("http://origin.test/x", None, "plain"), ("https://origin.test/x", Some(origin.addr), "secret")]
        {
            let (proxy, proxy_root) = tls_proxy(to);
            run(async |rt| {
                let tls = tidegate::tls::Config::builder();
                let tls = tls
                    .add_root_pem(origin_root.as_str())
                    .add_root_pem(proxy_root.as_str())
                    .build()
                    .expect("valid roots");
                let proxied = format!("https://me:pw@proxy.test:{}", proxy.addr.port());
                let builder = HttpFetcher::builder(&rt).tls(tls).proxy(&proxied);
                let fetcher = builder.resolve("proxy.test", proxy.addr.port(), proxy.addr).build().expect("valid");
                let response = fetch(&rt, &fetcher, Request::get(url)).await.expect("an answer");
                assert_eq!(&response.body[..], body.as_bytes());
            });
        }
    }

    // F7
    #[test]
    fn a_proxy_with_a_bad_certificate_is_not_a_bad_target() {
        let (proxy, _) = tls_proxy(None);
        let plain = Server::start(|peer| peer.send(b"HTTP/1.1 400 Speak plainly\r\n\r\n"));
        for proxy in [proxy.addr, plain.addr] {
            for target in ["http://origin.test/x", "https://origin.test/x"] {
                let error = through(&format!("https://me:s3cr@{proxy}"), target).expect_err("nobody vouches for it");
                assert_eq!(error.kind(), ErrorKind::ProxyTls, "{error:?}");
                assert!(!format!("{error:?}").contains("s3cr"));
            }
        }
    }
}
