//! Name resolution.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::channel::oneshot;

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

/// A lookup does not hold up what polls it: where something has to be asked it waits as a future does, and timers fire
/// meanwhile.
pub fn timers_fire_during_a_lookup<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        // No resolver knows these without asking; what comes of them is up to whom it asks.
        let names = (0..8).map(|n| name(&format!("nonexistent-{n}.test")));
        let mut lookups: Vec<_> = names.map(|name| runtime.resolver().resolve(&name)).collect();
        let mut waiting = 0;
        for lookup in &mut lookups {
            waiting += u32::from(poll_fn(|cx| Poll::Ready(lookup.as_mut().poll(cx).is_pending())).await);
        }
        // One that runs on a thread may be over before anybody looks, but not each time.
        assert!(waiting > 0, "each lookup was over in its first poll, which has waited for the answer");
        let (ticker, (sender, ticked)) = (runtime.clone(), oneshot::channel());
        runtime.spawn(async move {
            for _ in 0..20 {
                ticker.sleep_until(ticker.now() + Duration::from_millis(1)).await;
            }
            let _ = sender.send(());
        });
        assert_eq!(ticked.await, Ok(()));
        drop(lookups);
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
