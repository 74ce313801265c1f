//! Models of the turnstile between threads: no turn is lost, and nobody enters beside another.

use std::future::poll_fn;
use std::sync::Arc;

use futures::FutureExt;
use loom::thread;

use super::*;
use crate::rt::manual::Manual;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Enters once, and leaves.
async fn pass(turnstile: &Turnstile) {
    let mut pass = Pass::new(turnstile);
    poll_fn(|cx| pass.poll(cx)).await;
    assert_eq!(turnstile.inside(), 1);
}

/// A task that passes, and counts one.
fn passing(manual: &Manual, turnstile: &Arc<Turnstile>, passed: &Arc<AtomicU64>) {
    let (turnstile, passed) = (Arc::clone(turnstile), Arc::clone(passed));
    manual.runtime().spawn(async move {
        pass(&turnstile).await;
        passed.fetch_add(1, Ordering::Relaxed);
    });
}

#[test]
fn who_leaves_lets_the_next_in() {
    loom::model(|| {
        let (manual, turnstile) = (Manual::new(), Arc::new(Turnstile::new(1)));
        let mut held = Pass::new(&turnstile);
        assert!(poll_fn(|cx| held.poll(cx)).now_or_never().is_some());
        held.keep();
        let leaving = {
            let turnstile = Arc::clone(&turnstile);
            thread::spawn(move || turnstile.leave())
        };
        let passed = Arc::new(AtomicU64::new(0));
        passing(&manual, &turnstile, &passed);
        passing(&manual, &turnstile, &passed);
        manual.settle();
        leaving.join().expect("no panic");
        manual.settle();
        assert_eq!((passed.load(Ordering::Relaxed), turnstile.inside()), (2, 0), "a turn was lost");
    });
}

// H10
#[test]
fn one_that_gives_up_as_it_is_let_in_passes_its_turn_on() {
    loom::model(|| {
        let (manual, turnstile) = (Manual::new(), Arc::new(Turnstile::new(1)));
        let mut held = Pass::new(&turnstile);
        assert!(poll_fn(|cx| held.poll(cx)).now_or_never().is_some());
        held.keep();
        let thread = |work: fn(&Turnstile)| {
            let turnstile = Arc::clone(&turnstile);
            thread::spawn(move || work(&turnstile))
        };
        let leaving = thread(Turnstile::leave);
        // It is there for a moment, whether it is let in or not.
        let gives_up = thread(|turnstile| drop(pass(turnstile).now_or_never()));
        let passed = Arc::new(AtomicU64::new(0));
        passing(&manual, &turnstile, &passed);
        manual.settle();
        leaving.join().expect("no panic");
        gives_up.join().expect("no panic");
        manual.settle();
        assert_eq!((passed.load(Ordering::Relaxed), turnstile.inside()), (1, 0), "a turn was lost");
    });
}
