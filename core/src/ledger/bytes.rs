//! The rules of the byte budget: whose body may grow, and who waits. It wakes nobody and reads no clock.

use std::collections::{BTreeMap, HashMap};

use crate::hash::KeyedState;

/// Books the bytes of bodies. Each is read from its first byte to the end of its attempt, and held from then on until it is
/// dropped.
///
/// All but the reserve is shared: whoever asks gets of it, in the order of arrival. Where that is spent the reserve is for
/// one body alone, the oldest that waits, which keeps it until it is read. So whatever others hold, one body always comes to
/// its end; and all others together never have more than what is shared.
pub(super) struct Bytes {
    budget: u64,
    reserve: u64,
    /// Booked by all.
    booked: u64,
    /// Of that, what need not grow any more.
    held: u64,
    next: u64,
    bodies: HashMap<u64, Body, KeyedState>,
    /// What each wants that must wait, the oldest first.
    waiting: BTreeMap<u64, u64>,
    /// Which may use the reserve.
    favoured: Option<u64>,
}

struct Body {
    booked: u64,
    is_read: bool,
    waits: bool,
}

impl Bytes {
    /// The reserve is part of the budget: the most that one body may have.
    pub(super) fn new(budget: u64, reserve: u64) -> Self {
        Self {
            budget,
            reserve: reserve.min(budget),
            booked: 0,
            held: 0,
            next: 0,
            bodies: HashMap::with_hasher(KeyedState::new(0)),
            waiting: BTreeMap::new(),
            favoured: None,
        }
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn booked(&self) -> u64 {
        self.booked
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_waiting(&self, body: u64) -> bool {
        self.waiting.contains_key(&body)
    }

    /// A body, younger than all before it; one that does not wait gets what it asks for at once.
    pub(super) fn enter(&mut self, waits: bool) -> u64 {
        self.next += 1;
        self.bodies.insert(self.next, Body { booked: 0, is_read: false, waits });
        self.next
    }

    /// Books `more` for a body that is being read, now or when it is granted. Gives those that are granted something: the
    /// body itself where it need not wait, and whom it was waited for.
    pub(super) fn book(&mut self, body: u64, more: u64) -> Vec<u64> {
        match self.bodies.get(&body) {
            Some(Body { is_read: false, waits: true, .. }) => {
                *self.waiting.entry(body).or_default() += more;
                self.pump()
            }
            Some(Body { is_read: false, waits: false, .. }) => {
                self.grow(body, more);
                vec![body]
            }
            _ => Vec::new(),
        }
    }

    /// Books `more` for a body that is being read, where nobody waits and there is room for it in what is shared: what
    /// [`book`](Self::book) would do then.
    pub(super) fn book_at_once(&mut self, body: u64, more: u64) -> bool {
        let fits = self.waiting.is_empty() && self.booked.saturating_add(more) <= self.budget - self.reserve;
        let Some(body) = self.bodies.get_mut(&body).filter(|body| fits && !body.is_read) else { return false };
        body.booked += more;
        self.booked += more;
        true
    }

    /// A body wants no more than it has.
    pub(super) fn withdraw(&mut self, body: u64) -> Vec<u64> {
        if self.waiting.remove(&body).is_none() { Vec::new() } else { self.pump() }
    }

    /// A body was read, as far as it will be.
    pub(super) fn end(&mut self, body: u64) -> Vec<u64> {
        self.waiting.remove(&body);
        if let Some(body) = self.bodies.get_mut(&body).filter(|body| !body.is_read) {
            body.is_read = true;
            self.held += body.booked;
        }
        self.favoured.take_if(|favoured| *favoured == body);
        self.pump()
    }

    /// A body was dropped.
    pub(super) fn leave(&mut self, body: u64) -> Vec<u64> {
        let is_waited_for = !self.waiting.is_empty();
        let mut granted = if is_waited_for { self.end(body) } else { Vec::new() };
        self.favoured.take_if(|favoured| *favoured == body);
        if let Some(body) = self.bodies.remove(&body) {
            self.booked -= body.booked;
            self.held -= if body.is_read { body.booked } else { 0 };
        }
        if is_waited_for {
            granted.extend(self.pump());
        }
        granted
    }

    fn grow(&mut self, body: u64, more: u64) {
        if let Some(body) = self.bodies.get_mut(&body) {
            body.booked += more;
            self.booked += more;
        }
    }

    fn pump(&mut self) -> Vec<u64> {
        let mut granted = Vec::new();
        while let Some(body) = self.next_to_grow() {
            let more = self.waiting.remove(&body).unwrap_or_default();
            self.grow(body, more);
            granted.push(body);
        }
        granted
    }

    fn next_to_grow(&mut self) -> Option<u64> {
        let (first, wants) = self.waiting.first_key_value().map(|(body, wants)| (*body, *wants))?;
        if self.booked.saturating_add(wants) <= self.budget - self.reserve {
            return Some(first);
        }
        let favoured = self.favoured.unwrap_or(first);
        let wants = *self.waiting.get(&favoured)?;
        // Where nothing is held there is nobody to wait for: this is the one that makes room.
        let may = self.held == 0 || self.booked.saturating_add(wants) <= self.budget;
        may.then(|| *self.favoured.insert(favoured))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // H5
    #[test]
    fn when_what_is_shared_is_spent_only_the_oldest_that_waits_grows() {
        let mut bytes = Bytes::new(100, 40);
        let [a, b, c] = [(); 3].map(|()| bytes.enter(true));
        assert_eq!(bytes.book(a, 30), [a]);
        assert_eq!(bytes.book(b, 30), [b]);
        assert_eq!(bytes.book(c, 1), [c], "it is the oldest that waits");
        assert!(bytes.book(b, 1).is_empty() && bytes.book(a, 1).is_empty(), "the reserve is taken");
        assert_eq!(bytes.book(c, 39), [c], "up to its end");
        assert_eq!(bytes.booked(), 100);
        assert!(bytes.end(c).is_empty(), "what was read is still there");
        assert_eq!(bytes.leave(c), [a], "the oldest is next");
        assert_eq!(bytes.end(a), [b], "and then the next");
        assert_eq!((bytes.leave(a), bytes.leave(b), bytes.booked()), (vec![], vec![], 0));
    }

    // H10
    #[test]
    fn who_leaves_makes_room() {
        let mut bytes = Bytes::new(10, 5);
        let [a, b, c] = [(); 3].map(|()| bytes.enter(true));
        assert_eq!(bytes.book(a, 5), [a]);
        assert_eq!(bytes.book(b, 5), [b]);
        assert!(bytes.book(c, 5).is_empty() && bytes.is_waiting(c));
        assert!(bytes.withdraw(c).is_empty() && !bytes.is_waiting(c));
        assert!(bytes.book(c, 5).is_empty());
        assert!(bytes.end(b).is_empty(), "its bytes are still there");
        assert!(bytes.book(b, 5).is_empty() && !bytes.is_waiting(b), "nothing is booked for what was read");
        assert_eq!(bytes.leave(b), [c]);
        assert_eq!((bytes.booked(), bytes.waiting()), (10, 0));
    }

    #[test]
    fn a_body_larger_than_the_reserve_is_read_when_nothing_is_held() {
        let mut bytes = Bytes::new(10, 2);
        let [a, b] = [(); 2].map(|()| bytes.enter(true));
        assert_eq!(bytes.book(a, 8), [a]);
        assert_eq!(bytes.book(b, 50), [b], "nobody else could make room");
        assert!(bytes.end(b).is_empty() && bytes.book(a, 50).is_empty(), "that may be dropped");
        assert_eq!(bytes.leave(b), [a]);
    }

    #[test]
    fn at_once_is_only_what_is_shared_while_nobody_waits() {
        let mut bytes = Bytes::new(10, 5);
        let [a, b, c] = [(); 3].map(|()| bytes.enter(true));
        assert!(bytes.book_at_once(a, 5) && bytes.booked() == 5);
        assert!(!bytes.book_at_once(b, 1), "the reserve is for one");
        assert_eq!(bytes.book(b, 5), [b]);
        assert!(bytes.book(c, 1).is_empty());
        assert!(bytes.end(a).is_empty() && bytes.leave(a).is_empty(), "the favourite holds the reserve");
        assert!(!bytes.book_at_once(a, 1), "it is gone");
        assert!(bytes.booked() <= 10);
    }

    const STEP: u64 = 4;

    /// What a body of the model is at.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum At {
        Reading(u64),
        Held,
        Gone,
    }

    struct Model {
        bytes: Bytes,
        all: Vec<(u64, At)>,
    }

    impl Model {
        fn step(&mut self, which: usize, what: u8) -> bool {
            let bytes = &mut self.bytes;
            let (body, at) = &mut self.all[which];
            let before = *at;
            *at = match before {
                At::Gone => At::Gone,
                At::Reading(left) if what == 1 && bytes.is_waiting(*body) => {
                    bytes.withdraw(*body);
                    At::Reading(left + STEP)
                }
                At::Reading(left) if what > 0 && bytes.is_waiting(*body) => At::Reading(left),
                At::Reading(0) if what > 0 => {
                    bytes.end(*body);
                    At::Held
                }
                At::Reading(left) if what > 0 => {
                    if what.is_multiple_of(2) || !bytes.book_at_once(*body, STEP) {
                        bytes.book(*body, STEP);
                    }
                    At::Reading(left - STEP)
                }
                At::Reading(_) | At::Held => {
                    bytes.leave(*body);
                    At::Gone
                }
            };
            before != *at
        }
    }

    proptest! {
        /// Whatever the sizes and the order, with any budget of one body at least: somebody can always go on, so that all
        /// end; no more than the budget is booked; nothing is left.
        #[test]
        fn the_run_ends_within_the_budget(
            cap in 1u64..40,
            above in 0u64..60,
            sizes in proptest::collection::vec(0u64..40, 1..30),
            order in proptest::collection::vec((0usize..30, 0u8..9), 0..600),
        ) {
            let cap = cap.next_multiple_of(STEP);
            let mut bytes = Bytes::new(cap + above, cap);
            let reading = |size: &u64| (bytes.enter(true), At::Reading(size.next_multiple_of(STEP).min(cap)));
            let all = sizes.iter().map(reading).collect();
            let mut model = Model { bytes, all };
            for (which, what) in order {
                model.step(which % sizes.len(), what);
                prop_assert!(model.bytes.booked() <= cap + above);
            }
            loop {
                let mut moved = false;
                for which in 0..sizes.len() {
                    moved |= model.step(which, 9);
                    prop_assert!(model.bytes.booked() <= cap + above);
                }
                if !moved {
                    break;
                }
            }
            prop_assert!(model.all.iter().all(|(_, at)| *at == At::Gone), "{:?}", model.all);
            let bytes = model.bytes;
            prop_assert_eq!((bytes.booked(), bytes.held, bytes.waiting(), bytes.bodies.len()), (0, 0, 0, 0));
        }
    }
}
