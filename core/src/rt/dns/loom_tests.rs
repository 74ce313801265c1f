//! Models of the cache: callers that share a lookup come, go and are answered at the same time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicUsize as ModelUsize, Ordering as ModelOrdering};
use loom::thread;

use super::*;
use crate::rt::manual::{Manual, one_address};
use crate::rt::{Resolve, Runtime};

/// A resolver that is answered by hand. It looks twice whether it was, so that the model can switch threads in between.
#[derive(Default)]
struct Asked {
    lookups: ModelUsize,
    answered: AtomicBool,
    wakers: std::sync::Mutex<Vec<Waker>>,
    fails: bool,
}

impl Asked {
    fn answer(&self) {
        self.answered.store(true, ModelOrdering::SeqCst);
        let wakers = std::mem::take(&mut *self.wakers.lock().expect("no panic"));
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct Resolver(Arc<Asked>);

impl Resolve for Resolver {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (asked, name) = (Arc::clone(&self.0), name.clone());
        asked.lookups.fetch_add(1, ModelOrdering::SeqCst);
        Box::pin(std::future::poll_fn(move |cx| {
            asked.wakers.lock().expect("no panic").push(cx.waker().clone());
            if !asked.answered.load(ModelOrdering::SeqCst) {
                asked.lookups.load(ModelOrdering::SeqCst);
                return Poll::Pending;
            }
            let failed = || ResolveError::TimedOut(name.clone());
            Poll::Ready(if asked.fails { Err(failed()) } else { Ok(one_address(None)) })
        }))
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(1, Ordering::SeqCst);
    }
}

/// A task that asks, polled only where it was woken, as an executor does.
struct Caller {
    future: BoxFuture<'static, bool>,
    woken: Arc<Woken>,
    found: Option<bool>,
}

impl Caller {
    fn new(cache: &CachedResolver) -> Self {
        let cache = cache.clone();
        let future = Box::pin(async move { cache.resolve(&name()).await.is_ok() });
        Self { future, woken: Arc::new(Woken(AtomicUsize::new(1))), found: None }
    }

    fn run(&mut self) {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.found.is_none() && self.woken.0.swap(0, Ordering::SeqCst) == 1 {
            if let Poll::Ready(found) = Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker)) {
                self.found = Some(found);
            }
        }
    }
}

fn name() -> Name {
    Name::new("a.test").expect("a name")
}

fn fixture(fails: bool) -> (Arc<Asked>, CachedResolver) {
    let asked = Arc::new(Asked { fails, ..Asked::default() });
    let runtime: Runtime = Manual::new().runtime().with_resolve(Resolver(Arc::clone(&asked)));
    (asked, CachedResolver::new(&runtime, DnsLimits::default(), 1))
}

/// One caller polls the lookup when the answer comes, and goes away before it is polled again.
#[test]
fn a_caller_that_goes_away_does_not_strand_the_others() {
    loom::model(|| {
        let (asked, cache) = fixture(false);
        let (mut leader, mut follower) = (Caller::new(&cache), Caller::new(&cache));
        follower.run();
        let answering = {
            let asked = Arc::clone(&asked);
            thread::spawn(move || asked.answer())
        };
        let following = thread::spawn(move || {
            follower.run();
            follower
        });
        let waker = Waker::from(Arc::clone(&leader.woken));
        let _ = Pin::new(&mut leader.future).poll(&mut Context::from_waker(&waker));
        drop(leader);
        answering.join().expect("no panic");
        let mut follower = following.join().expect("no panic");
        follower.run();
        assert_eq!(follower.found, Some(true), "answered, and nobody asks for the answer");
        assert_eq!(asked.lookups.load(ModelOrdering::SeqCst), 1);
    });
}

/// Two share a lookup that fails; one of them goes with the failure only when others have asked anew.
#[test]
fn a_failure_ends_its_own_lookup_and_no_later_one() {
    loom::model(|| {
        let (asked, cache) = fixture(true);
        let [mut first, mut late, mut new, mut newer] = [(); 4].map(|()| Caller::new(&cache));
        first.run();
        late.run();
        asked.answer();
        first.run();
        assert_eq!(first.found, Some(false));
        asked.answered.store(false, ModelOrdering::SeqCst);
        let other = thread::spawn(move || late.run());
        new.run();
        other.join().expect("no panic");
        newer.run();
        assert_eq!(asked.lookups.load(ModelOrdering::SeqCst), 2, "the two that are new share one");
    });
}
