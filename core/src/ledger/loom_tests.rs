//! Models of the wait for a socket between threads: no grant is lost, whoever leaves.

use loom::thread;

use super::*;
use crate::rt::manual::Manual;
use crate::sync::atomic::{AtomicU64, Ordering};

fn to(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 80))
}

fn one_socket() -> Ledger {
    Ledger::new(LedgerLimits { sockets: 1, ports: 1, ..LedgerLimits::default() })
}

/// A task that waits for a socket as a dial does, and counts one.
fn dialing(manual: &Manual, ledger: &Ledger, dialed: &Arc<AtomicU64>) {
    let (ledger, dialed, now) = (ledger.clone(), Arc::clone(dialed), manual.runtime().now());
    manual.runtime().spawn(async move {
        let socket = match ledger.try_book(to(2), &[], now) {
            Some(socket) => socket,
            None => {
                let mut place = ledger.wait(to(2), &[]);
                loop {
                    if let Turn::Granted(socket) = place.turn().await {
                        break socket;
                    }
                }
            }
        };
        drop(socket);
        dialed.fetch_add(1, Ordering::Relaxed);
    });
}

// H1
#[test]
fn a_socket_that_is_closed_is_granted_to_who_waits() {
    loom::model(|| {
        let (manual, ledger) = (Manual::new(), one_socket());
        let held = ledger.try_book(to(1), &[], manual.runtime().now()).expect("room");
        let closing = thread::spawn(move || drop(held));
        let dialed = Arc::new(AtomicU64::new(0));
        dialing(&manual, &ledger, &dialed);
        dialing(&manual, &ledger, &dialed);
        manual.settle();
        closing.join().expect("no panic");
        manual.settle();
        assert_eq!((dialed.load(Ordering::Relaxed), ledger.usage().sockets), (2, 0), "a grant was lost");
    });
}

// H10
#[test]
fn one_that_leaves_as_it_is_granted_passes_the_socket_on() {
    loom::model(|| {
        let (manual, ledger) = (Manual::new(), one_socket());
        let held = ledger.try_book(to(1), &[], manual.runtime().now()).expect("room");
        let place = ledger.wait(to(2), &[]);
        let dialed = Arc::new(AtomicU64::new(0));
        dialing(&manual, &ledger, &dialed);
        let closing = thread::spawn(move || drop(held));
        let leaving = thread::spawn(move || drop(place));
        manual.settle();
        closing.join().expect("no panic");
        leaving.join().expect("no panic");
        manual.settle();
        let usage = ledger.usage();
        assert_eq!((dialed.load(Ordering::Relaxed), usage.sockets, usage.waiting), (1, 0, 0), "a grant was lost");
    });
}
