use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

fn ledger(sockets: u32, ports: u32) -> Ledger {
    Ledger::new(LedgerLimits { sockets, ports, handshakes: 1, ..LedgerLimits::default() })
}

fn to(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 80))
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any origin of time will do")]
    Instant::now()
}

fn granted(place: &mut Waiting) -> Option<Socket> {
    match place.turn().now_or_never() {
        Some(Turn::Granted(socket)) => Some(socket),
        _ => None,
    }
}

// H5
#[test]
fn bodies_have_an_eighth_of_the_memory_at_most() {
    for (memory, bytes) in [(None, 256 << 20), (Some(1 << 30), 128 << 20), (Some(1 << 40), 256 << 20), (Some(0), 1)] {
        let machine = crate::Machine { memory, ..crate::Machine::default() };
        assert_eq!(LedgerLimits::of(&machine).body_bytes, bytes, "{memory:?}");
    }
}

// H2
#[test]
fn each_source_and_each_destination_has_all_ports() {
    let (ledger, now) = (ledger(100, 2), start());
    let sources: Vec<IpAddr> = (1..=3).map(|n| IpAddr::from([127, 0, 0, n])).collect();
    let held: Vec<_> = (0..6).map(|_| ledger.try_book(to(1), &sources, now).expect("a port")).collect();
    for source in &sources {
        assert_eq!(held.iter().filter(|socket| socket.source() == Some(*source)).count(), 2);
    }
    assert!(ledger.try_book(to(1), &sources, now).is_none());
    assert_eq!((ledger.room(to(1), &sources), ledger.room(to(2), &sources)), (Some(0), None));
    let again = ledger.try_book(to(2), &sources[..1], now).expect("the ports of another destination");
    assert_eq!((again.source(), ledger.usage().ports_of_fullest), (Some(sources[0]), 2));
}

// H1
#[test]
fn who_waited_longest_is_next_and_who_leaves_passes_its_turn_on() {
    let (ledger, now) = (ledger(1, 9), start());
    let held = ledger.try_book(to(1), &[], now).expect("a socket");
    let mut places: Vec<_> = (0..3).map(|_| ledger.wait(to(2), &[])).collect();
    assert!(places.iter_mut().all(|place| granted(place).is_none()) && ledger.is_short());
    drop(held);
    assert!(ledger.try_book(to(3), &[], now).is_none(), "nobody overtakes");
    drop(places.remove(0));
    assert!(granted(&mut places[1]).is_none());
    let second = granted(&mut places[0]).expect("its turn");
    drop(places.remove(1));
    assert!(!ledger.is_short());
    drop((second, places));
    assert_eq!(ledger.usage(), LedgerUsage { socket_cap: 1, port_cap: 9, ..LedgerUsage::default() });
}

#[test]
fn who_lacks_a_port_lets_others_pass() {
    let (ledger, now) = (ledger(3, 1), start());
    let held = ledger.try_book(to(1), &[], now).expect("a socket");
    let mut place = ledger.wait(to(1), &[]);
    assert!(granted(&mut place).is_none() && !ledger.is_short());
    let other = ledger.try_book(to(2), &[], now);
    assert!(other.is_some());
    drop(held);
    assert!(granted(&mut place).is_some());
}

#[test]
fn a_parked_connection_is_offered_to_who_waits_for_its_destination() {
    let (ledger, now) = (ledger(2, 1), start());
    let mut held = ledger.try_book(to(1), &[], now).expect("a socket");
    let mut place = ledger.wait(to(1), &[]);
    assert!(granted(&mut place).is_none());
    held.set_idle(true);
    assert!(ledger.parked(to(1)) && ledger.has_idle(to(1)));
    assert!(matches!(place.turn().now_or_never(), Some(Turn::Look)));
    assert!(place.turn().now_or_never().is_none(), "it keeps its place");
    drop(held);
    assert!(granted(&mut place).is_some() && ledger.usage().idle == 0);
}

// H1, H2
#[test]
fn what_the_system_lacks_comes_back_slowly() {
    let (ledger, now) = (ledger(160, 160), start());
    let held: Vec<_> = (0..11).filter_map(|_| ledger.try_book(to(1), &[], now)).collect();
    ledger.descriptors_ran_out(now);
    ledger.ports_ran_out(to(1), None, now);
    assert_eq!(ledger.usage().socket_cap, 10);
    assert!(ledger.try_book(to(2), &[], now).is_none());
    let later = now + Duration::from_secs(4);
    assert!(ledger.try_book(to(2), &[], later).is_some());
    assert_eq!((ledger.usage().socket_cap, ledger.room(to(1), &[])), (20, Some(9)));
    assert!(ledger.try_book(to(2), &[], now + Duration::from_secs(300)).is_some());
    assert_eq!(ledger.usage().socket_cap, 160);
    drop(held);
}

#[test]
fn handshakes_take_turns() {
    let ledger = ledger(9, 9);
    let first = ledger.handshake(|| {}).now_or_never().expect("room");
    let (mut second, mut third) = (Box::pin(ledger.handshake(|| {})), Box::pin(ledger.handshake(|| {})));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(third.as_mut().now_or_never().is_none(), "not before the second");
    drop(second);
    assert!(third.as_mut().now_or_never().is_some());
    assert_eq!(ledger.usage().handshakes, 0, "given back at once");
}

proptest! {
    /// Whatever is booked, waited for and dropped: no limit is passed, nobody waits who could go, nothing is left.
    #[test]
    fn limits_hold_and_nobody_waits_in_vain(
        sockets in 1u32..5,
        ports in 1u32..4,
        steps in proptest::collection::vec((0u8..4, 0u8..3, 0usize..8), 0..80),
    ) {
        let (ledger, now) = (ledger(sockets, ports), start());
        let (mut held, mut places) = (Vec::new(), Vec::new());
        for (step, n, at) in steps {
            match step {
                0 => match ledger.try_book(to(n), &[], now) {
                    Some(socket) => held.push(socket),
                    None => places.push(ledger.wait(to(n), &[])),
                },
                1 if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                2 if !places.is_empty() => drop(places.remove(at % places.len())),
                _ => {}
            }
            if step == 3 {
                let mut left = Vec::new();
                for mut place in places.drain(..) {
                    match granted(&mut place) {
                        Some(socket) => held.push(socket),
                        None => left.push(place),
                    }
                }
                places = left;
                let full = held.len() as u32 == sockets;
                for place in &places {
                    let used = held.iter().filter(|socket| socket.to() == place.to).count() as u32;
                    prop_assert!(full || used == ports);
                }
            }
            let usage = ledger.usage();
            prop_assert!(usage.sockets <= sockets && usage.ports_of_fullest <= ports);
        }
        drop((held, places));
        prop_assert_eq!(ledger.usage(), LedgerUsage { socket_cap: sockets, port_cap: ports, ..LedgerUsage::default() });
    }
}
