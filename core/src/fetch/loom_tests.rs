//! Models of the byte bookings of a crawl.

use futures::FutureExt;
use loom::thread;

use super::*;
use crate::rt::manual::Manual;

#[test]
fn bookings_of_two_threads_are_all_given_back() {
    loom::model(|| {
        let ledger = Arc::new(BodyBytes::default());
        let runtime = Manual::new().runtime();
        let cx = |ledger| FetchCx::new(runtime.clone(), Arc::new(Limits::listed()), 0, 1, ledger);
        let read = |cx: FetchCx| {
            cx.book(2).now_or_never().expect("granted at once");
            cx.book(3).now_or_never().expect("granted at once");
            drop(cx.take_booking());
            cx
        };
        let other = {
            let cx = cx(Arc::clone(&ledger));
            thread::spawn(move || drop(read(cx)))
        };
        let cx = read(cx(Arc::clone(&ledger)));
        assert!(ledger.bytes() <= 5, "only the other's are left");
        // After the attempt there is nothing to book against.
        cx.book(7).now_or_never().expect("granted at once");
        other.join().expect("no panic");
        assert_eq!(ledger.bytes(), 0);
    });
}
