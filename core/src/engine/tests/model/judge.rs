//! What the reference says of each action: it has a reason, it is allowed, and nothing that could begin is missing.

use super::*;

impl Model {
    /// Judges an action, and takes it as done. `drawn`: the wait of the host after a start.
    pub(in crate::engine::tests) fn act(&mut self, now: Instant, action: Action, drawn: Option<Instant>) {
        if let Some(at) = self.owed.iter().position(|owed| *owed == action) {
            if let Action::Settle { job, .. } = action {
                let abort = Action::Abort(job);
                assert!(!self.owed[..at].contains(&abort), "{job:?} is aborted before it is settled");
            }
            self.owed.remove(at);
            return;
        }
        match action {
            Action::Settle { job, verdict: JobVerdict::Cancelled } if self.is_unstartable(job) => {
                self.settle(job, JobVerdict::Cancelled);
                self.owed.pop();
                return;
            }
            Action::Settle { .. } | Action::Vet(_) | Action::Abort(_) | Action::Forget(_) => {
                panic!("{action:?} without a reason; owed: {:?}", self.owed)
            }
            _ => {}
        }
        match action {
            Action::Prepare(id) => self.prepares(id, HostState::ToPrepare, HostState::Preparing),
            Action::Resolve(id) => self.prepares(id, HostState::ToResolve, HostState::Resolving),
            Action::Deliver(id) => {
                self.nobody_in_line();
                assert!(self.in_stage(Stage::Delivering) < self.config.deliver_permits, "deliver permits");
                assert_eq!(self.ordered(|job| job.stage == Stage::ToDeliver).first(), Some(&id), "delivered in order");
                self.set(id, Stage::Delivering);
            }
            Action::Parse(id) => {
                self.nobody_in_line();
                assert!(self.in_stage(Stage::Parsing) < self.config.parse_permits, "parse permits");
                let awaited = self.ordered(|job| job.stage == Stage::ToParse && job.spec.awaited);
                let is_wanted = !awaited.is_empty() || !self.behind && self.in_stage(Stage::ToDeliver) == 0;
                assert!(is_wanted, "a page is parsed for nobody");
                let others = self.ordered(|job| job.stage == Stage::ToParse && !job.spec.awaited);
                assert_eq!(awaited.iter().chain(&others).next(), Some(&id), "parsed in order");
                self.set(id, Stage::Parsing);
            }
            Action::Readmit(id) => {
                self.nobody_in_line();
                assert!(!self.may_deliver() && !self.may_parse(), "what was fetched goes first");
                assert!(self.may_readmit(), "no permit, or the gate is shut");
                assert_eq!(self.ordered(|job| job.stage == Stage::ToReadmit).first(), Some(&id), "readmitted in order");
                self.set(id, Stage::Fetching);
                self.counters.in_flight_peak = self.counters.in_flight_peak.max(self.in_stage(Stage::Fetching));
            }
            Action::Fetch { job, attempt } => {
                self.nobody_in_line();
                assert!(!self.may_deliver() && !self.may_parse(), "what was fetched goes first");
                assert!(!self.may_readmit(), "what was started before goes first");
                self.start(now, job, attempt, drawn);
            }
            _ => {}
        }
    }

    fn is_unstartable(&self, id: JobId) -> bool {
        self.is_exhausted() && self.jobs.get(&id).is_some_and(|job| job.stage == Stage::Queued && job.attempts == 0)
    }

    fn prepares(&mut self, id: HostId, from: HostState, to: HostState) {
        assert!(self.may_prepare(), "prepare permits, pause");
        loop {
            let first = self.next_in_line().expect("somebody is in line, and the gate is open or it is awaited");
            if first == id {
                break;
            }
            self.leave_line(first);
        }
        assert!(self.is_wanted(id), "nobody waits for {id:?}");
        assert_eq!(self.host(id).state, from);
        self.host(id).state = to;
    }

    fn may_prepare(&self) -> bool {
        let preparing = self.hosts.values().filter(|h| matches!(h.state, HostState::Preparing | HostState::Resolving));
        preparing.count() < self.config.prepare_permits as usize && !self.paused
    }

    /// Takes who is prepared next out of the line: a host of which somebody waits for a page, or the first, where the gate
    /// is open.
    fn next_in_line(&mut self) -> Option<HostId> {
        let is_awaited = |id: &HostId| self.jobs.values().any(|job| job.host == *id && job.spec.awaited);
        match self.line.iter().position(is_awaited) {
            Some(at) => self.line.remove(at),
            None if self.shut.is_empty() => self.line.pop_front(),
            None => None,
        }
    }

