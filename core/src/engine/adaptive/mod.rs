//! What a host can bear, learnt from its answers: how many at a time, how many a second, and whether it answers at all.

mod circuit;
mod gradient;
mod opening;
mod pace;
mod refusals;
#[cfg(test)]
mod tests;
mod window;

use std::time::{Duration, Instant};

use self::circuit::Circuit;
use self::gradient::Gradient;
use self::pace::Pace;
use self::refusals::Refusals;
use super::event::Blame;
use super::host::Place;
use super::{Config, Engine, HostId, JobId, JobVerdict, Stage, retry};
use crate::RetryTime;
use crate::time::later;

/// What was learnt of a host. Made where its limit first binds or it first fails, so that the many hosts that are asked
/// little cost nothing.
#[derive(Debug)]
pub(super) struct Adaptive {
    gradient: Gradient,
    circuit: Circuit,
    refusals: Refusals,
    pace: Pace,
}

/// Fetches in flight for a host that answers again.
const RESUME_FROM: u32 = 2;
/// Probes, at least, in the time that a host may answer nothing.
const PROBES: u32 = 8;
/// A host that has answered may answer nothing for this long at least, where nobody has said how long.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
/// A limit of a host that somebody has set is used in full at once where it is not above this.
const RAMPED_ABOVE: u32 = 64;
/// A host that never answered is dead after this part of the failures in a row that another one may have.
const NEVER_ANSWERED: u32 = 4;

/// What a failure of the host means for the job that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// It is a failed attempt like any other.
    None,
    /// The host fails or throttles everybody: no attempt of this job's, which comes again then.
    Until(Instant),
    /// The host has failed for too long.
    GivenUp,
}

/// A failure by the fault of a host.
struct Fault {
    now: Instant,
    job: JobId,
    /// When the fetch began.
    started: Instant,
    /// This one among them.
    in_flight: u32,
    throttled: bool,
    /// The wait that the host asks for.
    asked: Option<Duration>,
    was_probe: bool,
    /// Whether the host ever answered.
    has_answered: bool,
}

impl Adaptive {
    fn new(config: &Config, now: Instant) -> Box<Self> {
        let (start, max) = config.host_limits();
        Box::new(Self {
            gradient: Gradient::new(start, max, now),
            circuit: Circuit::default(),
            refusals: Refusals::default(),
            pace: Pace::new(now),
        })
    }

    /// A fetch has failed by the fault of the host: how long that is to be left alone from now on.
    fn failed(&mut self, fault: &Fault, config: &Config, rng: &mut fastrand::Rng) -> Option<Duration> {
        let Fault { now, job, started, in_flight, throttled, asked, was_probe, has_answered } = *fault;
        let circuit = &mut self.circuit;
        circuit.failed(now, was_probe);
        let is_news = was_probe || circuit.is_closed() && circuit.is_after_last(started);
        let is_enough = config.breaker.is_some_and(|most| match has_answered {
            true => circuit.trips(now, most, config.patience() / 20),
            false => circuit.trips(now, most.div_ceil(NEVER_ANSWERED), Duration::ZERO),
        });
        let opens = is_news && (was_probe || throttled || is_enough);
        let mut wait = asked;
        if opens {
            let longest = config.backoff_cap.min(config.patience() / PROBES);
            let drawn = retry::backoff(config.backoff_base, longest, circuit.backoff(), rng);
            circuit.open(now, drawn, !throttled);
            // A host that goes on asking for a moment is given longer ones.
            wait = Some(asked.map_or(drawn, |asked| if was_probe { asked.max(drawn) } else { asked }));
        }
        if throttled && config.adaptive {
            self.refusals.refused(job, started);
            if opens && !was_probe {
                self.gradient.refused(in_flight);
            }
            if opens {
                self.pace.refused(now);
            }
        }
        wait
    }

    /// Whether another fetch may be in flight beside so many.
    pub(super) fn admits(&self, config: &Config, in_flight: u32) -> bool {
        let most = if config.adaptive { self.gradient.limit() } else { config.host_limits().1 };
        self.circuit.admits(in_flight, most, config.host_limits().1)
    }

    /// Whether its failures keep the host from being asked, which is more than a wait that it asked for.
    pub(super) fn is_tripped(&self) -> bool {
        self.circuit.is_tripped()
    }

    /// A fetch was started; gives the earliest time of the next one.
    pub(super) fn started(&mut self, now: Instant, in_flight: u32) -> Option<Instant> {
        self.gradient.started(now, in_flight);
        self.circuit.started(now);
        self.pace.started(now)
    }

