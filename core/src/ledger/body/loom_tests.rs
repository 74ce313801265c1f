//! Models of the byte budget between threads: no grant and no byte is lost.

use loom::thread;

use super::*;
use crate::rt::manual::Manual;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A task that reads a body of so many steps, and then counts one.
fn reading(manual: &Manual, ledger: &Arc<BodyBytes>, steps: u32, read: &Arc<AtomicU64>) {
    let (mut booking, read) = (Booking::new(Arc::clone(ledger)), Arc::clone(read));
    manual.runtime().spawn(async move {
        for _ in 0..steps {
            if let Some(mut growth) = booking.reader().book(1) {
                growth.granted().await;
            }
        }
        booking.end();
        drop(booking);
        read.fetch_add(1, Ordering::Relaxed);
    });
}

// H5
#[test]
fn who_waits_is_granted_what_other_threads_give_back() {
    loom::model(|| {
        // One body at a time.
        let (manual, ledger) = (Manual::new(), Arc::new(BodyBytes::new(2, 2)));
        let holder = || {
            let mut booking = Booking::new(Arc::clone(&ledger));
            booking.never_waits();
            assert!(booking.reader().book(1).is_none());
            booking.end();
            thread::spawn(move || drop(booking))
        };
        let holders = [holder(), holder()];
        let read = Arc::new(AtomicU64::new(0));
        reading(&manual, &ledger, 2, &read);
        manual.settle();
        holders.into_iter().for_each(|holder| holder.join().expect("no panic"));
        manual.settle();
        assert_eq!(read.load(Ordering::Relaxed), 1, "there is room and the reader sleeps");
        assert!(ledger.bytes() == 0 && !ledger.is_short());
    });
}

// H10
#[test]
fn one_that_leaves_as_it_is_granted_keeps_nobody_waiting() {
    loom::model(|| {
        let (manual, ledger) = (Manual::new(), Arc::new(BodyBytes::new(1, 1)));
        let mut first = Booking::new(Arc::clone(&ledger));
        assert!(first.reader().book(1).is_none());
        first.end();
        let mut leaving = Booking::new(Arc::clone(&ledger));
        let growth = leaving.reader().book(1);
        let read = Arc::new(AtomicU64::new(0));
        reading(&manual, &ledger, 1, &read);
        let gives_back = thread::spawn(move || drop(first));
        let leaves = thread::spawn(move || drop((growth, leaving)));
        manual.settle();
        gives_back.join().expect("no panic");
        leaves.join().expect("no panic");
        manual.settle();
        assert_eq!(read.load(Ordering::Relaxed), 1, "its turn was lost with who left");
        assert!(ledger.bytes() == 0 && !ledger.is_short());
    });
}
