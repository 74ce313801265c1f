//! From the end of a stage to the verdict: what is given back, retried, redirected, settled, forgotten.

use std::net::IpAddr;
use std::time::Instant;

use super::adaptive::Excuse;
use super::host::Place;
use super::{Action, Blame, Engine, HostId, JobId, JobVerdict, Stage, retry};
use crate::RetryTime;
use crate::time::later;

impl Engine {
    /// Gives back what the job's stage holds.
    pub(super) fn leave_stage(&mut self, now: Instant, id: JobId) {
        let (stage, host_id, address, started) = {
            let job = self.job_mut(id);
            (job.stage, job.host, job.address.take(), job.started)
        };
        match stage {
            Stage::Fetching => {
                self.counters.in_flight -= 1;
                self.meter(now);
                self.leave_host(now, host_id, started);
                self.note_limit(host_id);
                self.offer(now, host_id);
                self.leave_address(now, address);
            }
            Stage::InLine | Stage::ToReadmit => {
                self.to_readmit.retain(|job| *job != id);
                self.leave_host(now, host_id, started);
                self.leave_line(now, host_id);
                self.meter(now);
                self.leave_address(now, address);
            }
            // What is cancelled in line makes room in it.
            Stage::ToParse => {
                self.to_parse.retain(|job| *job != id);
                self.to_parse_awaited.retain(|job| *job != id);
                self.counters.parse_queued -= 1;
            }
            Stage::Parsing => self.counters.parsing -= 1,
            Stage::ToDeliver => self.to_deliver.retain(|job| *job != id),
            Stage::Delivering => self.delivering -= 1,
            _ => {}
        }
    }

    fn leave_host(&mut self, now: Instant, id: HostId, started: Option<Instant>) {
        let host = self.host_mut(id);
        host.in_flight -= 1;
        if let Some(adaptive) = &mut host.adaptive {
            adaptive.left(started, now);
        }
    }

    pub(super) fn leave_address(&mut self, now: Instant, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some(entry) = self.addresses.get_mut(&address) {
            entry.in_flight -= 1;
        }
        self.next_at_address(now, address);
    }

    /// Offers a permit of this address to the host that has waited longest and may start. The permit is kept for it, or
    /// hosts that come by the moment it is free would take it for ever; a host that cannot use it passes it on.
    pub(super) fn next_at_address(&mut self, now: Instant, address: IpAddr) {
        while let Some(entry) = self.addresses.get_mut(&address) {
            let Some(id) = entry.waiting.pop_front() else {
                if entry.in_flight == 0 && entry.offered == 0 {
                    self.addresses.remove(&address);
                }
                return;
            };
            let Some(host) = self.known_host(id).filter(|host| host.place == Place::Address) else { continue };
            host.place = Place::Nowhere;
            self.offer(now, id);
            let host = self.host_mut(id);
            if host.place == Place::Ready {
                host.offered = Some(address);
                self.addresses.entry(address).or_default().offered += 1;
                return;
            }
        }
    }

    /// Takes back the permit that is kept for a host; gives its address.
    pub(super) fn take_offer(&mut self, id: HostId) -> Option<IpAddr> {
        let address = self.host_mut(id).offered.take()?;
        if let Some(entry) = self.addresses.get_mut(&address) {
            entry.offered -= 1;
        }
        Some(address)
    }

    /// A host has another address: it waits for the old one no more, and what was kept for it there goes to the next.
    pub(super) fn leave_line_of(&mut self, now: Instant, id: HostId, before: Option<IpAddr>) {
        let host = self.host_mut(id);
        if host.place == Place::Address {
            host.place = Place::Nowhere;
            if let Some(entry) = before.and_then(|address| self.addresses.get_mut(&address)) {
                entry.waiting.retain(|waiting| *waiting != id);
            }
        }
        if let Some(address) = self.take_offer(id) {
            self.next_at_address(now, address);
        }
    }

    pub(super) fn redirected(&mut self, now: Instant, id: JobId, host: HostId) {
        if !self.is_fetched(id) || self.known_host(host).is_none() {
            return;
        }
        self.limiter.success();
        self.host_answered(now, id);
        self.leave_stage(now, id);
        self.waiting += 1;
        let from = std::mem::replace(&mut self.job_mut(id).host, host);
        let awaited = u32::from(self.job_mut(id).awaited);
        let to = self.host_mut(host);
        to.jobs += 1;
        to.awaited += awaited;
        self.host_mut(from).awaited -= awaited;
        self.release_host(now, from);
        let job = self.job_mut(id);
        job.hop = true;
        job.stage = Stage::Arriving;
        if self.ending.is_some() {
            self.settle(id, JobVerdict::Cancelled);
        } else {
            self.arrive(now, id);
        }
    }

