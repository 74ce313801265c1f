//! [`Capacity`]: what a rate of fetches needs of a machine, by Little's law, and what the machine lacks.

use std::fmt;
use std::time::Duration;

use crate::Machine;

/// Bytes of a connection that waits for its answer, with the fetch and its record: what `compare run sockets` measures for a
/// crawl of 10,000 and more. Bodies come on top, within the byte budget.
pub const BYTES_PER_CONNECTION: u64 = 3200;

/// The same over TLS, by `compare run sockets-tls`.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{BYTES_PER_TLS_CONNECTION, Demand, Machine};
///
/// let mut demand = Demand::new(1_000.0, Duration::from_secs(2));
/// demand.bytes_per_connection = BYTES_PER_TLS_CONNECTION;
/// println!("{}", demand.plan(&Machine::read()));
/// ```
pub const BYTES_PER_TLS_CONNECTION: u64 = 12 << 10;

/// Bytes that a crawl takes however few connections it has: its tables and histograms.
const BYTES_OF_A_CRAWL: u64 = 2 << 20;

/// Time for which the side that closes a connection keeps its port (Linux, `TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Descriptors for files, pipes and name servers.
const RESERVE: u64 = 64;

/// A wish: so many fetches a second, each of which takes so long.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{Demand, Machine};
///
/// let capacity = Demand::new(5_000.0, Duration::from_secs(2)).plan(&Machine::read());
/// assert_eq!(capacity.concurrency, 10_000);
/// println!("{capacity}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Demand {
    /// Fetches a second.
    pub rate: f64,
    /// How long a fetch takes, from its start to its last byte.
    pub wait: Duration,
    /// Whether connections are used again; yes. Otherwise each one keeps its port for 60 s after its end.
    pub keep_alive: bool,
    /// Destinations (address and port) over which the fetches are spread evenly; 1, the worst case for ports.
    pub destinations: u32,
    /// Bytes of memory for each connection; [`BYTES_PER_CONNECTION`](crate::BYTES_PER_CONNECTION). Over TLS it is
    /// [`BYTES_PER_TLS_CONNECTION`](crate::BYTES_PER_TLS_CONNECTION).
    pub bytes_per_connection: u64,
    /// CPU time of a fetch, where it is known; `None`.
    pub cpu: Option<Duration>,
}

impl Demand {
    /// A demand with defaults.
    pub fn new(rate: f64, wait: Duration) -> Self {
        Self { rate, wait, keep_alive: true, destinations: 1, bytes_per_connection: BYTES_PER_CONNECTION, cpu: None }
    }

    /// What it needs, and what `machine` lacks of that. A rate that is not a positive number needs nothing.
    pub fn plan(&self, machine: &Machine) -> Capacity {
        let rate = if self.rate.is_finite() { self.rate.max(0.0) } else { 0.0 };
        let concurrency = whole(rate * self.wait.as_secs_f64());
        let descriptors = concurrency.saturating_add(concurrency / 3).saturating_add(RESERVE);
        let closing = if self.keep_alive { 0 } else { whole(rate * TIME_WAIT.as_secs_f64()) };
        let ports = concurrency.saturating_add(closing).div_ceil(u64::from(self.destinations.max(1)));
        let range = u64::from(machine.ports.unwrap_or(28_232).max(1));
        let source_addresses = ports.div_ceil(range).max(1);
        let bytes = BYTES_OF_A_CRAWL.saturating_add(concurrency.saturating_mul(self.bytes_per_connection));
        let cores = self.cpu.map(|cpu| rate * cpu.as_secs_f64());

        let mut lacks = Vec::new();
        if let Some(soft) = machine.descriptors_soft.filter(|soft| *soft < descriptors) {
            let hard = machine.descriptors_hard.is_none_or(|hard| hard >= descriptors);
            lacks.push(Lack::Descriptors { needed: descriptors, has: soft, may_raise: hard });
        }
        if source_addresses > u64::from(machine.source_addresses.max(1)) {
            lacks.push(Lack::Ports {
                needed: ports,
                has: range * u64::from(machine.source_addresses.max(1)),
                source_addresses,
            });
        }
        if let Some(has) = machine.memory.filter(|memory| *memory < bytes) {
            lacks.push(Lack::Memory { needed: bytes, has });
        }
        let has = f64::from(machine.cores).min(machine.cpu_quota.unwrap_or(f64::INFINITY));
        if let Some(needed) = cores.filter(|cores| *cores > has) {
            lacks.push(Lack::Cores { needed, has });
        }
        Capacity { concurrency, descriptors, ports, source_addresses, bytes, cores, lacks }
    }
}

/// What a [`Demand`] needs. `Display` says it in words, with what to do about what is lacking.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Capacity {
    /// Fetches in flight: rate times wait (Little's law).
    pub concurrency: u64,
    /// Descriptors: four thirds of the concurrency, as the sockets are three quarters of them, and 64.
    pub descriptors: u64,
    /// Ports to the fullest destination, over all source addresses; those of closed connections too.
    pub ports: u64,
    /// Source addresses that have so many ports.
    pub source_addresses: u64,
    /// Memory of the crawl and its connections in bytes, without bodies.
    pub bytes: u64,
    /// Cores, where the CPU time of a fetch was given.
    pub cores: Option<f64>,
    /// What the machine has too little of; empty where it suffices.
    pub lacks: Vec<Lack>,
}

