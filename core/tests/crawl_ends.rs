//! How a crawl ends, in a simulated world.
#![cfg(feature = "http")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{Batch, Close, Crawl, FinishReason, Profile, Settled, Sink, SinkError};

/// Takes what it gets, and a second to close.
struct SlowToClose(Sim, Arc<Mutex<Option<Close>>>);

#[async_trait]
impl Sink<Settled> for SlowToClose {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        batch.ack_all();
        Ok(())
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        self.0.sleep(Duration::from_secs(1)).await;
        *self.1.lock().expect("not poisoned") = Some(why);
        Ok(())
    }
}

#[test]
fn the_report_and_the_sinks_are_told_the_same_reason() {
    for (time, reason, why) in [(500, FinishReason::Done, Close::Done), (10, FinishReason::MaxTime, Close::Stopped)]
        .map(|(ms, a, b)| (Duration::from_millis(ms), a, b))
    {
        Sim::check(0..3, |sim| async move {
            sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("").after(Duration::from_millis(50))));
            let told = Arc::default();
            let report = Crawl::builder::<()>(sim.runtime())
                .profile(Profile::list())
                .seed("http://a.test/")
                .max_time(time)
                .outcomes(SlowToClose(sim.clone(), Arc::clone(&told)))
                .run()
                .await
                .expect("the run goes on");
            assert_eq!((report.finish_reason, *told.lock().expect("not poisoned")), (reason, Some(why)));
        });
    }
}
