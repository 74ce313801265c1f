//! Fetches that wait in the ledger for a port or a descriptor: each has a place there, and no permit here.

use std::time::Instant;

use super::{Action, Engine, HostId, JobId, Stage};

impl Engine {
    /// A fetch must wait, and others have its permit meanwhile. Its host starts nothing more, which would only stand behind
    /// it; the slots of its host and address stay its own, since who else wants those needs the same ports.
    pub(super) fn stand_in_line(&mut self, id: JobId) {
        if !self.in_stage(id, Stage::Fetching) {
            return;
        }
        let job = self.job_mut(id);
        (job.stage, job.stood_in_line) = (Stage::InLine, true);
        let host_id = job.host;
        self.counters.in_flight -= 1;
        self.counters.in_line += 1;
        let host = self.host_mut(host_id);
        host.in_line += 1;
        let is_first = host.in_line == 1;
        self.hosts_in_line += u32::from(is_first);
        self.note_limit(host_id);
    }

    /// Its turn has come.
    pub(super) fn turn(&mut self, id: JobId) {
        if self.in_stage(id, Stage::InLine) {
            self.set_stage(id, Stage::ToReadmit);
            self.to_readmit.push_back(id);
        }
    }

    /// The next whose turn has come and for which there is a permit. It was started before, so that nothing holds it up
    /// but the limit over all and the gate.
    pub(super) fn readmit_next(&mut self, now: Instant) -> Option<Action> {
        let in_flight = self.counters.in_flight;
        let is_shut = !self.shut.is_empty() && in_flight >= self.config.gate_floor;
        if is_shut || in_flight >= self.limiter.limit() {
            return None;
        }
        let id = self.to_readmit.pop_front()?;
        self.set_stage(id, Stage::Fetching);
        self.counters.in_flight += 1;
        self.counters.in_flight_peak = self.counters.in_flight_peak.max(self.counters.in_flight);
        let host = self.job_mut(id).host;
        self.leave_line(now, host);
        Some(Action::Readmit(id))
    }

    /// One fewer of this host's is in line.
    pub(super) fn leave_line(&mut self, now: Instant, id: HostId) {
        self.counters.in_line -= 1;
        let host = self.host_mut(id);
        host.in_line -= 1;
        let was_last = host.in_line == 0;
        self.hosts_in_line -= u32::from(was_last);
        self.note_limit(id);
        self.offer(now, id);
    }
}
