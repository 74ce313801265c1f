use std::io::Read as _;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tidegate::rt::{Name, Runtime};

/// Starts, uses and drops a runtime so often, and compares what is there after the first time and after the last.
pub(crate) fn starts_and_stops(times: usize, make: impl Fn() -> Runtime) {
    cycle(&make);
    // Threads end by themselves; what one of them held is gone before it is.
    let ended = || threads().iter().all(|name| !name.starts_with("tidegate"));
    while !ended() {
        thread::yield_now();
    }
    let (descriptors_then, threads_then) = (descriptors(), threads());
    for _ in 1..times {
        cycle(&make);
    }
    while !ended() || threads().len() > threads_then.len() {
        thread::yield_now();
    }
    assert_eq!(descriptors(), descriptors_then);
}

fn cycle(make: &impl Fn() -> Runtime) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let server = thread::spawn(move || listener.accept().expect("a connection").0.read(&mut [0; 16]));

    let runtime = make();
    let (sender, receiver) = channel();
    let (connect, sleep) = (
        runtime.tcp().connect(addr, &Default::default()),
        runtime.sleep_until(runtime.now() + Duration::from_millis(1)),
    );
    let lookup = runtime.resolver().resolve(&Name::new("localhost").expect("a name"));
    runtime.spawn(async move {
        let _conn = connect.await.expect("connects");
        sleep.await;
        lookup.await.expect("found");
        sender.send(()).expect("receiver lives");
        std::future::pending().await
    });
    receiver.recv().expect("the task runs");
    drop(runtime);
    // The connection is dropped with the task. A reset is an end too.
    assert_eq!(server.join().expect("no panic").unwrap_or(0), 0);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    // One that ends meanwhile has no name any more.
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.flatten().filter_map(name).map(|name| name.trim().to_owned()).collect()
}
