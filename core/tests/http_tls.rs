//! TLS: who is believed, and that no end of a stream is taken for the end of a body.
#![cfg(feature = "tls")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject as _;

use common::{Server, fetch, limits, run, tls};
use tidegate::http::HttpFetcher;
use tidegate::tls::Config;
use tidegate::{Error, ErrorKind, FetchCx, Fetcher, Request, Response};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Fetches `https://name/` from the server, trusting `config`.
fn get(server: &Server, name: &str, config: Config) -> Result<Response, Error> {
    run(async |rt| {
        let port = server.addr.port();
        let fetcher = HttpFetcher::builder(&rt).tls(config).resolve(name, port, server.addr).build().expect("valid");
        let mut limits = limits();
        limits.deadlines.tls = Duration::from_secs(5);
        let cx = FetchCx::detached(&rt).with_limits(limits);
        fetcher.fetch(&Request::get(format!("https://{name}:{port}/")), &cx).await
    })
}

fn trusting(pem: impl Into<Vec<u8>>) -> Config {
    Config::builder().add_root_pem(pem).build().expect("a valid root")
}

#[test]
fn a_trusted_server_answers_and_its_certificate_is_dated() {
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let (server, pem) = tls::certified("a.test", tls::NOT_AFTER, versions, |stream| {
            while common::read_head(stream)?.is_some() {
                stream.write_all(HELLO)?;
            }
            Ok(())
        });
        run(async |rt| {
            let port = server.addr.port();
            let builder = HttpFetcher::builder(&rt).tls(trusting(pem)).resolve("a.test", port, server.addr);
            let fetcher = builder.build().expect("valid");
            for _ in 0..3 {
                let request = Request::get(format!("https://a.test:{port}/"));
                let response = fetch(&rt, &fetcher, request).await.expect("an answer");
                assert_eq!(&response.body[..], b"hello");
                let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(2_051_308_800);
                assert_eq!(response.certificate_expiry, Some(expiry));
            }
        });
        assert_eq!(server.accepted(), 1);
    }
}

#[test]
fn megabytes_pass_both_ways() {
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let body = data.clone();
    let (server, pem) = tls::server("a.test", move |stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let mut received = vec![0; body.len()];
        stream.read_exact(&mut received)?;
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", received.len()).as_bytes())?;
        stream.write_all(&received)?;
        stream.flush()?;
        let _ = stream.read(&mut byte);
        Ok(())
    });
    let response = run(async |rt| {
        let port = server.addr.port();
        let fetcher =
            HttpFetcher::builder(&rt).tls(trusting(pem)).resolve("a.test", port, server.addr).build().expect("valid");
        fetch(&rt, &fetcher, Request::post(format!("https://a.test:{port}/"), data.clone())).await
    });
    assert!(response.expect("an answer").body == data);
}

// D1
#[test]
fn certificates_are_judged() {
    let serve = |stream: &mut tls::TlsPeer| {
        common::read_head(stream)?;
        stream.write_all(HELLO)
    };
    let mozilla = || Config::builder().build().expect("defaults are valid");
    let (server, pem) = tls::server("a.test", serve);
    let (expired, expired_pem) = tls::certified("a.test", (2002, 1, 1), rustls::DEFAULT_VERSIONS, serve);
    for (what, result) in [
        ("unknown root", get(&server, "a.test", mozilla())),
        ("wrong name", get(&server, "b.test", trusting(pem))),
        ("expired", get(&expired, "a.test", trusting(expired_pem))),
    ] {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::TlsCertificate, "{what}");
        assert_eq!(error.retry_time(), tidegate::RetryTime::Never);
    }
    let any = Config::builder().insecure().build().expect("valid");
    for server in [&server, &expired] {
        assert_eq!(&get(server, "b.test", any.clone()).expect("anything goes").body[..], b"hello");
    }
}

// D3, D4
#[test]
fn what_is_no_tls_is_told() {
    for (reply, kind) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], ErrorKind::TlsNotTls),
        (b"SSH-2.0-OpenSSH_9.9\r\n", ErrorKind::TlsNotTls),
        (b"\x15\x03\x03\x00\x02\x02\x28", ErrorKind::TlsHandshake),
        (b"", ErrorKind::ConnectReset),
    ] {
        let server = Server::start(move |peer| {
            let mut hello = [0; 5];
            peer.stream.read_exact(&mut hello)?;
            let mut rest = vec![0; usize::from(hello[3]) << 8 | usize::from(hello[4])];
            peer.stream.read_exact(&mut rest)?;
            peer.send(reply)
        });
        let any = Config::builder().insecure().build().expect("valid");
        assert_eq!(get(&server, "a.test", any).expect_err("no TLS").kind(), kind, "{}", reply.escape_ascii());
    }
}

