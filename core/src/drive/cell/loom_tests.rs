//! A model of the cell: it is read while one poll ends and the next begins.

use std::sync::Arc;

use loom::thread;

use super::*;

#[test]
fn what_is_shown_is_of_one_poll() {
    loom::model(|| {
        let cell = Arc::new(Cell::new());
        cell.enter(StallCause::Fetch, Some(1));
        let reader = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.show())
        };
        cell.leave();
        cell.enter(StallCause::Sink, Some(2));
        let shown = reader.join().expect("no panic");
        match shown.busy {
            Some((StallCause::Fetch, job)) => assert_eq!((job, shown.epoch), (Some(1), 1)),
            Some((StallCause::Sink, job)) => assert_eq!((job, shown.epoch), (Some(2), 3)),
            None => {}
            other => panic!("{other:?} was never entered"),
        }
    });
}
