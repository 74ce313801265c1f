//! The lines against the rule that they stand for: look at all that wait, in the order of arrival.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// Grants what there is.
fn pump(book: &mut Book) {
    let mut numbers: Vec<u64> = book.waiting.keys().copied().collect();
    numbers.sort_unstable();
    for number in numbers {
        let waiter = &book.waiting[&number];
        if book.has_socket() && book.has_port(waiter.to, &waiter.sources) {
            book.grant(number);
        }
    }
}

fn give_back(book: &mut Book, to: SocketAddr, source: Option<IpAddr>) {
    book.open -= 1;
    book.give_port(to, source);
    pump(book);
}

fn offer(book: &mut Book, to: SocketAddr) -> bool {
    let waits =
        |(number, waiter): (&u64, &Waiter)| (waiter.to == to && waiter.state == State::Waits).then_some(*number);
    let Some(number) = book.waiting.iter().filter_map(waits).min() else {
        return book.ungranted == 0 || book.has_socket();
    };
    let waiter = book.waiting.get_mut(&number).expect("it was found");
    waiter.state = State::Look;
    let sources = waiter.sources.clone();
    line_of(&mut book.lines, to, &sources).expect("it stands in one").unlooking.remove(&number);
    true
}

fn leave(book: &mut Book, number: u64) {
    let Some(waiter) = book.waiting.remove(&number) else { return };
    if let State::Granted(source) = waiter.state {
        return give_back(book, waiter.to, source);
    }
    book.step_out(number, waiter.to, &waiter.sources);
    if waiter.state == State::Look {
        offer(book, waiter.to);
    }
    pump(book);
}

fn tick(book: &mut Book, now: Instant) {
    let mut grew = book.sockets.tick(now);
    let all: Vec<_> = book.destinations.keys().copied().collect();
    for to in all {
        for source in &mut book.destinations.get_mut(&to).expect("it is one of them").sources {
            grew |= source.cap.tick(now);
        }
        book.line_up(to);
    }
    if grew {
        pump(book);
    }
}

/// All that can be told from outside.
fn seen(book: &Book) -> (LedgerUsage, BTreeSet<(u64, String)>) {
    let waiting = book.waiting.iter().map(|(number, waiter)| (*number, format!("{:?}", waiter.state)));
    (book.usage(), waiting.collect())
}

fn check_lines(book: &Book) {
    let standing: usize = book.lines.values().flatten().map(|line| line.all.len()).sum();
    assert_eq!(standing, book.ungranted as usize);
    let heads = book.lines.values().flatten().filter_map(|line| line.head).collect();
    assert_eq!(book.heads, heads);
    for (to, line) in book.lines.iter().flat_map(|(to, lines)| lines.iter().map(move |line| (to, line))) {
        let may = book.has_port(*to, &line.sources);
        assert_eq!(line.head, line.all.first().copied().filter(|_| may), "the head of a line for {to}");
    }
}

proptest! {
    // H1, H2
    #[test]
    fn lines_are_as_fair_as_looking_at_all(
        sockets in 1u32..8,
        ports in 1u32..4,
        steps in proptest::collection::vec((0u8..9, 0u8..3, 0usize..30), 0..200),
    ) {
        let mut book = Book::new(sockets, ports);
        #[expect(clippy::disallowed_methods, reason = "any origin of time will do")]
        let mut now = Instant::now();
        let (mut held, mut places) = (Vec::new(), Vec::new());
        for (step, n, at) in steps {
            let mut plain = book.clone();
            let to = SocketAddr::from(([192, 0, 2, n], 80));
            let own = |n| IpAddr::from(Ipv4Addr::new(127, 0, 0, n));
            let sources = &[vec![], vec![own(1), own(2)], vec![own(2), own(1)]][at % 3];
            match step {
                0 | 1 => match book.try_book(to, sources) {
                    Some(source) => {
                        plain.try_book(to, sources);
                        held.push((to, source));
                    }
                    None => {
                        places.push((book.enqueue(to, sources[..].into()), to));
                        plain.enqueue(to, sources[..].into());
                    }
                },
                2 | 3 if !held.is_empty() => {
                    let (to, source) = held.swap_remove(at % held.len());
                    book.give_back(to, source);
                    give_back(&mut plain, to, source);
                }
                4 if !places.is_empty() => {
                    let (number, _) = places.remove(at % places.len());
                    book.leave(number);
                    leave(&mut plain, number);
                }
                5 | 6 if !places.is_empty() => {
                    let index = at % places.len();
                    let (number, to) = places[index];
                    plain.poll(number, Waker::noop());
                    if let Told::Granted(source) = book.poll(number, Waker::noop()) {
                        places.remove(index);
                        held.push((to, source));
                    }
                }
                7 => prop_assert_eq!(book.offer(to).0, offer(&mut plain, to)),
                8 => {
                    let (to, source) = held.get(at % held.len().max(1)).copied().unwrap_or((to, None));
                    match n {
                        0 if !held.is_empty() => {
                            book.descriptors_ran_out(now);
                            plain.descriptors_ran_out(now);
                        }
                        1 => {
                            book.ports_ran_out(to, source, now);
                            plain.ports_ran_out(to, source, now);
                        }
                        _ => {
                            now += STEP * u32::try_from(at).expect("small");
                            book.tick(now);
                            tick(&mut plain, now);
                        }
                    }
                }
                _ => {}
            }
            prop_assert_eq!(seen(&book), seen(&plain));
            check_lines(&book);
        }
        for (number, _) in places {
            book.leave(number);
        }
        for (to, source) in held {
            book.give_back(to, source);
        }
        now += STEP * 40;
        book.tick(now);
        prop_assert!(book.destinations.is_empty() && book.lines.is_empty() && book.waiting.is_empty());
        prop_assert_eq!((book.open, book.ungranted, book.heads.len(), book.shrunk.len()), (0, 0, 0, 0));
    }
}