// D2
#[test]
fn a_stalled_handshake_is_a_tls_timeout() {
    let server = Server::start(|peer| {
        peer.wait_for_close();
        Ok(())
    });
    let error = run(async |rt| {
        let fetcher = HttpFetcher::builder(&rt).build().expect("valid");
        let mut limits = limits();
        limits.deadlines.tls = Duration::from_millis(30);
        let cx = FetchCx::detached(&rt).with_limits(limits);
        fetcher.fetch(&Request::get(format!("https://{}/", server.addr)), &cx).await
    });
    assert_eq!(error.expect_err("no handshake").kind(), ErrorKind::TimeoutTls);
}

// D5
#[test]
fn an_end_without_close_notify_ends_no_body() {
    for (reply, notify, expected) in [
        (&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], true, Ok(())),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", false, Err(ErrorKind::BodyIncomplete)),
        (HELLO, false, Ok(())),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, Ok(())),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true, Err(ErrorKind::BodyIncomplete)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", false, Err(ErrorKind::BodyIncomplete)),
        (b"HTTP/1.1 200 O", false, Err(ErrorKind::BodyIncomplete)),
        (b"", false, Err(ErrorKind::HttpEmptyReply)),
    ] {
        let (server, pem) = tls::server("a.test", move |stream| {
            common::read_head(stream)?;
            stream.write_all(reply)?;
            if notify {
                stream.conn.send_close_notify();
            }
            stream.flush()
        });
        let result = get(&server, "a.test", trusting(pem));
        let result = result.map(|r| assert_eq!(&r.body[..], b"hello")).map_err(|e| e.kind());
        assert_eq!(result, expected, "{} {notify}", reply.escape_ascii());
    }
}

/// A server that says in its answers whether a session was resumed, and closes after each.
fn telling_resumption(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Server, String) {
    tls::certified("a.test", tls::NOT_AFTER, versions, |stream| {
        common::read_head(stream)?;
        let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{resumed:5}");
        stream.write_all(reply.as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

// D9
#[test]
fn sessions_are_resumed() {
    let (server, pem) = telling_resumption(rustls::DEFAULT_VERSIONS);
    let config = trusting(pem);
    let ask = || String::from_utf8(get(&server, "a.test", config.clone()).expect("an answer").body.to_vec());
    assert_eq!([ask(), ask()].map(|body| body.expect("text")), ["false", "true "]);
}

/// A proxy that opens tunnels to wherever `to` listens.
fn tunnelling(to: std::net::SocketAddr) -> Server {
    Server::start(move |peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let mut target = std::net::TcpStream::connect(to)?;
        let (mut up_from, mut up_to) = (peer.stream.try_clone()?, target.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to).map(drop));
        std::io::copy(&mut target, &mut peer.stream).map(drop)
    })
}

// D9, F5
#[test]
fn sessions_are_those_of_one_way_to_one_port() {
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let (server, pem) = telling_resumption(versions);
        let config = trusting(pem.as_str());
        let proxies = [(); 2].map(|()| tunnelling(server.addr));
        let ways = [
            None,
            Some(format!("http://{}", proxies[0].addr)),
            Some(format!("http://me:pw@{}", proxies[0].addr)),
            Some(format!("http://{}", proxies[1].addr)),
        ];
        run(async |rt| {
            let ask = async |way: &Option<String>, port: u16, config: &Config| {
                let builder = HttpFetcher::builder(&rt).tls(config.clone()).resolve("a.test", port, server.addr);
                let builder = way.iter().fold(builder, |builder, proxy| builder.proxy(proxy));
                let request = Request::get(format!("https://a.test:{port}/"));
                let response = fetch(&rt, &builder.build().expect("valid"), request).await.expect("an answer");
                &response.body[..] == b"true "
            };
            for port in [443, 8443] {
                for way in &ways {
                    let resumed = [ask(way, port, &config).await, ask(way, port, &config).await];
                    assert_eq!(resumed, [false, true], "{way:?} to {port}");
                }
            }
            assert!(!ask(&None, 443, &trusting(pem.as_str())).await, "another configuration");
            assert!(ask(&None, 443, &config).await);
        });
    }
}

/// A server with this configuration, which answers one request.
fn configured(config: rustls::ServerConfig) -> Server {
    let config = Arc::new(config);
    Server::start(move |peer| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, peer.stream.try_clone()?);
        common::read_head(&mut stream)?;
        stream.write_all(HELLO)?;
        stream.flush()
    })
}