    fn is_wanted(&self, id: HostId) -> bool {
        self.jobs.values().any(|job| job.host == id && matches!(job.stage, Stage::Arriving | Stage::Queued))
    }

    /// A host for which nobody waits any more is asked for its rules when somebody does.
    fn leave_line(&mut self, id: HostId) {
        assert!(!self.is_wanted(id), "{id:?} is passed over");
        let host = self.host(id);
        host.state = if host.state == HostState::ToPrepare { HostState::New } else { HostState::Prepared };
    }

    /// Whoever is prepared goes before whatever else can be done.
    fn nobody_in_line(&mut self) {
        if self.may_prepare() {
            while let Some(id) = self.next_in_line() {
                self.leave_line(id);
            }
        }
        assert!(self.owed.is_empty(), "{:?} is owed", self.owed);
    }

    fn may_deliver(&self) -> bool {
        self.in_stage(Stage::ToDeliver) > 0 && self.in_stage(Stage::Delivering) < self.config.deliver_permits
    }

    fn may_parse(&self) -> bool {
        let others = !self.behind && self.in_stage(Stage::ToDeliver) == 0;
        let wanted = self.count(|job| job.stage == Stage::ToParse && (others || job.spec.awaited));
        wanted > 0 && self.in_stage(Stage::Parsing) < self.config.parse_permits
    }

    fn may_readmit(&self) -> bool {
        let in_flight = self.in_stage(Stage::Fetching);
        let may = in_flight < self.limit && (self.shut.is_empty() || in_flight < self.config.gate_floor);
        may && self.in_stage(Stage::ToReadmit) > 0
    }

    /// What keeps every host from starting; of `awaited`, from starting what somebody waits for.
    fn global_bound(&self, awaited: bool) -> Option<Bound> {
        let in_flight = self.in_stage(Stage::Fetching);
        let to_deliver = self.in_stage(Stage::ToDeliver);
        let parses_awaited = self.count(|job| job.stage == Stage::ToParse && job.spec.awaited);
        let parses = self.in_stage(Stage::ToParse) - parses_awaited + self.in_stage(Stage::Parsing);
        let delivers = to_deliver + self.in_stage(Stage::Delivering) + self.in_stage(Stage::Settling);
        let full = |n| n >= self.config.backlog;
        let lack = self.short.iter().find(|lack| !awaited || **lack != Bound::Bytes);
        let (shut, short) = (self.shut.first().copied(), lack.copied());
        let has_fewer_sockets = self.config.sockets.is_some_and(|sockets| sockets < self.config.max_in_flight);
        let limit = if has_fewer_sockets && self.limit == self.config.most_in_flight() {
            Bound::Descriptors
        } else {
            Bound::GlobalLimit
        };
        let bounds = [
            (self.paused || self.ending.is_some(), Bound::Stopped),
            (self.waiting() == 0 && self.behind, Bound::Frontier),
            (self.waiting() == 0, Bound::NoWork),
            (shut.is_some() && in_flight >= self.config.gate_floor, shut.unwrap_or(Bound::Lag)),
            (short.is_some() && in_flight + self.in_line() > 0, short.unwrap_or(Bound::Descriptors)),
            (!awaited && self.bytes >= self.config.byte_budget && in_flight > 0, Bound::Bytes),
            (!awaited && full(parses) && to_deliver == 0 && self.behind, Bound::Frontier),
            (!awaited && full(parses) && to_deliver == 0, Bound::Parser),
            (!awaited && (full(parses) || full(delivers)), Bound::Sink),
            (!awaited && self.behind, Bound::Frontier),
            (awaited && full(parses_awaited), Bound::Parser),
            (in_flight >= self.limit, self.held.and_then(|(by, ..)| by).unwrap_or(limit)),
            (in_flight + self.in_line() >= 2 * self.config.most_in_flight(), Bound::Ports),
        ];
        bounds.into_iter().find(|(holds, _)| *holds).map(|(_, bound)| bound)
    }

    fn rate_wait(&self) -> Option<Instant> {
        // A start may come 10 ms early.
        self.rate_next.map(|next| next - 10 * MS)
    }

