//! From arrival to start: hosts that are prepared, queues, and the conditions under which the next job begins.

use std::time::Instant;

use super::host::{HostState, Place};
use super::queue::Waiting;
use super::{Action, Bound, BoundSet, Due, Engine, HostId, Job, JobId, JobVerdict, Stage, pacing, retry};
use crate::RetryTime;
use crate::time::later;

impl Engine {
    /// A job has come to its host, which may have to be prepared first.
    pub(super) fn arrive(&mut self, now: Instant, id: JobId) {
        let host_id = self.job_mut(id).host;
        let vet = self.job_mut(id).vet;
        let host = self.host_mut(host_id);
        if host.state == HostState::Ready && host.valid_until.is_some_and(|until| until <= now) {
            host.state = HostState::New;
        }
        if host.state == HostState::Ready && !vet {
            self.enqueue(now, id);
            return;
        }
        host.arriving.push(id);
        self.advance_host(now, host_id);
    }

    /// Takes a host as far as it can go without an answer from outside.
    pub(super) fn advance_host(&mut self, now: Instant, id: HostId) {
        let (prepare, resolve) = (self.config.prepare_hosts, self.config.resolve_hosts);
        let host = self.host_mut(id);
        if host.state == HostState::New {
            host.state = HostState::Prepared;
            if prepare {
                host.state = HostState::ToPrepare;
                self.to_prepare.push_back(id);
                return;
            }
        }
        if host.state == HostState::Prepared {
            host.state = HostState::Ready;
            if resolve {
                host.state = HostState::ToResolve;
                self.to_prepare.push_back(id);
                return;
            }
        }
        if host.state == HostState::Ready {
            for job in std::mem::take(&mut host.arriving) {
                if !self.in_stage(job, Stage::Arriving) {
                    continue;
                }
                if self.job_mut(job).vet {
                    self.set_stage(job, Stage::Vetting);
                    self.actions.push_back(Action::Vet(job));
                } else {
                    self.enqueue(now, job);
                }
            }
            self.offer(now, id);
        }
    }

    /// The next host whose rules or address are to be found, where there is a permit for it.
    pub(super) fn prepare_next(&mut self) -> Option<Action> {
        while self.preparing < self.config.prepare_permits && !self.paused {
            let awaited =
                if self.awaited > 0 { self.to_prepare.iter().position(|id| self.is_awaited(*id)) } else { None };
            let id = match awaited {
                // The gate may be shut until a sink goes on, which may wait for this.
                Some(at) => self.to_prepare.remove(at)?,
                None if self.shut.is_empty() => self.to_prepare.pop_front()?,
                None => return None,
            };
            let Some(host) = self.known_host(id) else { continue };
            let (action, state, back) = match host.state {
                HostState::ToPrepare => (Action::Prepare(id), HostState::Preparing, HostState::New),
                HostState::ToResolve => (Action::Resolve(id), HostState::Resolving, HostState::Prepared),
                _ => continue,
            };
            // Nobody waits for it any more: asked again when somebody does.
            let known = &self.hosts[id.index as usize];
            let is_wanted = |id| self.job(id).is_some_and(|j| matches!(j.stage, Stage::Arriving | Stage::Queued));
            let is_wanted =
                known.arriving.iter().copied().any(is_wanted) || known.queue.iter().any(|w| is_wanted(w.job));
            let host = self.host_mut(id);
            if !is_wanted {
                host.state = back;
                host.arriving.clear();
                continue;
            }
            host.state = state;
            self.preparing += 1;
            return Some(action);
        }
        None
    }

    pub(super) fn host_failed(&mut self, now: Instant, id: HostId, retry: RetryTime) {
        let (base, cap, attempts) = (self.config.backoff_base, self.config.backoff_cap, self.config.attempts);
        let Some(host) = self.hosts.get_mut(id.index as usize).filter(|h| h.serial == id.serial) else { return };
        let prepared = match host.state {
            HostState::Preparing => false,
            HostState::Resolving => true,
            _ => return,
        };
        self.preparing -= 1;
        let may_retry = if retry == RetryTime::WhenRoom {
            let since = *host.pressed_since.get_or_insert(now);
            now < later(since, self.config.room_patience)
        } else {
            host.pressed_since = None;
            host.failures += 1;
            host.failures < attempts
        };
        let wait = match retry {
            RetryTime::After(wait) if wait <= self.config.retry_after_cap => Some(wait),
            RetryTime::AfterBackoff | RetryTime::WhenRoom => {
                host.backoff = retry::backoff(base, cap, host.backoff, &mut self.rng);
                Some(host.backoff)
            }
            _ => None,
        };
        if let Some(wait) = wait.filter(|_| may_retry) {
            host.state = HostState::BackingOff { prepared };
            self.at(later(now, wait), Due::HostRetry(id));
            return;
        }
        host.state = HostState::New;
        host.recovered();
        self.give_up(id);
    }