fn server_config(chain: Vec<rustls_pki_types::CertificateDer<'static>>, key_pem: &str) -> rustls::ServerConfig {
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("a key");
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together")
}

// D6
#[test]
fn a_server_that_insists_on_another_protocol_is_told() {
    let (certificate, pem, _) = identity("a.test");
    for (protocols, expected) in [(&[][..], Ok(())), (&["http/1.1"], Ok(())), (&["x-unheard"], Err(()))] {
        let mut config = server_config(vec![certificate.der().clone()], &pem);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let server = configured(config);
        match get(&server, "a.test", trusting(certificate.pem())) {
            Ok(response) => assert_eq!((&response.body[..], expected), (&b"hello"[..], Ok(()))),
            Err(error) => assert_eq!((error.kind(), expected), (ErrorKind::TlsHandshake, Err(())), "{error}"),
        }
    }
}

// D7
#[test]
fn long_chains_and_certificates_of_many_names_are_judged_in_bounded_work() {
    let mut names: Vec<_> = (0..1_000).map(|n| format!("n{n}.test")).collect();
    names.push("a.test".into());
    let key = rcgen::KeyPair::generate().expect("a key");
    let many = rcgen::CertificateParams::new(names).and_then(|p| p.self_signed(&key)).expect("valid");
    let server = configured(server_config(vec![many.der().clone()], &key.serialize_pem()));
    assert_eq!(&get(&server, "a.test", trusting(many.pem())).expect("it is one of the names").body[..], b"hello");
    // Authorities of one name and one key each, any of which may have signed any other: nothing leads to a root.
    let authorities: Vec<_> = (0..100)
        .map(|_| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, "all alike");
            let key = rcgen::KeyPair::generate().expect("a key");
            (params.self_signed(&key).expect("valid"), params, key)
        })
        .collect();
    let (_, params, signer) = &authorities[0];
    let issuer = rcgen::Issuer::from_params(params, signer);
    let leaf = rcgen::CertificateParams::new(["a.test".to_owned()]).and_then(|p| p.signed_by(&key, &issuer));
    let mut chain = vec![leaf.expect("valid").der().clone()];
    chain.extend(authorities.iter().map(|(certificate, ..)| certificate.der().clone()));
    let server = configured(server_config(chain, &key.serialize_pem()));
    let error = get(&server, "a.test", trusting(many.pem())).expect_err("no root");
    assert_eq!(error.kind(), ErrorKind::TlsCertificate, "{error}");
}

