use std::time::Duration;

use futures::executor::block_on;
use futures::future::{Either, select};
use tidegate::rt::{Name, Runtime};

use super::on;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(crate) fn localhost_resolves(runtime: Runtime) {
    let lookup = || runtime.resolver().resolve(&name("localhost"));
    for found in [on(&runtime, lookup()), block_on(lookup())] {
        let addrs = found.expect("found").addrs;
        assert!(!addrs.is_empty());
        assert!(addrs.iter().all(|addr| addr.is_loopback()), "{addrs:?}");
    }
}

pub(crate) fn an_unknown_name_is_an_error(runtime: Runtime) {
    let lookup = || runtime.resolver().resolve(&name("nonexistent.invalid"));
    assert!(on(&runtime, lookup()).is_err());
    assert!(block_on(lookup()).is_err(), "also on a foreign thread");
}

pub(crate) fn timers_fire_during_a_lookup(runtime: Runtime) {
    on(&runtime.clone(), async move {
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
