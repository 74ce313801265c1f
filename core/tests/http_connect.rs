//! From names to connections: which address is tried when, and whose fault it is when none answers.
#![cfg(feature = "http")]

mod common;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{Server, TestTcp, limits, run};
use tidegate::http::HttpFetcher;
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError, Runtime, TcpConn, TcpConnect, TcpOptions};
use tidegate::{Error, ErrorKind, FetchCx, Fetcher, Limits, Request, Response, RetryTime};

/// Answers every name in the same way.
enum Names {
    Silent,
    Known(Vec<IpAddr>),
    Failing(fn(Name) -> ResolveError),
}

impl Resolve for Names {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let answer = match self {
            Self::Silent => return Box::pin(std::future::pending()),
            Self::Known(addrs) => Ok(Addrs::new(addrs.clone(), None)),
            Self::Failing(error) => Err(error(name.clone())),
        };
        Box::pin(async { answer })
    }
}

/// Reaches only what is good; 192.0.2.x fails with errno x, 198.51.100.x never answers, and there is no IPv6.
struct Network;

impl TcpConnect for Network {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        match addr.ip() {
            IpAddr::V4(ip) if ip.octets()[..3] == [192, 0, 2] => {
                let error = io::Error::from_raw_os_error(ip.octets()[3].into());
                Box::pin(async { Err(error) })
            }
            IpAddr::V4(ip) if ip.octets()[..3] == [198, 51, 100] => Box::pin(std::future::pending()),
            IpAddr::V6(_) => {
                Box::pin(async { Err(io::Error::from_raw_os_error(nix::errno::Errno::EADDRNOTAVAIL as i32)) })
            }
            _ => TestTcp.connect(addr, options),
        }
    }
}

const GOOD: [u8; 4] = [127, 0, 0, 1];
const SILENT: [u8; 4] = [198, 51, 100, 1];

fn errno(code: nix::errno::Errno) -> [u8; 4] {
    [192, 0, 2, u8::try_from(code as i32).expect("small")]
}

async fn get(runtime: Runtime, names: Names, port: u16, limits: Limits) -> Result<Response, Error> {
    let runtime = runtime.with_tcp(Network).with_resolve(names);
    let fetcher = HttpFetcher::builder(&runtime).build().expect("valid");
    let cx = FetchCx::detached(&runtime).with_limits(limits);
    fetcher.fetch(&Request::get(format!("http://a.test:{port}/")), &cx).await
}

fn fetch(addrs: &[[u8; 4]], limits: Limits) -> Result<SocketAddr, Error> {
    let server = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let names = Names::Known(addrs.iter().map(|ip| IpAddr::from(*ip)).collect());
    run(async |rt| get(rt, names, server.addr.port(), limits).await).map(|r| r.remote.expect("an address"))
}

// G4
#[test]
fn the_next_address_is_tried_after_a_failure_or_a_while() {
    let refused = errno(nix::errno::Errno::ECONNREFUSED);
    for addrs in [&[GOOD][..], &[refused, GOOD], &[SILENT, GOOD], &[SILENT, refused, GOOD], &[GOOD, SILENT]] {
        assert_eq!(fetch(addrs, limits()).expect("one is good").ip(), IpAddr::from(GOOD), "{addrs:?}");
    }
}

// G4
#[test]
fn all_addresses_share_one_deadline() {
    let mut limits = limits();
    limits.deadlines.connect = Duration::from_millis(40);
    let error = fetch(&[SILENT, [198, 51, 100, 2]], limits).expect_err("none answers");
    assert_eq!(error.kind(), ErrorKind::TimeoutConnect);
    assert!(error.to_string().contains("198.51.100.1:") && error.to_string().contains("198.51.100.2:"), "{error}");
}

// H1, H2, H3
#[test]
fn our_own_shortage_is_not_the_targets_fault() {
    use nix::errno::Errno;
    for code in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
        let error = fetch(&[errno(code), GOOD], limits()).expect_err("no descriptor");
        assert_eq!((error.kind(), error.retry_time()), (ErrorKind::LocalDescriptors, RetryTime::WhenRoom), "{code}");
    }
    let (taken, refused) = (errno(Errno::EADDRNOTAVAIL), errno(Errno::ECONNREFUSED));
    for addrs in [&[taken][..], &[taken, refused], &[refused, taken]] {
        let error = fetch(addrs, limits()).expect_err("no port");
        assert_eq!((error.kind(), error.retry_time()), (ErrorKind::LocalPorts, RetryTime::WhenRoom), "{addrs:?}");
    }
    assert!(fetch(&[taken], limits()).expect_err("no port").is_local());
    assert!(!fetch(&[refused], limits()).expect_err("refused").is_local());
    assert_eq!(fetch(&[taken, GOOD], limits()).expect("ports are counted by destination").ip(), IpAddr::from(GOOD));
    for (code, kind) in [
        (Errno::ECONNREFUSED, ErrorKind::ConnectRefused),
        (Errno::EHOSTUNREACH, ErrorKind::ConnectUnreachable),
        (Errno::ECONNRESET, ErrorKind::ConnectReset),
    ] {
        let error = fetch(&[errno(code)], limits()).expect_err("no connection");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("connect to 192.0.2."), "{error}");
    }
}

// H2
#[test]
fn a_machine_without_ipv6_is_not_out_of_ports() {
    let server = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let v6 = "2001:db8::1".parse().expect("literal");
    let both = Names::Known(vec![v6, GOOD.into()]);
    let response = run(async |rt| get(rt, both, server.addr.port(), limits()).await).expect("IPv4 is good");
    assert_eq!(response.remote.expect("an address").ip(), IpAddr::from(GOOD));
    let error = run(async |rt| get(rt, Names::Known(vec![v6]), 80, limits()).await).expect_err("no IPv6");
    assert_eq!((error.kind(), error.retry_time()), (ErrorKind::ConnectUnreachable, RetryTime::AfterBackoff));
}

// H2
#[test]
fn a_source_address_of_another_machine_is_named() {
    let server = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let error = run(async |rt| {
        let foreign = vec!["192.0.2.77".parse().expect("literal")];
        let fetcher = HttpFetcher::builder(&rt).local_addresses(foreign).build().expect("valid");
        common::fetch(&rt, &fetcher, Request::get(server.url("/"))).await.expect_err("not ours")
    });
    assert_eq!((error.kind(), error.retry_time()), (ErrorKind::ConnectFailed, RetryTime::AfterBackoff));
    assert!(error.to_string().contains("192.0.2.77, which is no address of this machine"), "{error}");
}

// G1, G2
#[test]
fn failing_names_are_typed() {
    let mut limits = limits();
    limits.deadlines.dns = Duration::from_millis(30);
    let failed: fn(Name) -> ResolveError = |name| ResolveError::Failed { name, message: "SERVFAIL".into() };
    for (names, kind) in [
        (Names::Silent, ErrorKind::TimeoutDns),
        (Names::Failing(ResolveError::NotFound), ErrorKind::DnsNotFound),
        (Names::Failing(failed), ErrorKind::DnsFailed),
        (Names::Failing(ResolveError::TimedOut), ErrorKind::TimeoutDns),
        (Names::Known(Vec::new()), ErrorKind::DnsNotFound),
    ] {
        let error = run(async |rt| get(rt, names, 80, limits.clone()).await).expect_err("no address");
        assert_eq!(error.kind(), kind);
    }
}