// D7
#[test]
fn handshakes_take_turns() {
    const AT_ONCE: usize = 3;
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (within, highest) = (Arc::clone(&inside), Arc::clone(&most));
    let (certificate, pem, _) = identity("a.test");
    let config = Arc::new(server_config(vec![certificate.der().clone()], &pem));
    let server = Server::start(move |peer| {
        // The first bytes of a hello are those of a handshake that has its turn.
        peer.stream.peek(&mut [0])?;
        highest.fetch_max(within.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        within.fetch_sub(1, Ordering::SeqCst);
        connection.complete_io(&mut peer.stream)?;
        let mut stream = rustls::StreamOwned::new(connection, peer.stream.try_clone()?);
        common::read_head(&mut stream)?;
        stream.write_all(HELLO)?;
        stream.flush()
    });
    run(async |rt| {
        let mut limits = tidegate::LedgerLimits::default();
        limits.handshakes = AT_ONCE as u32;
        let (port, ledger) = (server.addr.port(), tidegate::Ledger::new(limits));
        let builder = HttpFetcher::builder(&rt).tls(trusting(certificate.pem())).ledger(ledger.clone());
        let fetcher = builder.resolve("a.test", port, server.addr).build().expect("valid");
        let request = || fetch(&rt, &fetcher, Request::get(format!("https://a.test:{port}/")));
        let all = futures::future::join_all((0..60).map(|_| request())).await;
        assert!(all.iter().all(|answer| answer.as_ref().is_ok_and(|r| &r.body[..] == b"hello")));
        assert_eq!(ledger.usage().handshakes, 0);
    });
    assert!((1..=AT_ONCE).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

// D2: every record comes in pieces of one byte.
#[test]
fn the_cuts_do_not_matter() {
    let (origin, pem) = tls::server("a.test", |stream| {
        common::read_head(stream)?;
        stream.write_all(HELLO)?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let to = origin.addr;
    let relay = Server::start(move |peer| {
        let mut origin = std::net::TcpStream::connect(to)?;
        let (mut up_from, mut up_to) = (peer.stream.try_clone()?, origin.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to).map(drop));
        let mut byte = [0];
        while origin.read(&mut byte)? > 0 {
            peer.send(&byte)?;
        }
        Ok(())
    });
    assert_eq!(&get(&relay, "a.test", trusting(pem)).expect("an answer").body[..], b"hello");
}

/// A certificate of its own making for `name`, its key, and the SHA-256 of its public key.
fn identity(name: &str) -> (rcgen::Certificate, String, [u8; 32]) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate =
        rcgen::CertificateParams::new([name.to_owned()]).and_then(|p| p.self_signed(&key)).expect("valid");
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is one of 1.3");
    let hash = suite.common.hash_provider.hash(&rcgen::PublicKeyData::subject_public_key_info(&key));
    let pem = certificate.pem() + &key.serialize_pem();
    (certificate, pem, hash.as_ref().try_into().expect("32 bytes"))
}

/// A server that asks clients for a certificate of this root, and says in its answer which name they asked for.
fn asking(root: &rcgen::Certificate, (own, own_pem): (&rcgen::Certificate, &str)) -> Server {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(own_pem.as_bytes()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version that ring has")
        .with_client_cert_verifier(clients.build().expect("a root"))
        .with_single_cert(vec![own.der().clone()], key)
        .expect("they belong together");
    let config = Arc::new(config);
    Server::start(move |peer| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, peer.stream.try_clone()?);
        while common::read_head(&mut stream)?.is_some() {
            let name = stream.conn.server_name().unwrap_or("nobody").to_owned();
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()).as_bytes())?;
        }
        Ok(())
    })
}

// D1, D4
#[test]
fn an_identity_is_shown_and_what_is_asked_of_a_server_is_kept() {
    let ((server, server_pem, key), (client, client_pem, other_key)) = (identity("a.test"), identity("me.test"));
    let asking = asking(&client, (&server, &server_pem));
    let me = || Config::builder().add_root_pem(server.pem()).identity_pem(client_pem.clone());
    let fetched = |config: tidegate::tls::ConfigBuilder| {
        let response = get(&asking, "a.test", config.build().expect("valid"));
        response.map(|r| String::from_utf8_lossy(&r.body).into_owned()).map_err(|e| e.kind())
    };
    assert_eq!(fetched(me()), Ok("a.test".to_owned()));
    assert_eq!(fetched(me().sni(false)), Ok("nobody".to_owned()));
    assert_eq!(fetched(me().only_added_roots()), Ok("a.test".to_owned()));
    assert_eq!(fetched(me().pin_sha256(other_key).pin_sha256(key)), Ok("a.test".to_owned()));
    assert_eq!(fetched(me().pin_sha256(other_key)), Err(ErrorKind::TlsCertificate));
    assert_eq!(
        fetched(Config::builder().insecure().identity_pem(client_pem.clone()).pin_sha256(other_key)),
        Err(ErrorKind::TlsCertificate)
    );
    assert_eq!(fetched(me().tls13_only()), Err(ErrorKind::TlsHandshake));
    let refused = fetched(Config::builder().add_root_pem(server.pem())).expect_err("nobody is shown");
    // Closing may overtake the alert.
    assert!(matches!(refused, ErrorKind::TlsHandshake | ErrorKind::ConnectReset), "{refused:?}");
    assert!(!format!("{:?}", me()).contains("PRIVATE"));
    for bad in [client.pem(), client.pem() + &server_pem[server.pem().len()..], String::new()] {
        let error = Config::builder().identity_pem(bad).build().expect_err("no key of its own");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
}