    pub(super) fn failed(&mut self, now: Instant, id: JobId, retry: RetryTime, blame: Blame) {
        let blame = if blame == Blame::Throttled && self.is_refused_alone(id, retry) { Blame::Url } else { blame };
        let excuse = match blame {
            Blame::Nobody | Blame::Ports => Excuse::None,
            Blame::Url => {
                self.host_answered(now, id);
                Excuse::None
            }
            Blame::Host | Blame::Throttled => self.host_fault(now, id, retry, blame),
        };
        self.leave_stage(now, id);
        match excuse {
            Excuse::None => {}
            Excuse::Until(until) if self.ending.is_none() => return self.excuse(id, until),
            Excuse::Until(_) => return self.settle(id, JobVerdict::Error),
            Excuse::GivenUp => {
                let host = self.job_mut(id).host;
                self.settle(id, JobVerdict::HostError);
                return self.give_up(host);
            }
        }
        let (base, cap) = (self.config.backoff_base, self.config.backoff_cap);
        let (patience, honoured) = (self.config.room_patience, self.config.retry_after_cap);
        let in_flight = self.counters.in_flight;
        let job = &mut self.jobs[id.index as usize];
        if retry != RetryTime::WhenRoom {
            job.pressed_since = None;
        }
        let wait = match retry {
            RetryTime::WhenRoom => {
                // The attempt never left this machine: not counted, and fewer at a time from now on.
                job.attempts -= 1;
                if job.attempts == 0 {
                    self.first_starts -= 1;
                    self.budget.unstart();
                }
                if blame != Blame::Ports {
                    self.limiter.pressure(job.started, now, in_flight);
                }
                let since = *job.pressed_since.get_or_insert(now);
                (now < later(since, patience)).then_some(base / 10)
            }
            RetryTime::After(wait) => (wait <= honoured).then_some(wait),
            RetryTime::AfterBackoff => {
                job.backoff = retry::backoff(base, cap, job.backoff, &mut self.rng);
                Some(job.backoff)
            }
            RetryTime::Never => None,
        };
        let (host, tries_left) = (job.host, job.attempts < job.max_attempts);
        // A pause that is too long for the URL is still one for its host, as long as is honoured.
        let pause = match retry {
            RetryTime::After(asked) => Some(asked.min(honoured)),
            _ => wait,
        };
        if let (true, Some(pause)) = (matches!(blame, Blame::Throttled | Blame::Ports), pause) {
            self.host_mut(host).wait_until(later(now, pause));
        }
        let again = wait.filter(|_| tries_left && self.ending.is_none());
        match again {
            Some(wait) if retry == RetryTime::WhenRoom || self.budget.take() => {
                self.waiting += 1;
                self.delay(id, later(now, wait));
            }
            _ => self.settle(id, JobVerdict::Error),
        }
    }

    /// An attempt that was none of the job's fault is one more that it has; it comes again then, behind those that wait
    /// already.
    fn excuse(&mut self, id: JobId, until: Instant) {
        self.seq += 1;
        let job = &mut self.jobs[id.index as usize];
        job.seq = self.seq;
        job.max_attempts = job.max_attempts.saturating_add(1);
        self.waiting += 1;
        self.delay(id, until);
    }

    pub(super) fn settle(&mut self, id: JobId, verdict: JobVerdict) {
        let job = self.job_mut(id);
        if job.stage == Stage::Settling {
            return;
        }
        let waited = job.stage.waits();
        job.stage = Stage::Settling;
        self.waiting -= u32::from(waited);
        self.settling += 1;
        self.counters.jobs -= 1;
        match verdict {
            JobVerdict::Ok => self.counters.ok += 1,
            JobVerdict::Error | JobVerdict::HostError => self.counters.error += 1,
            JobVerdict::Skipped(_) => self.counters.skipped += 1,
            JobVerdict::Cancelled => self.counters.cancelled += 1,
        }
        self.actions.push_back(Action::Settle { job: id, verdict });
    }

    pub(super) fn close(&mut self, now: Instant, id: JobId) {
        let job = self.jobs.remove(id.index as usize);
        self.settling -= 1;
        self.awaited -= u32::from(job.awaited);
        self.host_mut(job.host).awaited -= u32::from(job.awaited);
        self.release_host(now, job.host);
    }

    pub(super) fn release_host(&mut self, now: Instant, id: HostId) {
        let host = self.host_mut(id);
        host.jobs -= 1;
        if host.jobs == 0 && !std::mem::replace(&mut host.listed_idle, true) {
            self.idle.push_back(id);
        }
        while self.hosts.len() > self.config.max_hosts {
            let Some(id) = self.idle.pop_front() else { break };
            let host = self.host_mut(id);
            host.listed_idle = false;
            if host.jobs > 0 {
                continue;
            }
            if !host.is_forgettable(now) {
                host.listed_idle = true;
                self.idle.push_back(id);
                break;
            }
            let host = self.hosts.remove(id.index as usize);
            self.names.remove(&host.key);
            self.actions.push_back(Action::Forget(id));
        }
    }
}
