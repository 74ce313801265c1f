//! TCP connections.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use hyper::rt::Write;

#[cfg(target_os = "linux")]
use super::descriptor::Descriptor;
use super::support::{connect, echo, on, poll_once, poll_read, read, read_exact, try_read, write_all};
use super::{Harness, Script, Signal, Step};
use crate::rt::TcpOptions;

/// Bytes go there and come back, and both ends know each other.
pub fn round_trip<H: Harness>(harness: &Arc<H>) {
    let (runtime, served) = (harness.runtime(), echo(harness));
    let addr = served.addr;
    let local = on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        assert_eq!(conn.peer, addr);
        assert_ne!(conn.local.port(), 0);
        write_all(&mut conn, b"hello").await;
        assert_eq!(read_exact(&mut conn, 5).await, b"hello");
        conn.local
    });
    let outcome = harness.block_on(served.outcome());
    assert_eq!(outcome.received, b"hello");
    assert_eq!(outcome.client, local);
}

/// Where nobody listens it is told: `ConnectionRefused`.
pub fn refused<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), harness.unused_addr());
    let refused = on(&**harness, async move { runtime.tcp().connect(addr, &TcpOptions::default()).await });
    assert_eq!(refused.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
}

/// The end of the server's direction is read as the end, stays it, and leaves the other direction open.
pub fn half_close_is_the_end<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::write("abc"), Step::Shutdown, Step::ReadToEnd]));
    let addr = served.addr;
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        assert_eq!(read(&mut conn, 64).await, b"");
        assert_eq!(read(&mut conn, 64).await, b"", "and stays the end");
        write_all(&mut conn, b"xyz").await;
    });
    assert_eq!(harness.block_on(served.outcome()).received, b"xyz");
}

/// A read that gives less than was asked for loses nothing of what comes later.
pub fn a_short_read_loses_nothing<H: Harness>(harness: &Arc<H>) {
    let (runtime, sent, go_on) = (harness.runtime(), Signal::new(), Signal::new());
    let addr = harness.serve(in_three_parts(&sent, &go_on)).addr;
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        // Waits here for what comes later.
        assert_eq!(read(&mut conn, 64).await, b"one");
        sent.wait().await;
        go_on.raise();
        assert_eq!(read(&mut conn, 64).await, b"two");
        sent.wait().await;
        go_on.raise();
        sent.wait().await;
        assert_eq!(read_exact(&mut conn, 5).await, b"three");
        assert_eq!(read(&mut conn, 64).await, b"");
    });
}

/// The same where bytes and the end come while the runtime's thread does something else. Needs `threads`.
pub fn what_comes_meanwhile_is_not_lost<H: Harness>(harness: &Arc<H>) {
    let (runtime, sent, go_on) = (harness.runtime(), Signal::new(), Signal::new());
    let addr = harness.serve(in_three_parts(&sent, &go_on)).addr;
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        assert_eq!(read(&mut conn, 64).await, b"one");
        sent.wait_blocking();
        go_on.raise();
        assert_eq!(read(&mut conn, 64).await, b"two");
        // More and the end are there before anybody asks again.
        sent.wait_blocking();
        go_on.raise();
        sent.wait_blocking();
        assert_eq!(read_exact(&mut conn, 5).await, b"three");
        assert_eq!(read(&mut conn, 64).await, b"");
    });
}

fn in_three_parts(sent: &Signal, go_on: &Signal) -> Script {
    let mut steps = Vec::new();
    for part in ["one", "two"] {
        steps.extend([Step::write(part), Step::Raise(sent.clone()), Step::Wait(go_on.clone())]);
    }
    steps.extend([Step::write("three"), Step::Close, Step::Raise(sent.clone())]);
    Script::new(steps)
}

/// A reset is an error, and not an end.
pub fn a_reset_is_an_error<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let addr = harness.serve(Script::new([Step::Read(1), Step::Reset])).addr;
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        write_all(&mut conn, b"x").await;
        let read = try_read(&mut conn, 64).await;
        assert_eq!(read.expect_err("it was reset").kind(), io::ErrorKind::ConnectionReset);
    });
}

/// A connection is made and used outside of any task: on the thread of the case, which is not the runtime's where that has
/// threads of its own.
pub fn works_outside_of_tasks<H: Harness>(harness: &Arc<H>) {
    let (runtime, served) = (harness.runtime(), echo(harness));
    harness.block_on(async {
        let mut conn = connect(&runtime, served.addr).await;
        write_all(&mut conn, b"hello").await;
        assert_eq!(read_exact(&mut conn, 5).await, b"hello");
    });
    assert_eq!(harness.block_on(served.outcome()).received, b"hello");
}

