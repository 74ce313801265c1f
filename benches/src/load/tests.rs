use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: &LoadServer) -> Self {
        Self(BufReader::new(TcpStream::connect(server.addr()).expect("the server listens")))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("the server reads");
    }

    fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    fn length(&mut self) -> usize {
        let mut length = None;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a line");
            match line.trim_end() {
                "" => return length.expect("a length"),
                text => length = text.strip_prefix("Content-Length: ").map_or(length, |n| n.parse().ok()),
            }
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let mut body = vec![0; self.length()];
        self.0.read_exact(&mut body).expect("the whole body");
        body
    }
}

fn start(change: impl FnOnce(&mut LoadOptions)) -> LoadServer {
    let mut options = LoadOptions::default();
    change(&mut options);
    LoadServer::start(options).expect("loopback")
}

fn wait_at_gate(server: &LoadServer, count: usize) {
    while server.stats().at_gate != count {
        std::thread::yield_now();
    }
}

#[test]
fn paths_choose_length_and_delay() {
    let server = start(|o| (o.body_bytes, o.delay) = (100, Duration::from_millis(1)));
    let mut client = Client::connect(&server);
    for (path, length) in [("/", 100), ("/bytes/0", 0), ("/bytes/300000", 300_000), ("/delay/2", 100)] {
        client.ask(path);
        let body = client.body();
        assert_eq!(body.len(), length, "{path}");
        assert!(LINE.starts_with(&body[..length.min(LINE.len())]));
    }
    let stats = server.stats();
    assert_eq!((stats.requests, stats.connections, stats.open), (4, 1, 1));
}

#[test]
fn what_was_counted_is_asked_for_over_a_connection_that_does_not_count() {
    let server = start(|_| {});
    let mut client = Client::connect(&server);
    client.ask("/");
    client.body();
    let mut asking = Client::connect(&server);
    asking.ask("/stats");
    let body = asking.body();
    let stats = LoadStats::parse(std::str::from_utf8(&body).expect("text")).expect("numbers");
    assert!(stats.cpu > Duration::ZERO);
    assert_eq!(stats, LoadStats { requests: 1, connections: 1, open: 1, peak: 1, at_gate: 0, cpu: stats.cpu });
    assert_eq!(LoadStats::parse("1 2 3"), None);
}

#[test]
fn it_speaks_tls_with_the_certificate_that_it_gives() {
    let server = start(|o| (o.tls, o.body_bytes) = (true, 100_000));
    let mut roots = RootCertStore::empty();
    let pem = server.certificate().expect("it speaks TLS");
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a certificate");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a name");
    let mut stream = StreamOwned::new(tls, TcpStream::connect(server.addr()).expect("the server listens"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the server reads");
    let mut answer = vec![0; head(100_000).len() + 100_000];
    stream.read_exact(&mut answer).expect("head and body");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    assert!(server.url("/").starts_with("https://"));
}

#[test]
fn pieces_bodies_heads_and_pipelines_are_understood() {
    let server = start(|o| o.body = Some(Bytes::from_static(b"own")));
    let mut client = Client::connect(&server);
    for byte in "GET / HTTP/1.1\r\n\r\n".chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.body(), b"own");
    client.send("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabHEAD / HTTP/1.1\r\n\r\nGET /bytes/1 HTTP/1.1\r\n\r\n");
    assert_eq!(client.body(), b"own");
    assert_eq!(client.length(), 3);
    assert_eq!(client.body(), b"<");
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.0.read(&mut [0; 8]).expect("a FIN"), 0);
}

#[test]
fn the_gate_opens_when_all_have_come() {
    let server = start(|o| o.gate = 50);
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&server)).collect();
    for client in &mut clients[1..] {
        client.ask("/gate");
    }
    wait_at_gate(&server, 49);
    clients[1].0.get_ref().set_nonblocking(true).expect("a socket");
    assert_eq!(clients[1].0.fill_buf().expect_err("no answer yet").kind(), io::ErrorKind::WouldBlock);
    clients[1].0.get_ref().set_nonblocking(false).expect("a socket");
    clients[0].ask("/gate");
    assert!(clients.iter_mut().all(|client| client.body().len() == 1024));
    assert_eq!(server.stats().at_gate, 0);
}

