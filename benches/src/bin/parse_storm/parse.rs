//! Where pages are parsed: the ways that are compared, each as an [`Offload`], so that peers and crawl use the same.

use std::num::NonZeroUsize;
use std::sync::Arc;

use clap::ValueEnum;
use tidegate::rt::{Job, Offload, Place, Priority, Rejected, ThreadPool, Ticket};

use crate::setup::Executor;
use crate::{Stage, Storm, Way};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Parse {
    /// Not at all.
    None,
    /// On the fetch thread.
    Inline,
    /// Tokio's `spawn_blocking`, smol's `unblock`.
    Blocking,
    /// One thread at the same priority.
    Thread,
    /// Rayon's global pool: a thread a core.
    Rayon,
    /// One thread at the lower priority that tidegate's pool has by default.
    Niced,
    /// One thread at the lowest.
    Lowest,
}

impl Parse {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Inline => "inline",
            Self::Blocking => "blocking",
            Self::Thread => "thread",
            Self::Rayon => "rayon",
            Self::Niced => "niced",
            Self::Lowest => "lowest",
        }
    }

    /// Parsing of one run.
    pub(crate) fn stage(self, way: Way, executor: &Executor, storm: &Storm) -> Stage {
        let work = Arc::clone(&storm.work);
        // A task that finds no room has nowhere to wait.
        let queue = if way == Way::Tasks { storm.pages.get() as usize } else { 1 };
        let one = || ThreadPool::new(NonZeroUsize::MIN).with_queue(queue);
        let offload: Arc<dyn Offload> = match self {
            Self::None => return Stage::None,
            Self::Inline => return Stage::Inline(work),
            Self::Blocking => Arc::new(Blocking(executor.tokio().cloned())),
            Self::Thread => Arc::new(one().with_priority(Priority::Same)),
            Self::Rayon => Arc::new(Rayon),
            Self::Niced => Arc::new(one()),
            Self::Lowest => Arc::new(one().with_priority(Priority::Lowest)),
        };
        Stage::Offload(offload, work)
    }
}

/// The pool of blocking threads that comes with the runtime: Tokio's, or that of the `blocking` crate.
struct Blocking(Option<tokio::runtime::Handle>);

impl Offload for Blocking {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        match &self.0 {
            Some(tokio) => drop(tokio.spawn_blocking(job)),
            None => blocking::unblock(job).detach(),
        }
        Ok(Ticket(0))
    }

    fn capacity(&self) -> NonZeroUsize {
        // As many threads as both of them have by default, about.
        NonZeroUsize::MIN.saturating_add(499)
    }

    fn place(&self) -> Place {
        Place::Offload
    }

    fn give_up(&self, _: Ticket) -> bool {
        false
    }
}

struct Rayon;

impl Offload for Rayon {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        rayon::spawn(job);
        Ok(Ticket(0))
    }

    fn capacity(&self) -> NonZeroUsize {
        // Twice the threads, as tidegate's own pool.
        NonZeroUsize::MIN.saturating_add(2 * rayon::current_num_threads() - 1)
    }

    fn place(&self) -> Place {
        Place::Offload
    }

    fn give_up(&self, _: Ticket) -> bool {
        false
    }
}
