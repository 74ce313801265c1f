//! Models of what a fetch says while its job is settled.

use loom::thread;

use super::*;
use crate::rt::manual::Manual;

#[test]
fn nothing_is_told_of_a_fetch_once_its_job_has_ended() {
    loom::model(|| {
        let start = Manual::new().runtime().now();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let hears = Arc::clone(&told);
        let hear = move |event: &Event<'_>| hears.lock().expect("not poisoned").push(event.job);
        let observers = Observers::new(vec![Box::new(hear)], start, Box::new(|_| ())).expect("there is one");
        let request = Arc::new(Request::get("http://a.test/"));
        let watch = Arc::new(FetchWatch::new(Arc::clone(&observers), request));
        let fetch = {
            let watch = Arc::clone(&watch);
            thread::spawn(move || {
                watch.tell(start, 1, 1, What::Phase(Phase::Connect));
                watch.tell(start, 1, 1, What::Phase(Phase::Tls));
            })
        };
        watch.end();
        // The end, told by the driver.
        observers.tell(start, 2, "", 0, What::Queued);
        fetch.join().expect("no panic");
        let told = told.lock().expect("not poisoned");
        assert_eq!(told.last(), Some(&2), "{told:?}");
        assert!(told.len() <= 3);
    });
}