#[test]
fn the_gate_is_opened_by_hand_again_and_again() {
    let server = start(|_| {});
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        client.ask("/gate");
        wait_at_gate(&server, 1);
        assert_eq!(server.release(), 1);
        assert_eq!(client.body().len(), 1024);
    }
    assert_eq!(server.release(), 0);
}

#[test]
fn two_threads_share_the_port_and_drop_stops_both() {
    let server = start(|o| o.threads = 2);
    let mut clients: Vec<_> = (0..64).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.ask("/");
        assert_eq!(client.body().len(), 1024);
    }
    assert_eq!(server.stats().peak, 64);
    drop(server);
    assert!(clients.iter_mut().all(|client| matches!(client.0.read(&mut [0; 8]), Ok(0) | Err(_))));
}

#[test]
fn connections_above_the_limit_wait_for_a_place() {
    let server = start(|o| o.max_connections = 1);
    let mut first = Client::connect(&server);
    first.ask("/");
    first.body();
    let mut second = Client::connect(&server);
    second.ask("/");
    assert_eq!(server.stats().connections, 1);
    drop(first);
    assert_eq!(second.body().len(), 1024);
}

#[test]
fn it_listens_on_several_addresses() {
    let server = start(|o| o.addresses = 3);
    for n in 1..=3 {
        let socket =
            TcpStream::connect((Ipv4Addr::new(127, 0, 0, n), server.addr().port())).expect("the server listens");
        let mut client = Client(BufReader::new(socket));
        client.ask("/");
        assert_eq!(client.body().len(), 1024);
    }
    assert_eq!(server.stats().connections, 3);
}

#[test]
fn the_last_answer_of_a_connection_is_followed_by_its_end() {
    let server = start(|_| {});
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.body();
    assert_eq!(client.0.read(&mut [0; 8]).expect("a FIN"), 0);
}

#[test]
fn a_proxy_opens_its_tunnel_byte_by_byte() {
    let server = start(|o| o.drip = Duration::from_micros(1));
    let mut client = Client::connect(&server);
    client.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
    let mut opened = [0; TUNNEL];
    client.0.read_exact(&mut opened).expect("the whole head");
    assert!(opened.starts_with(b"HTTP/1.1 200 OK\r\n") && opened.ends_with(b"a\r\n\r\n"));
    client.ask("/bytes/7");
    assert_eq!(client.body().len(), 7);
}

#[test]
fn a_proxy_does_not_open_its_tunnel_before_its_time() {
    let server = start(|o| o.drip = Duration::from_secs(3600));
    let mut client = Client::connect(&server);
    client.send("CONNECT a.test:443 HTTP/1.1\r\n\r\nGET /bytes/7 HTTP/1.1\r\n\r\n");
    let mut first = [0; 1];
    client.0.read_exact(&mut first).expect("the first byte");
    assert_eq!((first, server.stats().requests), (*b"H", 1));
}

#[test]
fn a_body_drips() {
    let server = start(|o| o.drip = Duration::from_millis(1));
    let mut client = Client::connect(&server);
    client.ask("/drip/5");
    assert_eq!(client.body(), [LINE[0]; 5]);
    client.ask("/");
    assert_eq!(client.body().len(), 1024);
}

#[test]
fn slots_hold_back_what_comes_after() {
    let server = start(|o| (o.slots, o.delay) = (1, Duration::from_millis(1)));
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&server)).collect();
    // Two go while they hold the slot or stand in line: neither keeps it.
    clients.iter_mut().for_each(|client| client.ask("/"));
    clients.truncate(6);
    assert!(clients.iter_mut().all(|client| client.body().len() == 1024));
}

#[test]
fn the_gate_is_opened_by_a_request_too() {
    let server = start(|_| {});
    let mut client = Client::connect(&server);
    client.ask("/gate");
    wait_at_gate(&server, 1);
    let mut other = Client::connect(&server);
    other.ask("/release");
    assert_eq!(other.body(), b"1");
    assert_eq!(client.body().len(), 1024);
}

#[test]
fn a_server_that_speaks_tls_is_asked_without_as_well() {
    let server = start(|o| o.tls = true);
    let mut client = Client::connect(&server);
    client.ask("/stats");
    assert!(client.body().starts_with(b"0 1 1 1 0 "));
}
