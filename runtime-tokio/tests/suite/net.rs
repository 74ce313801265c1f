use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use hyper::rt::{Read, ReadBuf, Write};
use tidegate::rt::{Runtime, TcpConn, TcpOptions, start_connect};

use super::{on, poll_once};

/// A server for one connection.
fn serve<T: Send + 'static>(
    server: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    (addr, thread::spawn(move || server(listener.accept().expect("a connection").0)))
}

/// A server that sends back what it gets from one connection.
pub(crate) fn echo() -> SocketAddr {
    serve(|mut stream| io::copy(&mut stream.try_clone().expect("a descriptor"), &mut stream)).0
}

async fn connect(runtime: &Runtime, addr: SocketAddr) -> TcpConn {
    runtime.tcp().connect(addr, &TcpOptions::default()).await.expect("connects")
}

fn poll_read(conn: &mut TcpConn, cx: &mut Context<'_>, raw: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(raw);
    let polled = Pin::new(&mut conn.io).poll_read(cx, buf.unfilled());
    polled.map_ok(|()| buf.filled().len())
}

/// One read; empty at the end.
pub(crate) async fn read(conn: &mut TcpConn, most: usize) -> Vec<u8> {
    let mut raw = vec![0; most];
    let read = poll_fn(|cx| poll_read(conn, cx, &mut raw)).await.expect("reads");
    raw.truncate(read);
    raw
}

async fn read_exact(conn: &mut TcpConn, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let more = read(conn, len - all.len()).await;
        assert!(!more.is_empty(), "ended after {} of {len}", all.len());
        all.extend(more);
    }
    all
}

/// Writes all, and tells in how many parts.
pub(crate) async fn write_all(conn: &mut TcpConn, mut bytes: &[u8]) -> usize {
    let mut parts = 0;
    while !bytes.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut conn.io).poll_write(cx, bytes)).await.expect("writes");
        bytes = &bytes[written..];
        parts += 1;
    }
    parts
}

pub(crate) fn round_trip(runtime: Runtime) {
    let addr = echo();
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        assert_eq!(conn.peer, addr);
        assert_eq!(conn.local.ip(), addr.ip());
        assert_ne!(conn.local.port(), 0);
        write_all(&mut conn, b"hello").await;
        assert_eq!(read_exact(&mut conn, 5).await, b"hello");
    });
    // The options are set before the connection is made.
    for nodelay in [true, false] {
        let mut options = TcpOptions::default();
        options.nodelay = nodelay;
        let stream = start_connect(echo(), &options).expect("a socket");
        assert_eq!(stream.nodelay().expect("known"), nodelay);
    }
}

pub(crate) fn refused(runtime: Runtime) {
    // An address that no other test binds, so that the port stays free.
    let addr = TcpListener::bind("127.0.0.3:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let refused = on(&runtime.clone(), async move { runtime.tcp().connect(addr, &TcpOptions::default()).await });
    assert_eq!(refused.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
}

pub(crate) fn half_close_is_the_end(runtime: Runtime) {
    let (addr, server) = serve(|mut stream| {
        stream.write_all(b"abc").expect("writes");
        stream.shutdown(Shutdown::Write).expect("shuts down");
        let mut got = String::new();
        stream.read_to_string(&mut got).expect("reads");
        got
    });
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        assert_eq!(read(&mut conn, 64).await, b"");
        assert_eq!(read(&mut conn, 64).await, b"", "and stays the end");
        write_all(&mut conn, b"xyz").await;
    });
    assert_eq!(server.join().expect("no panic"), "xyz");
}

pub(crate) fn a_short_read_loses_nothing(runtime: Runtime) {
    let (go_on, gone_on) = channel::<()>();
    let (sent, wait) = channel::<()>();
    let (addr, _) = serve(move |mut stream| {
        for part in [&b"one"[..], b"two"] {
            stream.write_all(part).expect("writes");
            sent.send(()).expect("client lives");
            gone_on.recv().expect("client lives");
        }
        stream.write_all(b"three").expect("writes");
        drop(stream);
        sent.send(()).expect("client lives");
    });
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        // Waits here for what comes later.
        assert_eq!(read(&mut conn, 64).await, b"one");
        wait.recv().expect("server lives");
        go_on.send(()).expect("server lives");
        assert_eq!(read(&mut conn, 64).await, b"two");
        // More and the end are there before anybody asks again.
        wait.recv().expect("server lives");
        go_on.send(()).expect("server lives");
        wait.recv().expect("server lives");
        assert_eq!(read_exact(&mut conn, 5).await, b"three");
        assert_eq!(read(&mut conn, 64).await, b"");
    });
}

pub(crate) fn eight_mebibytes_to_a_slow_reader(runtime: Runtime) {
    const LEN: usize = 8 << 20;
    let byte = |n: usize| (n % 251) as u8;
    let (addr, server) = serve(move |mut stream| {
        let (mut got, mut buf) = (0, [0; 4096]);
        loop {
            let read = stream.read(&mut buf).expect("reads");
            if read == 0 {
                return got;
            }
            assert!(buf[..read].iter().enumerate().all(|(n, &b)| b == byte(got + n)), "at {got}");
            got += read;
            thread::yield_now();
        }
    });
    let parts = on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        let bytes: Vec<u8> = (0..LEN).map(byte).collect();
        write_all(&mut conn, &bytes).await
    });
    assert!(parts > 1);
    assert_eq!(server.join().expect("no panic"), LEN);
}

