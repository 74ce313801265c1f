//! Tasks of a simulation, who wakes them, and what they wait for.

use std::fmt;
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::world::World;
use crate::rt::{BoxFuture, Name};

/// An index into the table of tasks.
pub(super) type TaskId = u32;

/// The future that `block_on` was given.
pub(super) const MAIN: TaskId = TaskId::MAX;

pub(super) struct Task {
    /// `None` while it is polled.
    pub(super) future: Option<BoxFuture<'static, ()>>,
    pub(super) waker: Waker,
    /// Tells it from the task that had its index before.
    pub(super) generation: u32,
    pub(super) queued: bool,
    pub(super) from: &'static Location<'static>,
    /// Since its last poll.
    pub(super) waits: Vec<Wait>,
    /// It plays a server of the network.
    pub(super) is_peer: bool,
    pub(super) polls: u64,
}

pub(super) struct TaskWaker {
    world: Weak<World>,
    id: TaskId,
    generation: u32,
}

impl TaskWaker {
    pub(super) fn new(world: &Arc<World>, id: TaskId, generation: u32) -> Self {
        Self { world: Arc::downgrade(world), id, generation }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(world) = self.world.upgrade() {
            world.lock().wake(self.id, self.generation);
        }
    }
}

/// What keeps a task from going on, as far as the simulation knows.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    Sleep(Duration),
    Yield,
    Connect(SocketAddr),
    Accept(SocketAddr),
    Read(SocketAddr),
    Write(SocketAddr),
    Lookup(Name),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sleep(at) => write!(f, "a timer at {at:?}"),
            Self::Yield => f.write_str("its turn"),
            Self::Connect(to) => write!(f, "a connection to {to}"),
            Self::Accept(at) => write!(f, "a connection from anybody at {at}"),
            Self::Read(from) => write!(f, "bytes from {from}"),
            Self::Write(to) => write!(f, "room for bytes to {to}"),
            Self::Lookup(name) => write!(f, "the addresses of {name}"),
        }
    }
}