/// Something that a machine has too little of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Lack {
    /// Descriptors; `may_raise`: the process may raise its limit by itself.
    Descriptors {
        /// So many are needed.
        needed: u64,
        /// The soft limit.
        has: u64,
        /// Whether the hard limit suffices.
        may_raise: bool,
    },
    /// Ports to one destination.
    Ports {
        /// So many are needed.
        needed: u64,
        /// The range times the source addresses.
        has: u64,
        /// So many source addresses would do.
        source_addresses: u64,
    },
    /// Memory in bytes.
    Memory {
        /// So many are needed.
        needed: u64,
        /// All there is.
        has: u64,
    },
    /// CPU time a second, in cores.
    Cores {
        /// So many are needed.
        needed: f64,
        /// Those of the machine or its quota.
        has: f64,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors { needed, has, may_raise: true } => {
                write!(
                    f,
                    "descriptors: {needed} needed, {has} allowed: `ulimit -n {needed}`, or raise_descriptor_limit"
                )
            }
            Self::Descriptors { needed, has, may_raise: false } => {
                write!(
                    f,
                    "descriptors: {needed} needed, {has} allowed: raise the hard limit (`ulimit -Hn {needed}` as root)"
                )
            }
            Self::Ports { needed, has, source_addresses } => write!(
                f,
                "ports to one destination: {needed} needed, {has} there: widen net.ipv4.ip_local_port_range, or use \
                 {source_addresses} source addresses"
            ),
            Self::Memory { needed, has } => {
                write!(f, "memory: {} MiB needed, {} MiB there: more memory, or fewer fetches", needed >> 20, has >> 20)
            }
            Self::Cores { needed, has } => {
                write!(f, "CPU: {needed:.1} cores needed, {has:.1} there: more cores, or a lower rate")
            }
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { concurrency, descriptors, ports, source_addresses, bytes, cores, lacks } = self;
        write!(f, "{concurrency} in flight: {descriptors} descriptors, {ports} ports to a destination ")?;
        write!(f, "({source_addresses} source addresses), {} MiB", bytes >> 20)?;
        if let Some(cores) = cores {
            write!(f, ", {cores:.1} cores")?;
        }
        lacks.iter().try_for_each(|lack| write!(f, "\n{lack}"))
    }
}

/// Rounded up; no more than a `u64` holds.
fn whole(number: f64) -> u64 {
    number.ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine() -> Machine {
        Machine {
            descriptors_soft: Some(1_024),
            descriptors_hard: Some(20_000),
            ports: Some(28_232),
            memory: Some(8 << 30),
            cores: 2,
            ..Machine::default()
        }
    }

    // H1
    #[test]
    fn little_says_how_many_are_in_flight() {
        let capacity = Demand::new(5_000.0, Duration::from_secs(2)).plan(&machine());
        assert_eq!((capacity.concurrency, capacity.descriptors, capacity.source_addresses), (10_000, 13_397, 1));
        assert_eq!(capacity.lacks, [Lack::Descriptors { needed: 13_397, has: 1_024, may_raise: true }]);
        assert!(capacity.to_string().contains("ulimit -n 13397"), "{capacity}");
    }

    // H2
    #[test]
    fn closed_connections_keep_their_ports_for_a_minute() {
        let mut demand = Demand::new(1_000.0, Duration::from_secs(1));
        demand.keep_alive = false;
        let capacity = demand.plan(&machine());
        assert_eq!((capacity.ports, capacity.source_addresses), (61_000, 3));
        assert!(capacity.to_string().contains("3 source addresses"), "{capacity}");
        demand.destinations = 10;
        assert_eq!(demand.plan(&machine()).source_addresses, 1);
    }

    #[test]
    fn cores_and_memory_are_judged_where_they_are_known() {
        let mut demand = Demand::new(50_000.0, Duration::from_secs(60));
        demand.cpu = Some(Duration::from_micros(100));
        let lacks = demand.plan(&machine()).lacks;
        assert!(lacks.iter().any(|lack| matches!(lack, Lack::Memory { .. })), "{lacks:?}");
        assert!(lacks.iter().any(|lack| matches!(lack, Lack::Cores { .. })), "{lacks:?}");
        assert_eq!(Demand::new(f64::NAN, Duration::from_secs(1)).plan(&Machine::default()).concurrency, 0);
    }

    proptest! {
        #[test]
        fn more_is_never_cheaper(rate in 0.0..1e6f64, wait in 0u64..100_000, more in 1.0..10f64) {
            let plan = |rate| Demand::new(rate, Duration::from_millis(wait)).plan(&Machine::default());
            let (less, more) = (plan(rate), plan(rate * more));
            prop_assert!(less.concurrency <= more.concurrency && less.ports <= more.ports && less.bytes <= more.bytes);
            prop_assert!(less.descriptors <= more.descriptors && less.source_addresses <= more.source_addresses);
        }
    }
}
