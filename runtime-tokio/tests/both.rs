//! Both adapters in one process.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use hyper::rt::{Read as _, ReadBuf, Write as _};
use tidegate::rt::{Name, Runtime};

fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut got = [0; 5];
        stream.read_exact(&mut got).expect("reads");
        stream.write_all(&got).expect("writes");
    });
    addr
}

/// Uses every part of a runtime from a task of `on`.
fn use_all(runtime: &Runtime, on: &Runtime) {
    let (addr, used) = (server(), runtime.clone());
    let (sender, receiver) = channel();
    on.spawn(async move {
        let mut conn = used.tcp().connect(addr, &Default::default()).await.expect("connects");
        let written = poll_fn(|cx| Pin::new(&mut conn.io).poll_write(cx, b"hello")).await.expect("writes");
        assert_eq!(written, 5);
        let mut got = Vec::new();
        while got.len() < 5 {
            let mut raw = [0; 16];
            let mut buf = ReadBuf::new(&mut raw);
            poll_fn(|cx| Pin::new(&mut conn.io).poll_read(cx, buf.unfilled())).await.expect("reads");
            assert!(!buf.filled().is_empty());
            got.extend_from_slice(buf.filled());
        }
        assert_eq!(got, b"hello");
        used.sleep_until(used.now() + Duration::from_millis(1)).await;
        used.spawner().yield_now().await;
        let found = used.resolver().resolve(&Name::new("localhost").expect("a name")).await.expect("found");
        assert!(found.addrs.iter().all(|addr| addr.is_loopback()));
        sender.send(()).expect("receiver lives");
    });
    receiver.recv().expect("the task runs to its end");
}

// K9
#[test]
fn two_runtimes_in_one_process_do_not_meet() {
    let tokio = tidegate_tokio::dedicated().expect("a thread");
    let smol = tidegate_smol::dedicated().expect("a thread");
    assert_eq!((tokio.name(), smol.name()), ("tokio", "smol"));
    use_all(&tokio, &tokio);
    use_all(&smol, &smol);
    // Nothing ambient: the parts of one work in a task of the other.
    use_all(&tokio, &smol);
    use_all(&smol, &tokio);
    drop(tokio);
    use_all(&smol, &smol);
}