/// 8 MiB reach a slow reader in order: it begins when there is no more room for what is written.
pub fn eight_mebibytes_to_a_slow_reader<H: Harness>(harness: &Arc<H>) {
    const LEN: usize = 8 << 20;
    let bytes: Arc<[u8]> = (0..LEN).map(|n| (n % 251) as u8).collect();
    let (runtime, sends, go_on) = (harness.runtime(), Arc::clone(&bytes), Signal::new());
    let served = harness.serve(Script::new([Step::Wait(go_on.clone()), Step::SlowRead(4096)]));
    let addr = served.addr;
    on(&**harness, async move {
        let options = TcpOptions { send_buffer: Some(64 << 10), ..TcpOptions::default() };
        let mut conn = runtime.tcp().connect(addr, &options).await.expect("connects");
        let (mut written, mut has_waited) = (0, false);
        while written < LEN {
            written += poll_fn(|cx| {
                let polled = Pin::new(&mut conn.io).poll_write(cx, &sends[written..]);
                if polled.is_pending() && !std::mem::replace(&mut has_waited, true) {
                    go_on.raise();
                }
                polled
            })
            .await
            .expect("writes");
        }
        assert!(has_waited, "8 MiB were taken though nobody read");
    });
    // Not `assert_eq`, which would print both.
    assert!(harness.block_on(served.outcome()).received == *bytes);
}

/// A vectored write takes all slices. Needs `vectored`.
pub fn vectored_writes_take_all_slices<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), echo(harness).addr);
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        assert!(conn.io.is_write_vectored());
        let slices = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two "), IoSlice::new(b"three")];
        let written = poll_fn(|cx| Pin::new(&mut conn.io).poll_write_vectored(cx, &slices)).await.expect("writes");
        assert_eq!(written, 13);
        assert_eq!(read_exact(&mut conn, 13).await, b"one two three");
    });
}

/// Of two contexts that have polled the same read, the last one is woken.
pub fn the_last_waker_wins<H: Harness>(harness: &Arc<H>) {
    struct Tells(async_channel::Sender<()>);
    impl Wake for Tells {
        fn wake(self: Arc<Self>) {
            // Told already, or nobody listens any more.
            let _ = self.0.try_send(());
        }
    }

    let (runtime, go_on) = (harness.runtime(), Signal::new());
    let script = Script::new([Step::Wait(go_on.clone()), Step::write("abc"), Step::ReadToEnd]);
    let addr = harness.serve(script).addr;
    let connecting = runtime.clone();
    let mut conn = on(&**harness, async move { connect(&connecting, addr).await });
    // Outside of any task, on the thread of the case.
    harness.block_on(async {
        let ((first, _first), (last, woken)) = (async_channel::bounded(1), async_channel::bounded(1));
        let first = Waker::from(Arc::new(Tells(first)));
        let last = Waker::from(Arc::new(Tells(last)));
        let mut raw = [0; 64];
        assert!(poll_read(&mut conn, &mut Context::from_waker(&first), &mut raw).is_pending());
        assert!(poll_read(&mut conn, &mut Context::from_waker(&last), &mut raw).is_pending());
        go_on.raise();
        loop {
            woken.recv().await.expect("the waker lives");
            if let Poll::Ready(read) = poll_read(&mut conn, &mut Context::from_waker(&last), &mut raw) {
                assert_eq!(&raw[..read.expect("reads")], b"abc");
                break;
            }
        }
    });
}

/// A read writes nothing beyond what it says it has filled, and nothing at all where nothing has come.
pub fn a_read_leaves_the_rest_alone<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), echo(harness).addr);
    on(&**harness, async move {
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

/// A connection that is given up while it is being made is closed. Needs `sockets`.
pub fn dropped_while_connecting<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd]));
    let addr = served.addr;
    on(&**harness, async move {
        let mut connects = runtime.tcp().connect(addr, &TcpOptions::default());
        // Whatever it says: from here the socket is dropped with the future.
        let _ = poll_once(connects.as_mut());
    });
    // A reset is an end too.
    assert!(harness.block_on(served.outcome()).received.is_empty());
}

/// A connection that is dropped is closed.
pub fn dropped_is_closed<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd]));
    let addr = served.addr;
    on(&**harness, async move { drop(connect(&runtime, addr).await) });
    let outcome = harness.block_on(served.outcome());
    assert!(outcome.received.is_empty());
    assert!(outcome.error.is_none(), "{outcome:?}");
}