    pub(super) fn enqueue(&mut self, now: Instant, id: JobId) {
        self.set_stage(id, Stage::Queued);
        let job = &self.jobs[id.index as usize];
        let Job { host, awaited, priority, seq, .. } = *job;
        self.host_mut(host).queue.push(Waiting { awaited, priority, seq, job: id });
        if awaited && self.host_mut(host).place == Place::Ready {
            self.ready.retain(|ready| *ready != host);
            self.ready.push_front(host);
        }
        self.offer(now, host);
    }

    /// Puts a host where it will be found when it may start a job. Called whenever one of its conditions changed.
    pub(super) fn offer(&mut self, now: Instant, id: HostId) {
        let host = self.host_mut(id);
        if host.place != Place::Nowhere || host.state != HostState::Ready || host.queue.is_empty() {
            return;
        }
        if !self.host_admits(id) {
            return;
        }
        match self.next_start(id).filter(|time| *time > now) {
            Some(time) => {
                self.count_timed(id, Some(time));
                self.at(time, Due::Host(id));
            }
            None => {
                let host = self.host_mut(id);
                host.place = Place::Ready;
                if host.is_awaited_first() { self.ready.push_front(id) } else { self.ready.push_back(id) }
            }
        }
    }

    /// Starts the next job, or says what keeps it from starting.
    pub(super) fn start(&mut self, now: Instant) -> Result<Action, Bound> {
        if self.paused || self.ending.is_some() {
            return Err(Bound::Stopped);
        }
        if self.waiting == 0 {
            // It gives nothing while it takes in.
            return Err(if self.frontier_behind { Bound::Frontier } else { Bound::NoWork });
        }
        let in_flight = self.counters.in_flight;
        if let Some(signal) = self.shut.first().filter(|_| in_flight >= self.config.gate_floor) {
            return Err(signal);
        }
        let mut short = if in_flight + self.counters.in_line > 0 { self.short } else { BoundSet::default() };
        let lack = short.first();
        short.set(Bound::Bytes, false);
        let behind = match lack {
            Some(lack) if lack != Bound::Bytes => return Err(lack),
            lack => lack.or_else(|| self.behind()),
        };
        if let Some(bound) = behind.filter(|_| !self.is_awaited_first()) {
            return Err(bound);
        }
        if let Some(lack) = short.first() {
            return Err(lack);
        }
        if self.is_awaited_first() && self.to_parse_awaited.len() as u32 >= self.config.backlog {
            return Err(Bound::Parser);
        }
        if in_flight >= self.limiter.limit() {
            let is_short = self.limiter.limit() == self.config.most_in_flight()
                && self.config.most_in_flight() < self.config.max_in_flight;
            let limit = if is_short { Bound::Descriptors } else { Bound::GlobalLimit };
            return Err(self.limiter.held_by().or_else(|| self.lookups()).unwrap_or(limit));
        }
        // Those in line are fetches in memory as well: as many again, at most.
        if in_flight.saturating_add(self.counters.in_line) >= self.config.most_in_flight().saturating_mul(2) {
            return Err(Bound::Ports);
        }
        if self.ready.is_empty() {
            let [polite, tripped] = self.timed;
            if let Some(lookups) = self.lookups() {
                return Err(lookups);
            }
            return Err(match () {
                () if self.hosts_in_line > polite + tripped + self.host_limited => Bound::Ports,
                () if tripped > polite + self.host_limited => Bound::Breaker,
                () if self.host_limited > 0 => Bound::HostLimit,
                () => Bound::Politeness,
            });
        }
        if self.rate.as_ref().is_some_and(|rate| rate.wait_until(now).is_some()) {
            return Err(Bound::Rate);
        }
        while behind.is_none() || self.is_awaited_first() {
            let Some(id) = self.ready.pop_front() else { break };
            if let Some(job) = self.start_on(now, id, behind.is_some()) {
                return Ok(job);
            }
        }
        Err(behind.unwrap_or(Bound::Politeness))
    }

