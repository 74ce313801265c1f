//! Options that change how a server is reached: certificates, addresses, proxies.

mod cli_common;

use std::sync::Arc;

use cli_common::{Files, RUNTIMES, Server, answer, run};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server with a certificate of its own for `secure.test`: its port, and the certificate as PEM.
fn tls_server() -> (u16, String) {
    let certified = rcgen::generate_simple_self_signed(["secure.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("they belong together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (sender, port) = std::sync::mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("bound").port()).expect("the test waits");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                // A client that does not trust it hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let _ = stream.write_all(answer("200 OK", "", "secret").as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
    });
    (port.recv().expect("it listens"), certified.cert.pem())
}

// D1
#[test]
fn a_certificate_is_trusted_where_it_is_named_or_all_are() {
    let (port, pem) = tls_server();
    let files = Files::new();
    let ca = files.write("ca.pem", pem);
    let (url, resolve) = (format!("https://secure.test:{port}/"), format!("secure.test:{port}:127.0.0.1"));
    for runtime in RUNTIMES {
        let fetch = ["fetch", &url, "--resolve", &resolve, "--runtime", runtime];
        let with = |more: &[&str]| run(&fetch.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>());
        let ended = with(&[]);
        assert_eq!(ended.records[0]["error"]["kind"], "tls.certificate", "{:?}", ended.lines);
        for trusting in [&["--cacert", ca.as_str()][..], &["--insecure"]] {
            let ended = with(trusting);
            assert_eq!(ended.records[0]["bytes"], 6, "{:?}", ended.lines);
            assert!(ended.records[0]["timing_ms"]["tls"].is_f64());
        }
        let ended =
            run(&["monitor", &url, "--resolve", &resolve, "--cacert", &ca, "--runtime", runtime, "--rounds", "1"]);
        let record = &ended.records[0];
        assert_eq!((ended.code, &record["state"]), (Some(0), &"up".into()), "{record}");
        let expiry = record["certificate_expires_at"].as_str().expect("an end");
        assert!(expiry.ends_with("Z") && expiry > "2027", "{expiry}");
    }
}

// C7, F6
#[test]
fn a_proxy_is_named_without_its_password() {
    let proxy = Server::start(|_| answer("200 OK", "", "by proxy"));
    let option = format!("http://me:hunter2@{}", proxy.addr);
    for runtime in RUNTIMES {
        let ended = run(&["fetch", "http://far.test/x", "--proxy", &option, "--runtime", runtime]);
        let record = ended.of("http://far.test/x");
        assert_eq!((&record["status"], &record["proxy"]), (&200.into(), &format!("http://{}", proxy.addr).into()));
        assert!(!ended.lines[0].contains("hunter2") && !ended.stderr.contains("hunter2"));
    }
    for head in proxy.heads() {
        assert!(head.starts_with("get http://far.test/x http/1.1\r\n"), "{head}");
        // "me:hunter2" in base64, in lower case like the rest.
        assert!(head.contains("proxy-authorization: basic bwu6ahvudgvymg=="), "{head}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn requests_leave_from_the_given_addresses_in_turn() {
    let server = Server::start(|_| answer("200 OK", "", ""));
    let url = format!("http://{}/", server.addr);
    for runtime in RUNTIMES {
        let options = ["fetch", &url, "--repeat", "4", "--local-address", "127.0.0.2", "--local-address", "127.0.0.3"];
        let ended = run(&options.into_iter().chain(["--runtime", runtime, "--body", "none"]).collect::<Vec<_>>());
        assert!(ended.records.iter().all(|record| record["status"] == 200 && record["sha256"].is_null()));
    }
    let peers: std::collections::BTreeSet<_> = server.peers().into_iter().map(|peer| peer.ip().to_string()).collect();
    assert_eq!(peers.into_iter().collect::<Vec<_>>(), ["127.0.0.2", "127.0.0.3"]);
}

#[test]
fn bodies_above_their_bound_are_errors_and_encodings_may_be_left() {
    let server = Server::start(|head| match head {
        head if head.starts_with("GET /large") => answer("200 OK", "", &"x".repeat(2000)),
        _ => answer("200 OK", "content-encoding: gzip\r\n", "not gzip"),
    });
    let (large, packed) = (format!("http://{}/large", server.addr), format!("http://{}/packed", server.addr));
    let ended = run(&["fetch", &large, &packed, "--max-body", "1k", "--no-decompress", "--retries", "0"]);
    assert_eq!(ended.of(&large)["error"]["kind"], "body.too_large");
    assert_eq!(ended.of(&packed)["bytes"], 8);
    assert!(server.heads().iter().all(|head| !head.contains("accept-encoding")));
    let ended = run(&["fetch", &packed, "--retries", "0"]);
    assert_eq!(ended.of(&packed)["outcome"], "error");
}