    /// Whether this host could start one but for its address.
    fn could_start(&self, now: Instant, id: HostId) -> bool {
        let host = &self.hosts[&id];
        host.state == HostState::Ready
            && self.config.per_host.is_none_or(|max| self.host_in_flight(id) < max)
            && !self.jobs.values().any(|job| job.host == id && matches!(job.stage, Stage::InLine | Stage::ToReadmit))
            && host.not_before.is_none_or(|time| time <= now)
            && self.best(id).is_some()
    }

    fn has_address(&self, id: HostId) -> bool {
        let (Some(address), Some(max)) = (self.hosts[&id].address, self.config.per_address) else { return true };
        self.address_in_flight(address) < max
    }

    /// Hosts that could start a job.
    fn startable(&self, now: Instant) -> Vec<HostId> {
        let could = |id: &HostId| self.could_start(now, *id) && self.has_address(*id);
        self.hosts.keys().copied().filter(could).collect()
    }

    /// The job that goes first on this host.
    fn best(&self, id: HostId) -> Option<JobId> {
        let queued = self.jobs.iter().filter(|(_, job)| job.stage == Stage::Queued && job.host == id);
        let startable = queued.filter(|(_, job)| job.attempts > 0 || !self.is_exhausted());
        startable.max_by_key(|(_, job)| (job.spec.awaited, job.spec.priority, Reverse(job.age))).map(|(id, _)| *id)
    }

    fn start(&mut self, now: Instant, id: JobId, attempt: u32, drawn: Option<Instant>) {
        let host = self.jobs[&id].host;
        let awaited = self.jobs[&id].spec.awaited;
        assert_eq!(self.global_bound(awaited), None, "a start against the bound of the crawl");
        assert!(self.rate_wait().is_none_or(|time| time <= now), "a start above the rate");
        let startable = self.startable(now);
        assert!(startable.contains(&host), "{host:?} may start nothing: {:?}", self.hosts[&host]);
        assert_eq!(self.best(host), Some(id), "the order of jobs on a host");
        let job = self.jobs[&id].clone();
        assert_eq!(attempt, job.attempts + u32::from(!job.hop), "the number of the attempt");
        assert!(attempt <= self.attempts_of(&job));
        let latest = self.latest.max(Some(now));
        assert!(job.spec.not_before <= latest, "not before");
        if awaited {
            // It went before its turn, and what its host has beside it begins a new one.
            let started = self.host(host);
            started.overtaken.clear();
            started.passed = 0;
        } else {
            self.count_turns(now, host, &startable);
        }

        let (address, hop) = (self.hosts[&host].address, job.hop);
        self.set(id, Stage::Fetching);
        let job = self.job(id);
        (job.address, job.hop, job.attempts, job.started) = (address, false, attempt, Some(now));
        if !hop {
            self.first_starts += u64::from(attempt == 1);
            self.counters.retries += u64::from(attempt > 1);
        }
        self.counters.starts += 1;
        self.counters.in_flight_peak = self.counters.in_flight_peak.max(self.in_stage(Stage::Fetching));
        self.rate_next = self
            .config
            .rate
            .map(|rate| self.rate_next.map_or(now, |next| next.max(now)) + Duration::from_secs_f64(1.0 / rate));
        let (gap, jitter, asked) = (self.config.gap, self.config.gap_jitter, self.host(host).gap);
        let before = self.host(host).not_before;
        let (low, high) = (gap.mul_f64(1.0 - jitter).max(asked), gap.mul_f64(1.0 + jitter).max(asked));
        if high.is_zero() {
            assert_eq!(drawn, before);
        } else {
            let range = before.max(Some(now + low))..=before.max(Some(now + high));
            assert!(range.contains(&drawn), "the next start of {host:?} is not in {range:?}: {drawn:?}");
        }
        self.host(host).not_before = drawn;
    }

    /// Invariant 9: of k hosts that may start, each starts within k starts; and so at an address.
    fn count_turns(&mut self, now: Instant, started: HostId, startable: &[HostId]) {
        let (hosts, address) = (self.most_hosts, self.hosts[&started].address);
        let more = self.unstarted_awaited;
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        for id in ids {
            let may = self.could_start(now, id) && id != started;
            let is_limited = self.config.per_address.is_some();
            let is_here = is_limited && self.hosts[&id].address == address;
            let host = self.host(id);
            if may && startable.contains(&id) {
                *host.overtaken.entry(started).or_default() += 1;
            } else {
                host.overtaken.clear();
            }
            host.passed = if may { host.passed + usize::from(is_here) } else { 0 };
            // At an address with a limit it has a second turn to wait for.
            // What somebody waited for has put its host first, also where it ended before its start.
            let turns = if is_limited { 3 } else { 1 } + more;
            assert!(
                host.overtaken.values().all(|n| *n <= turns),
                "{id:?} starves: starts of others: {:?}",
                host.overtaken
            );
            assert!(
                host.passed <= 2 * hosts + turns as usize,
                "{id:?} starves at its address: {} starts of others",
                host.passed
            );
        }
    }

