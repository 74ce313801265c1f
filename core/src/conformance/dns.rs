//! Name resolution.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::Harness;
use super::support::on;
use crate::rt::Name;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// `localhost` is an address of this machine: looked up in a task, and outside of any.
pub fn localhost_resolves<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let lookup = || runtime.resolver().resolve(&name("localhost"));
    for found in [on(&**harness, lookup()), harness.block_on(lookup())] {
        let addrs = found.expect("found").addrs;
        assert!(!addrs.is_empty());
        assert!(addrs.iter().all(|addr| addr.is_loopback()), "{addrs:?}");
    }
}

/// An unknown name is an error, and not a wait for ever.
pub fn an_unknown_name_is_an_error<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let lookup = || runtime.resolver().resolve(&name("nonexistent.invalid"));
    assert!(on(&**harness, lookup()).is_err());
    assert!(harness.block_on(lookup()).is_err(), "also outside of any task");
}

/// A lookup does not hold the executor up.
pub fn timers_fire_during_a_lookup<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let ticks = Box::pin(async {
            for _ in 0..20 {
                runtime.sleep_until(runtime.now() + Duration::from_millis(1)).await;
            }
        });
        // The rest of the ticks where the name is known to be none without asking.
        if let Either::Left((_, ticks)) = select(runtime.resolver().resolve(&name("nonexistent.invalid")), ticks).await
        {
            ticks.await;
        }
    });
}

/// A lookup that is given up harms none of those after it.
pub fn a_dropped_lookup_is_forgotten<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        for _ in 0..16 {
            let mut lookup = runtime.resolver().resolve(&name("nonexistent.invalid"));
            let _ = super::support::poll_once(lookup.as_mut());
        }
        let found = runtime.resolver().resolve(&name("localhost")).await;
        assert!(!found.expect("found").addrs.is_empty());
    });
}