/// A shutdown ends our direction only.
pub fn shutdown_ends_one_direction<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd, Step::write("abc")]));
    let addr = served.addr;
    on(&**harness, async move {
        let mut conn = connect(&runtime, addr).await;
        write_all(&mut conn, b"abc").await;
        poll_fn(|cx| Pin::new(&mut conn.io).poll_flush(cx)).await.expect("flushes");
        poll_fn(|cx| Pin::new(&mut conn.io).poll_shutdown(cx)).await.expect("shuts down");
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        assert_eq!(read(&mut conn, 16).await, b"");
    });
    assert_eq!(harness.block_on(served.outcome()).received, b"abc");
}

/// A connection has the options that it was asked for. Needs `sockets`; on Linux, where a process can look at its own.
pub fn options_are_set<H: Harness>(harness: &Arc<H>) {
    let all = TcpOptions {
        local_address: None,
        nodelay: false,
        keepalive: Some(Duration::from_secs(3600)),
        user_timeout: Some(Duration::from_secs(60)),
        // Neither is what the system gives by itself.
        recv_buffer: Some(48 << 10),
        send_buffer: Some(48 << 10),
    };
    for options in [TcpOptions::default(), all] {
        let (runtime, addr) = (harness.runtime(), echo(harness).addr);
        on(&**harness, async move {
            let mut conn = runtime.tcp().connect(addr, &options).await.expect("connects");
            #[cfg(target_os = "linux")]
            if let Some(socket) = Descriptor::of(&conn).and_then(|descriptor| descriptor.duplicate()) {
                has_options(&socket, &options).expect("a socket tells its options");
            }
            write_all(&mut conn, b"abc").await;
            assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        });
    }
}

#[cfg(target_os = "linux")]
fn has_options(socket: &socket2::Socket, options: &TcpOptions) -> io::Result<()> {
    let TcpOptions { local_address: _, nodelay, keepalive, user_timeout, recv_buffer, send_buffer } = *options;
    assert_eq!(socket.tcp_nodelay()?, nodelay, "TCP_NODELAY");
    assert_eq!(socket.keepalive()?, keepalive.is_some(), "SO_KEEPALIVE");
    if let Some(idle) = keepalive {
        assert_eq!(socket.tcp_keepalive_time()?, idle, "TCP_KEEPIDLE");
    }
    assert_eq!(socket.tcp_user_timeout()?, user_timeout, "TCP_USER_TIMEOUT");
    let buffers = [(recv_buffer, socket.recv_buffer_size()?), (send_buffer, socket.send_buffer_size()?)];
    for (asked, has) in buffers {
        // Linux doubles them, for what it needs itself.
        let fits = asked.is_none_or(|asked| (asked as usize..=2 * asked as usize).contains(&has));
        assert!(fits, "a buffer of {has} bytes for {asked:?}");
    }
    Ok(())
}

/// A connection comes from the source address that was asked for. Needs `sockets`; on Linux, where the whole of 127/8 is
/// this machine.
pub fn source_address<H: Harness>(harness: &Arc<H>) {
    let host = if cfg!(target_os = "linux") { [127, 0, 0, 2] } else { [127, 0, 0, 1] };
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd]));
    let addr = served.addr;
    let local = on(&**harness, async move {
        let options = TcpOptions { local_address: Some(host.into()), ..TcpOptions::default() };
        runtime.tcp().connect(addr, &options).await.expect("connects").local
    });
    assert_eq!(local.ip(), SocketAddr::from((host, 0)).ip());
    assert_eq!(harness.block_on(served.outcome()).client, local);
}

/// Descriptors are closed on exec. Needs `sockets`; on Linux, which tells.
// K8
pub fn descriptors_close_on_exec<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), echo(harness).addr);
    on(&**harness, async move {
        #[cfg(target_os = "linux")]
        let before = Descriptor::all();
        let mut conn = connect(&runtime, addr).await;
        write_all(&mut conn, b"abc").await;
        assert_eq!(read_exact(&mut conn, 3).await, b"abc");
        #[cfg(target_os = "linux")]
        {
            if let Some(own) = Descriptor::of(&conn) {
                assert!(!before.contains(&own) && own.closes_on_exec(), "{own:?}");
            }
            // Also what the runtime opened beside. Those of other tests are in here too, which does no harm.
            let open = Descriptor::all().into_iter().find(|one| !before.contains(one) && !one.closes_on_exec());
            assert_eq!(open, None);
        }
    });
}