    /// The engine says that there is nothing to do for now.
    pub(in crate::engine::tests) fn rests(&mut self, now: Instant, bound: Bound, wakes: Option<Instant>) {
        self.nobody_in_line();
        assert!(!self.may_deliver(), "a page could be delivered");
        assert!(!self.may_parse(), "a page could be parsed");
        assert!(!self.may_readmit(), "a fetch could go on");
        let (global, past) = (self.global_bound(false), self.global_bound(true));
        let startable = self.startable(now);
        let rated = self.rate_wait().filter(|time| *time > now);
        // Who could not start now has lost its turn.
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            let may = self.could_start(now, id);
            let host = self.host(id);
            if !startable.contains(&id) {
                host.overtaken.clear();
            }
            if !may {
                host.passed = 0;
            }
        }
        match global {
            Some(expected) if bound == expected => {
                let awaited = startable.iter().any(|id| self.best(*id).is_some_and(|job| self.jobs[&job].spec.awaited));
                assert!(!awaited || past.is_some() || rated.is_some(), "what somebody waits for could start");
            }
            // A host that comes first for what somebody waits for may turn out to be unable to start it.
            Some(expected) => {
                let is_past = past == Some(bound) || past.is_none() && rated.is_some() && bound == Bound::Rate;
                assert!(self.met_awaited && is_past, "{bound:?} where it is {expected:?}");
            }
            None if rated.is_some() && !startable.is_empty() => assert_eq!(bound, Bound::Rate),
            None => {
                assert!(startable.is_empty(), "{startable:?} could start, bound by {bound:?}");
                let waits = bound == Bound::Ports && self.in_line() > 0;
                assert!(waits || matches!(bound, Bound::Rate | Bound::Politeness | Bound::HostLimit), "{bound:?}");
                let at_limit =
                    self.config.per_host.is_some_and(|max| self.hosts.keys().any(|id| self.host_in_flight(*id) == max));
                assert!(bound != Bound::HostLimit || at_limit, "no host is at its limit");
            }
        }
        assert!(wakes.is_none_or(|time| time > now), "a wake-up in the past would spin");
        let due = self.next_due(now, global, rated.filter(|_| bound == Bound::Rate));
        if let Some((time, why)) = due {
            assert!(wakes.is_some_and(|wakes| wakes <= time), "{why} needs a wake-up at {time:?}, and it is {wakes:?}");
        }
    }

    /// The first moment at which something can begin, or end, by itself.
    fn next_due(&self, now: Instant, global: Option<Bound>, rated: Option<Instant>) -> Option<(Instant, String)> {
        let jobs = self.jobs.iter().filter(|(_, job)| job.stage == Stage::Delayed);
        let jobs = jobs.filter_map(|(id, job)| Some((job.until?, format!("{id:?}"))));
        let hosts = self.hosts.iter().filter_map(|(id, host)| Some((host.until?, format!("{id:?} backing off"))));
        let gaps = self.hosts.iter().filter(|(id, host)| {
            let at = host.not_before.unwrap_or(now);
            global.is_none() && rated.is_none() && at > now && self.could_start(at, **id) && self.has_address(**id)
        });
        let gaps = gaps.filter_map(|(id, host)| Some((host.not_before?, format!("{id:?} with its gap"))));
        let end = self.ending.flatten().map(|until| (until, "the end".to_owned()));
        let rated = rated.map(|time| (time, "the rate".to_owned()));
        jobs.chain(hosts).chain(gaps).chain(end).chain(rated).min()
    }

    /// Judges that the engine forgot a host.
    pub(in crate::engine::tests) fn forget(&mut self, now: Instant, id: HostId) {
        assert!(self.hosts.len() > self.config.max_hosts, "there was room for {id:?}");
        let host = self.hosts.remove(&id).expect("it was remembered");
        assert!(!self.jobs.values().any(|job| job.host == id), "{host:?} has jobs");
        assert!(host.not_before.is_none_or(|time| time <= now), "{host:?} must wait");
        assert!(matches!(host.state, HostState::New | HostState::Ready), "{host:?} is under way");
        self.owed.push(Action::Forget(id));
    }
}
