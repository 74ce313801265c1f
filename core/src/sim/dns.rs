//! Name servers of a simulation.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Op;
use super::task::Wait;
use super::timer::SimSleep;
use super::world::World;
use crate::hash::KeyedState;
use crate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError};

/// What a lookup comes to.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::Lookup;
/// let slow = Lookup::found([[192, 0, 2, 1].into()]).after(Duration::from_secs(3));
/// let dead = Lookup::never();
/// # let _ = (slow, dead);
/// ```
#[derive(Clone, Debug)]
pub struct Lookup {
    after: Duration,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Found(Addrs),
    NotFound,
    Failed,
    Never,
}

impl Lookup {
    fn new(answer: Answer) -> Self {
        Self { after: Duration::from_millis(1), answer }
    }

    /// These addresses.
    pub fn found(addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        let addrs = Addrs::new(addrs.into_iter().collect(), Some(Duration::from_secs(3600)));
        Self::new(Answer::Found(addrs))
    }

    /// There is no such name.
    pub fn not_found() -> Self {
        Self::new(Answer::NotFound)
    }

    /// The name servers fail.
    pub fn failed() -> Self {
        Self::new(Answer::Failed)
    }

    /// No answer comes.
    pub fn never() -> Self {
        Self::new(Answer::Never)
    }

    /// How long found addresses hold; an hour by default.
    #[must_use]
    pub fn ttl(mut self, time: Duration) -> Self {
        if let Answer::Found(addrs) = &mut self.answer {
            addrs.ttl = Some(time);
        }
        self
    }

    /// The answer comes so long after the question; 1 ms by default.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

pub(super) type Rule = Arc<dyn Fn(&Name) -> Lookup + Send + Sync>;

/// What the name servers know.
pub(super) struct Names {
    known: HashMap<Name, Lookup, KeyedState>,
    rule: Option<Rule>,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: HashMap::with_hasher(KeyedState::new(0)), rule: None }
    }
}

impl Names {
    pub(super) fn set(&mut self, name: Name, lookup: Lookup) {
        self.known.insert(name, lookup);
    }

    /// The rule that it replaces is dropped by the caller, without the lock.
    pub(super) fn set_rule(&mut self, rule: Rule) -> Option<Rule> {
        self.rule.replace(rule)
    }
}

/// The address of a name that nobody set: always the same, in 24.0.0.0/8.
pub(super) fn address_of(name: &Name) -> IpAddr {
    let [a, b, c, ..] = xxhash_rust::xxh3::xxh3_64(name.as_str().as_bytes()).to_le_bytes();
    IpAddr::from([24, a, b, c])
}

/// The resolver of a world.
pub(super) struct SimResolve(pub(super) Arc<World>);

impl Resolve for SimResolve {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (world, name) = (Arc::clone(&self.0), name.clone());
        let failed = |name: &Name, message: &str| {
            let (name, message) = (name.clone(), message.into());
            Err(ResolveError::Failed { name, message })
        };
        let (struck, known, rule) = {
            let mut state = world.lock();
            (state.faults.strikes(Op::Resolve), state.names.known.get(&name).cloned(), state.names.rule.clone())
        };
        if let Some(failure) = struck {
            let error = failed(&name, &failure().to_string());
            return Box::pin(std::future::ready(error));
        }
        let is_local = name.as_str() == "localhost";
        let lookup = known.or_else(|| rule.map(|rule| rule(&name))).unwrap_or_else(|| match name.as_str() {
            _ if is_local => Lookup::found([[127, 0, 0, 1].into()]),
            // RFC 6761, 6.4.
            text if text.ends_with(".invalid") => Lookup::not_found(),
            _ => Lookup::found([address_of(&name)]),
        });
        Box::pin(async move {
            if let Answer::Never = lookup.answer {
                std::future::poll_fn(|_| {
                    world.lock().waits_for(Wait::Lookup(name.clone()));
                    std::task::Poll::<()>::Pending
                })
                .await;
            }
            SimSleep::after(&world, lookup.after).await;
            match lookup.answer {
                Answer::Found(addrs) => Ok(addrs),
                Answer::NotFound => Err(ResolveError::NotFound(name)),
                Answer::Failed | Answer::Never => failed(&name, "the name servers of the simulation fail"),
            }
        })
    }
}
