//! A name server on loopback, and what an adapter's resolver must make of its answers.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::RuntimeProvider;
use hickory_resolver::proto::rr::Name as DnsName;

pub(crate) struct NameServer {
    pub(crate) config: ResolverConfig,
    /// The names that were asked for.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

/// A server that lives as long as the process, and a configuration with a search list that nobody may use.
pub(crate) fn start() -> NameServer {
    // The same port for both: one that is free for TCP may be taken for UDP.
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("bound")) {
            break (tcp, udp);
        }
    };
    let port = tcp.local_addr().expect("bound").port();
    let asked = Arc::<Mutex<Vec<String>>>::default();

    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut buf) {
            if let Some(reply) = reply(&buf[..len], true, &seen) {
                udp.send_to(&reply, from).expect("sends");
            }
        }
    });
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || serve_tcp(stream.expect("a connection"), &seen));
        }
    });

    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = port;
        connection
    });
    let mut server = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    server.connections = connections.into();
    let search = vec![DnsName::from_ascii("search.test.").expect("a name")];
    NameServer { config: ResolverConfig::from_parts(None, search, vec![server]), asked }
}

fn serve_tcp(mut stream: TcpStream, asked: &Mutex<Vec<String>>) {
    let mut len = [0; 2];
    while stream.read_exact(&mut len).is_ok() {
        let mut query = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut query).expect("the rest");
        let reply = reply(&query, false, asked).expect("an answer");
        let len = u16::try_from(reply.len()).expect("short").to_be_bytes();
        // Two parts, so that the reader must wait for the second.
        if stream.write_all(&len).and_then(|()| stream.write_all(&reply)).is_err() {
            break;
        }
    }
}

fn reply(query: &[u8], by_udp: bool, asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let label = &query[at + 1..][..query[at].into()];
        name += std::str::from_utf8(label).expect("ASCII");
        name += ".";
        at += 1 + label.len();
    }
    let wants_v6 = query[at + 2] == 28;
    let question = &query[12..at + 5];
    asked.lock().expect("no panic").push(name.clone());

    let (flags, records): (u16, &[(&[u8], u32)]) = match (&*name, wants_v6) {
        ("mute.test.", _) => return None,
        ("long.test.", _) if by_udp => (TRUNCATED, &[]),
        ("two.test.", true) => (0, &[(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 90)]),
        ("two.test.", false) => (0, &[(&[192, 0, 2, 1], 300), (&[192, 0, 2, 2], 40)]),
        ("long.test.", false) => (0, &[(&[192, 0, 2, 3], 7)]),
        ("gone.test.", _) => (NX_DOMAIN, &[]),
        ("broken.test.", _) => (SERVER_FAILURE, &[]),
        _ => (0, &[]),
    };
    let mut reply = query[..2].to_vec();
    reply.extend((0x8180 | flags).to_be_bytes());
    reply.extend([0, 1, 0, u8::try_from(records.len()).expect("few"), 0, 0, 0, 0]);
    reply.extend(question);
    for (data, ttl) in records {
        // The name of the question, its type, IN.
        reply.extend([0xC0, 12, 0, if data.len() == 16 { 28 } else { 1 }, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, u8::try_from(data.len()).expect("an address")]);
        reply.extend(*data);
    }
    Some(reply)
}

const TRUNCATED: u16 = 0x200;
const NX_DOMAIN: u16 = 3;
const SERVER_FAILURE: u16 = 2;

/// What hickory is given by a process that has no descriptor left.
#[derive(Clone)]
pub(crate) struct NoDescriptors<P>(pub(crate) P);

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// EMFILE.
fn no_descriptor<T: Send + 'static>() -> Opening<T> {
    Box::pin(async { Err(io::Error::from_raw_os_error(24)) })
}

impl<P: RuntimeProvider> RuntimeProvider for NoDescriptors<P> {
    type Handle = P::Handle;
    type Timer = P::Timer;
    type Udp = P::Udp;
    type Tcp = P::Tcp;

    fn create_handle(&self) -> P::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(&self, _: SocketAddr, _: Option<SocketAddr>, _: Option<Duration>) -> Opening<P::Tcp> {
        no_descriptor()
    }

    fn bind_udp(&self, _: SocketAddr, _: SocketAddr) -> Opening<P::Udp> {
        no_descriptor()
    }
}

