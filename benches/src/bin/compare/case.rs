//! [`Case`]: one table: a server, some work, and who does it.

use std::time::Duration;

use tidegate::Demand;

use crate::client::Client;
use crate::figure::Figure;
use crate::work::Work;

/// What is looked at from outside while a client works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Memory, again and again.
    Memory,
    /// Memory and CPU time while all requests wait at the gate for so long; then it is opened.
    Gate(Duration),
}

/// Work that several clients do in turn.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The scenario that it belongs to.
    pub(crate) scenario: &'static str,
    /// What is told of it above its table.
    pub(crate) title: String,
    /// Arguments of the server, apart from its cores and addresses.
    pub(crate) server: Vec<String>,
    /// What is done; its port and certificate are those of the server, once it runs.
    pub(crate) work: Work,
    /// Clients at a time, each a process with a server of its own.
    pub(crate) processes: u32,
    pub(crate) clients: Vec<Client>,
    pub(crate) watch: Watch,
    pub(crate) figures: Vec<Figure>,
    /// What a crawl would be planned for, by process.
    pub(crate) demand: Option<Demand>,
}