    /// What is so far behind that another page would only wait for it. A page that somebody waits for does not: it goes
    /// past them all, or a sink that waits for it would never go on.
    fn behind(&self) -> Option<Bound> {
        if self.bytes >= self.config.byte_budget && self.counters.in_flight > 0 {
            return Some(Bound::Bytes);
        }
        if self.to_parse.len() as u32 + self.counters.parsing >= self.config.backlog {
            return Some(match () {
                () if !self.to_deliver.is_empty() => Bound::Sink,
                // Nothing is parsed then.
                () if self.frontier_behind => Bound::Frontier,
                () => Bound::Parser,
            });
        }
        if self.to_deliver.len() as u32 + self.delivering + self.settling >= self.config.backlog {
            return Some(Bound::Sink);
        }
        self.frontier_behind.then_some(Bound::Frontier)
    }

    /// Whether somebody waits for what would be started next.
    fn is_awaited_first(&self) -> bool {
        self.ready.front().is_some_and(|id| self.hosts[id.index as usize].is_awaited_first())
    }

    /// Whether most of what is under way waits for the turn of its lookup.
    fn lookups(&self) -> Option<Bound> {
        (2 * self.lookups_in_line > self.counters.in_flight + self.preparing).then_some(Bound::Dns)
    }

    /// `awaited_only`: nothing but what somebody waits for.
    fn start_on(&mut self, now: Instant, id: HostId, awaited_only: bool) -> Option<Action> {
        let exhausted = self.is_exhausted();
        let per_address = self.config.per_address.unwrap_or(u32::MAX);
        self.known_host(id)?.place = Place::Nowhere;
        let offered = self.take_offer(id);
        let host = self.host_mut(id);
        let address = host.address;
        let is_ready = host.state == HostState::Ready;
        let waits = self.next_start(id).is_some_and(|time| time > now);
        if waits || !is_ready || !self.host_admits(id) {
            self.offer(now, id);
            if let Some(address) = offered {
                self.next_at_address(now, address);
            }
            return None;
        }
        if let Some(address) = address {
            let entry = self.addresses.entry(address).or_default();
            if entry.in_flight + entry.offered >= per_address {
                entry.waiting.push_back(id);
                self.host_mut(id).place = Place::Address;
                return None;
            }
        }
        let job = loop {
            let next = self.host_mut(id).queue.peek().copied();
            let Some(waiting) = next.filter(|next| next.awaited || !awaited_only) else {
                self.offer(now, id);
                if let Some(address) = address {
                    self.next_at_address(now, address);
                }
                return None;
            };
            self.host_mut(id).queue.pop();
            if !self.in_stage(waiting.job, Stage::Queued) {
                continue;
            }
            // Retries and hops of what was started may end; nothing new begins.
            if exhausted && self.job_mut(waiting.job).attempts == 0 {
                self.settle(waiting.job, JobVerdict::Cancelled);
                continue;
            }
            break waiting.job;
        };
        if let Some(address) = address {
            self.addresses.entry(address).or_default().in_flight += 1;
        }
        let (gap, jitter) = (self.config.gap, self.config.gap_jitter);
        let host = &mut self.hosts[id.index as usize];
        let asked = host.gap;
        let gap = pacing::jittered(gap, jitter, &mut self.rng).max(asked);
        host.in_flight += 1;
        if !gap.is_zero() {
            host.wait_until(later(now, gap));
        }
        let in_flight = host.in_flight;
        if let Some(next) = host.adaptive.as_mut().and_then(|adaptive| adaptive.started(now, in_flight)) {
            host.wait_until(next);
        }
        self.note_limit(id);
        self.offer(now, id);
        if let Some(rate) = &mut self.rate {
            rate.start(now);
        }
        self.waiting -= 1;
        self.counters.starts += 1;
        self.counters.in_flight += 1;
        self.meter(now);
        self.counters.in_flight_peak = self.counters.in_flight_peak.max(self.counters.in_flight);
        let started = &mut self.jobs[job.index as usize];
        started.stage = Stage::Fetching;
        started.started = Some(now);
        started.stood_in_line = false;
        started.address = address;
        if !std::mem::take(&mut started.hop) {
            started.attempts += 1;
            if started.attempts == 1 {
                self.first_starts += 1;
                self.budget.start();
            } else {
                self.counters.retries += 1;
            }
        }
        Some(Action::Fetch { job, attempt: started.attempts })
    }
}
