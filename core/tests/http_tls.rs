//! TLS: who is believed, and that no end of a stream is taken for the end of a body.
#![cfg(feature = "tls")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
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

// D9
#[test]
fn sessions_are_resumed() {
    let (server, pem) = tls::server("a.test", |stream| {
        common::read_head(stream)?;
        let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{resumed:5}");
        stream.write_all(reply.as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let config = trusting(pem);
    let ask = || String::from_utf8(get(&server, "a.test", config.clone()).expect("an answer").body.to_vec());
    assert_eq!([ask(), ask()].map(|body| body.expect("text")), ["false", "true "]);
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