    /// The fetch has ended, in whatever way.
    pub(super) fn left(&mut self, started: Option<Instant>, now: Instant) {
        if let Some(started) = started {
            self.gradient.left(started, now);
        }
    }
}

impl Config {
    /// Fetches in flight for a host: at first, and at most.
    pub(super) fn host_limits(&self) -> (u32, u32) {
        let max = self.per_host.unwrap_or(u32::MAX).max(1);
        let ramps = self.adaptive && max > RAMPED_ABOVE;
        (if ramps { self.host_ramp_from.clamp(1, max) } else { max }, max)
    }

    /// How long a host may answer nothing.
    pub(super) fn patience(&self) -> Duration {
        self.host_patience.unwrap_or_else(|| self.backoff_cap.max(LEAST_PATIENCE))
    }
}

impl Engine {
    /// Whether this host may start another fetch, as far as its own limit and its ports go.
    pub(super) fn host_admits(&self, id: HostId) -> bool {
        self.hosts[id.index as usize].in_line == 0 && self.is_below_limit(id)
    }

    fn is_below_limit(&self, id: HostId) -> bool {
        let host = &self.hosts[id.index as usize];
        match &host.adaptive {
            Some(adaptive) => adaptive.admits(&self.config, host.in_flight),
            None => host.in_flight < self.config.host_limits().0,
        }
    }

    /// Keeps the count of hosts at their limit, whatever changed it.
    pub(super) fn note_limit(&mut self, id: HostId) {
        let is_limited = self.hosts[id.index as usize].in_line == 0 && !self.is_below_limit(id);
        let was_limited = std::mem::replace(&mut self.hosts[id.index as usize].is_limited, is_limited);
        self.host_limited = self.host_limited + u32::from(is_limited) - u32::from(was_limited);
    }

    /// The host of this fetch, which is still in flight, has answered.
    pub(super) fn host_answered(&mut self, now: Instant, id: JobId) {
        let Some((host_id, Some(started))) = self.job(id).map(|job| (job.host, job.started)) else { return };
        let (start, most) = self.config.host_limits();
        let config = &self.config;
        let host = &mut self.hosts[host_id.index as usize];
        host.answers = host.answers.wrapping_add(1);
        if host.adaptive.is_none() {
            // The limit is what holds it back, and not its gap, and there is more to ask for.
            let is_held = host.in_flight >= RESUME_FROM.min(start)
                && !host.queue.is_empty()
                && host.not_before.is_none_or(|at| at <= now);
            if !config.adaptive || start == most || !is_held {
                return;
            }
            let gradient = Gradient::open(host.in_flight, start, most, now);
            host.adaptive = Some(Box::new(Adaptive { gradient, ..*Adaptive::new(config, now) }));
        }
        let Some(adaptive) = &mut host.adaptive else { return };
        let closes = adaptive.circuit.answered(started);
        if closes {
            adaptive.gradient.resume(RESUME_FROM.min(most), now);
            // What was in flight when it refused has said by now whom that was about.
            adaptive.pace.resume(now, adaptive.refusals.is_of_host());
        }
        adaptive.refusals.answered(id, started);
        // What was under way when the host refused says nothing about the pace from then on.
        if adaptive.circuit.is_after_last(started) {
            adaptive.pace.answered(now);
        }
        if config.adaptive {
            // What was measured while this machine was not itself says nothing about the host.
            let is_quiet = self.disturbed.is_none_or(|time| started > time) && self.shut.is_empty();
            let is_ours = is_quiet && !self.jobs[id.index as usize].stood_in_line;
            let sample = is_ours.then(|| now.saturating_duration_since(started));
            adaptive.gradient.answered(started, sample);
        }
        // It need not wait for another probe.
        if closes && matches!(host.place, Place::Timed(_)) {
            self.count_timed(host_id, None);
        }
    }

    /// The earliest time of the next start on this host.
    pub(super) fn next_start(&self, id: HostId) -> Option<Instant> {
        let host = &self.hosts[id.index as usize];
        host.not_before.max(host.adaptive.as_ref().and_then(|adaptive| adaptive.circuit.next_probe()))
    }

