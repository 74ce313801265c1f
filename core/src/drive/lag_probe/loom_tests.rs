//! Models of the heartbeat: it is switched on, off and ended while it goes to sleep.

use loom::thread;

use super::*;
use crate::rt::manual::Manual;

fn started() -> (Manual, Arc<LagProbe>) {
    let (manual, inbox) = (Manual::new(), Arc::new(Inbox::default()));
    let probe = LagProbe::start(&manual.runtime(), inbox, Duration::from_secs(1), Signals::new());
    (manual, Arc::new(probe))
}

/// Whether a stall of this length was seen.
fn sees(manual: &Manual, probe: &LagProbe, stall: Duration) -> bool {
    manual.advance(BEAT + stall);
    probe.snapshot(manual.runtime().now()).max >= stall
}

fn end(manual: &Manual, probe: &LagProbe) {
    probe.close();
    manual.advance(BEAT);
}

#[test]
fn it_beats_once_it_is_active_also_where_it_goes_to_sleep_just_then() {
    loom::model(|| {
        let (manual, probe) = started();
        let other = {
            let probe = Arc::clone(&probe);
            thread::spawn(move || probe.set_active(true))
        };
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert!(sees(&manual, &probe, BEAT), "it sleeps");
        end(&manual, &probe);
    });
}

#[test]
fn it_beats_no_more_once_it_is_not_active() {
    loom::model(|| {
        let (manual, probe) = started();
        probe.set_active(true);
        let other = {
            let probe = Arc::clone(&probe);
            thread::spawn(move || probe.set_active(false))
        };
        manual.settle();
        other.join().expect("no panic");
        // The beat that was under way may still come.
        manual.advance(BEAT);
        assert!(!sees(&manual, &probe, 4 * BEAT), "it beats");
        end(&manual, &probe);
    });
}

#[test]
fn its_task_ends_also_where_it_goes_to_sleep_just_then() {
    loom::model(|| {
        let (manual, probe) = started();
        let other = {
            let probe = Arc::clone(&probe);
            thread::spawn(move || probe.close())
        };
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(Arc::strong_count(&probe.shared), 1, "the task lives");
    });
}