pub(crate) fn vectored_writes_take_all_slices(runtime: Runtime) {
    let addr = echo();
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        assert!(conn.io.is_write_vectored());
        let slices = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two "), IoSlice::new(b"three")];
        let written = poll_fn(|cx| Pin::new(&mut conn.io).poll_write_vectored(cx, &slices)).await.expect("writes");
        assert_eq!(written, 13);
        assert_eq!(read_exact(&mut conn, 13).await, b"one two three");
    });
}

struct Tells(Sender<()>);

impl Wake for Tells {
    fn wake(self: Arc<Self>) {
        // Nobody listens any more at the end of the test.
        let _ = self.0.send(());
    }
}

pub(crate) fn the_last_waker_wins(runtime: Runtime) {
    let (go_on, gone_on) = channel::<()>();
    let (addr, _) = serve(move |mut stream| {
        gone_on.recv().expect("client lives");
        stream.write_all(b"abc").expect("writes");
        let _ = gone_on.recv();
    });
    let connecting = runtime.clone();
    let mut conn = on(&runtime, async move { connect(&connecting, addr).await });
    let ((first, _), (last, woken)) = (channel(), channel());
    let first = Waker::from(Arc::new(Tells(first)));
    let last = Waker::from(Arc::new(Tells(last)));
    let mut raw = [0; 64];
    // On this thread, which is not the runtime's.
    assert!(poll_read(&mut conn, &mut Context::from_waker(&first), &mut raw).is_pending());
    assert!(poll_read(&mut conn, &mut Context::from_waker(&last), &mut raw).is_pending());
    go_on.send(()).expect("server lives");
    loop {
        woken.recv().expect("the waker lives");
        if let Poll::Ready(read) = poll_read(&mut conn, &mut Context::from_waker(&last), &mut raw) {
            assert_eq!(&raw[..read.expect("reads")], b"abc");
            break;
        }
    }
}

pub(crate) fn a_read_leaves_the_rest_alone(runtime: Runtime) {
    let addr = echo();
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        let mut raw = [0xAA; 64];
        let mut idle = |cx: &mut Context<'_>| Poll::Ready(poll_read(&mut conn, cx, &mut raw).is_pending());
        assert!(poll_fn(&mut idle).await);
        assert_eq!(raw, [0xAA; 64]);
        write_all(&mut conn, b"abc").await;
        let read = poll_fn(|cx| poll_read(&mut conn, cx, &mut raw)).await.expect("reads");
        assert_eq!(raw[..read], b"abc"[..read]);
        assert_eq!(raw[read..], [0xAA; 64][read..]);
    });
}

pub(crate) fn dropped_while_connecting(runtime: Runtime) {
    let (addr, server) = serve(|mut stream| stream.read(&mut [0; 16]));
    on(&runtime.clone(), async move {
        let mut connects = runtime.tcp().connect(addr, &TcpOptions::default());
        // Whatever it says: from here the socket is dropped with the future.
        let _ = poll_once(connects.as_mut());
    });
    // A reset is an end too.
    assert_eq!(server.join().expect("no panic").unwrap_or(0), 0);
}

pub(crate) fn dropped_is_closed(runtime: Runtime) {
    let (addr, server) = serve(|mut stream| stream.read_to_end(&mut Vec::new()));
    on(&runtime.clone(), async move { drop(connect(&runtime, addr).await) });
    assert_eq!(server.join().expect("no panic").expect("reads"), 0);
}

pub(crate) fn shutdown_ends_one_direction(runtime: Runtime) {
    let (addr, _) = serve(|mut stream| {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("reads");
        stream.write_all(&got).expect("writes");
    });
    on(&runtime.clone(), async move {
        let mut conn = connect(&runtime, addr).await;
        write_all(&mut conn, b"abc").await;
        poll_fn(|cx| Pin::new(&mut conn.io).poll_flush(cx)).await.expect("flushes");
        poll_fn(|cx| Pin::new(&mut conn.io).poll_shutdown(cx)).await.expect("shuts down");
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        assert_eq!(read(&mut conn, 16).await, b"");
    });
}

pub(crate) fn source_address(runtime: Runtime) {
    let (addr, server) = serve(|stream| stream.peer_addr());
    let local = on(&runtime.clone(), async move {
        let mut options = TcpOptions::default();
        options.local_address = Some([127, 0, 0, 2].into());
        runtime.tcp().connect(addr, &options).await.expect("connects").local
    });
    assert_eq!(local.ip(), SocketAddr::from(([127, 0, 0, 2], 0)).ip());
    assert_eq!(server.join().expect("no panic").expect("known"), local);
}

// K8
pub(crate) fn descriptors_close_on_exec(runtime: Runtime) {
    let addr = echo();
    on(&runtime.clone(), async move {
        let before = descriptors();
        let mut conn = connect(&runtime, addr).await;
        write_all(&mut conn, b"abc").await;
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        for (number, flags) in descriptors() {
            // Those of other tests are in here too, which does no harm.
            let inherited = before.contains(&(number, flags));
            assert!(inherited || flags & O_CLOEXEC != 0, "descriptor {number}: {flags:o}");
        }
    });
}

const O_CLOEXEC: u32 = 0o2_000_000;

/// Numbers and flags of the open ones, where the system tells.
fn descriptors() -> Vec<(u32, u32)> {
    let flags = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        Some((entry.file_name().to_str()?.parse().ok()?, u32::from_str_radix(flags.trim(), 8).ok()?))
    };
    std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().filter_map(flags).collect()
}
