//! libcurl's multi interface in the way that its manual says is made for thousands of connections: it names sockets, and epoll
//! says which of them are ready.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use curl::easy::{Easy2, Handler, WriteError};
use curl::multi::{Easy2Handle, Events as Ready, Multi, SocketEvents};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tidegate_benches::now;

use crate::Failure;
use crate::meter::{self, Meter};
use crate::work::Work;

const EVENTS: usize = 1024;

/// Keeps the body.
#[derive(Default)]
struct Body(Vec<u8>);

impl Handler for Body {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        self.0.extend_from_slice(data);
        Ok(data.len())
    }
}

/// A transfer, used again and again, and when it began.
struct Transfer {
    handle: Easy2Handle<Body>,
    since: Instant,
}

struct Loop<'a> {
    work: &'a Work,
    urls: Vec<String>,
    multi: Multi,
    poll: Poll,
    /// Sockets that libcurl wants to be watched, as it changes its mind.
    changes: Receiver<(RawFd, SocketEvents)>,
    watched: HashMap<RawFd, Interest>,
    /// When libcurl wants to be called in any case.
    alarm: Arc<Mutex<Option<Instant>>>,
    transfers: HashMap<usize, Transfer>,
    started: u64,
    ended: u64,
    meter: Meter,
}

/// Does the work on this thread, and reports.
pub(super) fn run(work: &Work) -> Result<(), Failure> {
    if work.certificate.is_some() || work.dripping > 0 || work.ticker || work.rate.is_some() {
        return Err("libcurl takes part in plain work only".into());
    }
    let mut multi = Multi::new();
    let (sender, changes) = channel();
    multi.socket_function(move |socket, events, _| {
        // The receiver lives as long as the multi handle.
        let _ = sender.send((socket, events));
    })?;
    let alarm = Arc::new(Mutex::new(None));
    let set = Arc::clone(&alarm);
    multi.timer_function(move |after| {
        *set.lock().unwrap_or_else(PoisonError::into_inner) = after.map(|after| now() + after);
        true
    })?;
    multi.set_max_connects(work.concurrency as usize)?;
    let (urls, poll) = (work.urls(), Poll::new()?);
    let mut all = Loop {
        work,
        urls,
        multi,
        poll,
        changes,
        watched: HashMap::new(),
        alarm,
        transfers: HashMap::new(),
        started: 0,
        ended: 0,
        meter: Meter::begin()?,
    };
    all.run()?;
    let measured = all.meter.end();
    std::thread::park_timeout(Duration::from_millis(work.settle_ms));
    Ok(meter::report(measured)?)
}

impl Loop<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        for place in 0..self.work.requests.min(self.work.concurrency.into()) {
            let mut easy = Easy2::new(Body::default());
            easy.tcp_nodelay(true)?;
            easy.signal(false)?;
            if self.work.fresh {
                easy.forbid_reuse(true)?;
            }
            self.start(place as usize, easy)?;
        }
        let mut events = Events::with_capacity(EVENTS);
        while self.ended < self.work.requests {
            self.watch()?;
            let alarm = *self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = alarm.map(|at| at.saturating_duration_since(now()));
            self.poll.poll(&mut events, wait)?;
            for event in &events {
                let mut ready = Ready::new();
                ready.input(event.is_readable() || event.is_read_closed()).output(event.is_writable());
                let Token(socket) = event.token();
                let socket = RawFd::try_from(socket)?;
                self.multi.action(socket, &ready)?;
                // Edges are all that epoll tells here, and libcurl may have left something: asked again, it tells again.
                if let Some(interest) = self.watched.get(&socket) {
                    // A socket that is closed by now is no longer wanted, as the next change says.
                    let _ = self.poll.registry().reregister(&mut SourceFd(&socket), event.token(), *interest);
                }
            }
            if alarm.is_some_and(|at| at <= now()) {
                *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.multi.timeout()?;
            }
            self.take_ended()?;
        }
        Ok(())
    }

    /// Does what libcurl has asked for since.
    fn watch(&mut self) -> Result<(), Failure> {
        let registry = self.poll.registry();
        for (socket, wanted) in self.changes.try_iter() {
            let token = Token(usize::try_from(socket)?);
            let interest = match (wanted.input(), wanted.output()) {
                _ if wanted.remove() => None,
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            match interest {
                Some(interest) if self.watched.insert(socket, interest).is_some() => {
                    registry.reregister(&mut SourceFd(&socket), token, interest)?;
                }
                Some(interest) => registry.register(&mut SourceFd(&socket), token, interest)?,
                // One that is closed already has left by itself.
                None if self.watched.remove(&socket).is_some() => drop(registry.deregister(&mut SourceFd(&socket))),
                None => {}
            }
        }
        Ok(())
    }

    fn start(&mut self, place: usize, mut easy: Easy2<Body>) -> Result<(), Failure> {
        easy.url(&self.urls[self.started as usize % self.urls.len()])?;
        self.started += 1;
        let mut handle = self.multi.add2(easy)?;
        handle.set_token(place)?;
        self.transfers.insert(place, Transfer { handle, since: now() });
        Ok(())
    }

    fn take_ended(&mut self) -> Result<(), Failure> {
        let mut ended = Vec::new();
        self.multi.messages(|message| {
            if let (Ok(place), Some(result)) = (message.token(), message.result()) {
                ended.push((place, result));
            }
        });
        for (place, result) in ended {
            let Some(Transfer { handle, since }) = self.transfers.remove(&place) else { continue };
            self.ended += 1;
            match result {
                Ok(()) => self.meter.answered(since, handle.get_ref().0.len()),
                Err(e) => self.meter.failed(e),
            }
            let mut easy = self.multi.remove2(handle)?;
            easy.get_mut().0.clear();
            if self.started < self.work.requests {
                self.start(place, easy)?;
            }
        }
        Ok(())
    }
}