    /// The host of this job, which is still in flight, has failed, or asks for fewer requests.
    pub(super) fn host_fault(&mut self, now: Instant, id: JobId, retry: RetryTime, blame: Blame) -> Excuse {
        if self.config.breaker.is_none() && !self.config.adaptive {
            return Excuse::None;
        }
        let Some((host_id, Some(started))) = self.job(id).map(|job| (job.host, job.started)) else {
            return Excuse::None;
        };
        let config = &self.config;
        let host = &mut self.hosts[host_id.index as usize];
        let adaptive = host.adaptive.get_or_insert_with(|| Adaptive::new(config, now));
        let was_probe = adaptive.circuit.is_probe(started);
        // A probe says whether the host is back, and not how many it bears.
        if config.adaptive && !was_probe {
            adaptive.gradient.overloaded(started, now, host.in_flight);
        }
        if config.breaker.is_none() {
            return Excuse::None;
        }
        let throttled = blame == Blame::Throttled;
        let asked = match retry {
            RetryTime::After(wait) if throttled => Some(wait.min(config.retry_after_cap)),
            _ => None,
        };
        let has_answered = host.answers > 0;
        let fault =
            Fault { now, job: id, started, in_flight: host.in_flight, throttled, asked, was_probe, has_answered };
        let wait = adaptive.failed(&fault, config, &mut self.rng);
        // Whether a host that never answered is there at all, a few tries tell.
        let patience = if has_answered { config.patience() } else { Duration::ZERO };
        let is_over = was_probe && adaptive.circuit.is_over(now, config.attempts, patience);
        let is_alone = !adaptive.circuit.is_closed();
        if let Some(wait) = wait {
            host.wait_until(later(now, wait));
        }
        match is_over {
            true => Excuse::GivenUp,
            false if throttled || is_alone => self.excuse_of(now, id, retry),
            false => Excuse::None,
        }
    }

    /// Whether the failure of a host that is left alone is none of this job's.
    fn excuse_of(&mut self, now: Instant, id: JobId, retry: RetryTime) -> Excuse {
        let too_long = matches!(retry, RetryTime::After(wait) if wait > self.config.retry_after_cap);
        let is_excused = self.is_turned_away(id) && !too_long && retry != RetryTime::Never;
        let job = &mut self.jobs[id.index as usize];
        let host = &self.hosts[job.host.index as usize];
        job.turned_away_at = Some(host.answers);
        if is_excused { Excuse::Until(host.not_before.map_or(now, |time| time.max(now))) } else { Excuse::None }
    }

    /// Whether a refusal (429, 503) is that of the job's URL: it was refused before, and others were answered since. Not
    /// where it asks for a wait, which is kept by the whole host: whom it is for is not said (RFC 9110, 10.2.3).
    pub(super) fn is_refused_alone(&self, id: JobId, retry: RetryTime) -> bool {
        let Some(job) = self.job(id).filter(|_| !matches!(retry, RetryTime::After(_))) else { return false };
        let host = &self.hosts[job.host.index as usize];
        let Some((adaptive, before)) = host.adaptive.as_ref().zip(job.turned_away_at) else { return false };
        self.config.breaker.is_some() && adaptive.refusals.is_of_url(host.answers.wrapping_sub(before))
    }

    /// Ends all that waits for a host.
    pub(super) fn give_up(&mut self, id: HostId) {
        let host = self.host_mut(id);
        let queue = std::mem::take(&mut host.queue);
        let arriving = std::mem::take(&mut host.arriving);
        let waiting: Vec<_> = arriving.into_iter().chain(queue.iter().map(|w| w.job)).collect();
        for job in waiting {
            if self.job(job).is_some_and(|j| matches!(j.stage, Stage::Arriving | Stage::Queued)) {
                self.settle(job, JobVerdict::HostError);
            }
        }
    }

    /// Whether its host fails everybody, as far as is known: it has answered before, and nobody since this job failed last.
    /// Where others were answered meanwhile it is this URL, and not the host.
    fn is_turned_away(&self, id: JobId) -> bool {
        let Some(job) = self.job(id).filter(|job| job.max_attempts > 1) else { return false };
        let answers = self.hosts[job.host.index as usize].answers;
        answers > 0 && job.turned_away_at.is_none_or(|before| before == answers)
    }

    /// Whether an answer that says "not now" would be no attempt of this job, so that it may be asked again whatever the
    /// budget for retries says. Never without a [`Config::breaker`].
    pub fn may_wait(&self, id: JobId) -> bool {
        self.ending.is_none() && self.config.breaker.is_some() && self.is_turned_away(id)
    }

    /// Counts a host that waits for its time, by what it waits for.
    pub(super) fn count_timed(&mut self, id: HostId, time: Option<Instant>) {
        let host = &mut self.hosts[id.index as usize];
        let is_tripped = host.adaptive.as_ref().is_some_and(|adaptive| adaptive.is_tripped());
        if let Some(time) = time {
            host.place = Place::Timed(time);
            host.timed_tripped = is_tripped;
            self.timed[usize::from(is_tripped)] += 1;
        } else {
            host.place = Place::Nowhere;
            self.timed[usize::from(host.timed_tripped)] -= 1;
        }
    }
}