/// The cases. In scope: what the adapter's `dns` has, `fn runtime(ResolverConfig, Duration) -> Runtime`, which asks
/// that server and waits so long for an answer, and `fn provider()`, what hickory is given there.
macro_rules! tests {
    () => {
        use std::net::IpAddr;

        use futures::executor::block_on;
        use futures::future::{Either, join_all, select};
        use hickory_resolver::config::ResolverConfig;
        use tidegate::rt::Runtime;

        use super::name_server;

        const LONG: Duration = Duration::from_secs(3600);

        fn resolve(runtime: &Runtime, name: &str) -> Result<Addrs, ResolveError> {
            // On this thread, which is not the runtime's.
            block_on(runtime.resolver().resolve(&Name::new(name).expect("a name")))
        }

        // G3
        #[test]
        fn addresses_come_with_the_least_ttl() {
            let server = name_server::start();
            let found = resolve(&runtime(server.config, LONG), "two.test").expect("found");
            let mut addrs = found.addrs.clone();
            addrs.sort();
            let expected: [IpAddr; 3] =
                ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|addr| addr.parse().expect("an address"));
            assert_eq!(addrs, expected);
            assert!(found.addrs[2].is_ipv6(), "after the others");
            assert_eq!(found.ttl, Some(Duration::from_secs(40)));
        }

        // G2
        #[test]
        fn a_truncated_answer_is_asked_for_again_over_tcp() {
            let server = name_server::start();
            let found = resolve(&runtime(server.config, LONG), "long.test").expect("found");
            let expected: IpAddr = "192.0.2.3".parse().expect("an address");
            assert_eq!(found, Addrs::new(vec![expected], Some(Duration::from_secs(7))));
        }

        // G1
        #[test]
        fn a_name_without_addresses_is_not_found() {
            let server = name_server::start();
            let runtime = runtime(server.config, LONG);
            for name in ["gone.test", "empty.test"] {
                let error = resolve(&runtime, name).expect_err("no addresses");
                assert!(matches!(error, ResolveError::NotFound(_)), "{name}: {error}");
            }
            let asked = server.asked.lock().expect("no panic");
            assert!(
                asked.iter().all(|name| name == "gone.test." || name == "empty.test."),
                "no search list: {asked:?}"
            );
        }

        // G1
        #[test]
        fn a_failing_server_is_a_failure() {
            let server = name_server::start();
            let error = resolve(&runtime(server.config, LONG), "broken.test").expect_err("no answer");
            assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
        }

        // G7, H1
        #[cfg(unix)]
        #[test]
        fn a_process_without_descriptors_has_no_room() {
            let config = name_server::start().config;
            let runtime = runtime(config.clone(), LONG);
            let provider = Noting::new(name_server::NoDescriptors(provider()));
            let mut builder = Resolver::builder_with_config(config, provider.clone());
            configure(builder.options_mut());
            let resolver = builder.build().expect("a resolver");
            let asking = lookup(resolver, provider, Name::new("two.test").expect("a name"));
            let (sender, receiver) = std::sync::mpsc::channel();
            runtime.spawn(async move { sender.send(asking.await).expect("receiver lives") });
            let error = receiver.recv().expect("it ends").expect_err("nobody was asked");
            assert!(matches!(error, ResolveError::NoRoom { .. }), "{error}");
        }

        // G2
        #[test]
        fn a_mute_server_ends_in_its_own_time() {
            let server = name_server::start();
            let runtime = runtime(server.config, Duration::from_millis(20));
            let error = resolve(&runtime, "mute.test").expect_err("no answer");
            assert!(matches!(error, ResolveError::TimedOut(_)), "{error}");
            // Once, and again.
            let asked = server.asked.lock().expect("no panic").len();
            assert!((2..=4).contains(&asked), "{asked}");
        }

        #[test]
        fn nothing_is_cached_here() {
            let server = name_server::start();
            let runtime = runtime(server.config, LONG);
            for _ in 0..3 {
                resolve(&runtime, "two.test").expect("found");
            }
            assert_eq!(server.asked.lock().expect("no panic").len(), 6);
        }

        // G2
        #[test]
        fn lookups_run_side_by_side() {
            let server = name_server::start();
            let runtime = runtime(server.config, LONG);
            let name = Name::new("two.test").expect("a name");
            let stuck = runtime.resolver().resolve(&Name::new("mute.test").expect("a name"));
            let all = join_all((0..200).map(|_| runtime.resolver().resolve(&name)));
            // One that gets no answer holds none of the others up.
            let Either::Right((all, stuck)) = block_on(select(stuck, all)) else {
                panic!("a mute server has answered")
            };
            assert!(all.iter().all(|found| found.is_ok()));
            drop(stuck);
        }

        // G2
        #[test]
        fn timers_fire_while_a_server_is_mute() {
            let server = name_server::start();
            let runtime = runtime(server.config, LONG);
            let lookup = runtime.resolver().resolve(&Name::new("mute.test").expect("a name"));
            let (timers, (sender, receiver)) = (runtime.clone(), std::sync::mpsc::channel());
            runtime.spawn(async move {
                let ticks = Box::pin(async {
                    for _ in 0..20 {
                        timers.sleep_until(timers.now() + Duration::from_millis(1)).await;
                    }
                });
                let ticked = matches!(select(lookup, ticks).await, Either::Right(_));
                sender.send(ticked).expect("receiver lives");
            });
            assert_eq!(receiver.recv(), Ok(true));
        }
    };
}
pub(crate) use tests;
