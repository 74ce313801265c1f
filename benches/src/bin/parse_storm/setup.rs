//! The executors that are compared.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, mpsc};
use std::thread;

use clap::ValueEnum;
use tidegate::rt::Runtime;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Tokio,
    Smol,
}

impl Name {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Setup {
    /// The adapter's own: `dedicated()`.
    Dedicated,
    /// One thread, built as anybody would: no interval and no priority is set.
    Plain,
    /// What an embedder has: Tokio's multi-threaded runtime, an executor driven as smol drives its global one.
    Default,
}

impl Setup {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "dedicated",
            Self::Plain => "plain",
            Self::Default => "default",
        }
    }
}

/// A runtime with what keeps it up, and what its peers need of it.
pub(crate) struct Executor {
    runtime: Runtime,
    tokio: Option<Handle>,
    /// Dropped to end a thread of our own.
    _stop: Option<oneshot::Sender<()>>,
    _multi_thread: Option<tokio::runtime::Runtime>,
}

impl Executor {
    pub(crate) fn start(name: Name, setup: Setup) -> Result<Self, Failure> {
        let (stop, stopped) = oneshot::channel::<()>();
        Ok(match (name, setup) {
            (Name::Tokio, Setup::Dedicated) => {
                let runtime = tidegate_tokio::dedicated()?;
                let (sender, receiver) = mpsc::channel();
                runtime.spawn(async move {
                    // The receiver waits below.
                    let _ = sender.send(Handle::current());
                });
                let tokio = receiver.recv()?;
                Self { runtime, tokio: Some(tokio), _stop: None, _multi_thread: None }
            }
            (Name::Tokio, Setup::Plain) => {
                let tokio = Builder::new_current_thread().enable_all().build()?;
                let handle = tokio.handle().clone();
                thread::Builder::new().name("plain".into()).spawn(move || {
                    // Ends when the sender is dropped.
                    let _ = tokio.block_on(stopped);
                    tokio.shutdown_background();
                })?;
                let runtime = tidegate_tokio::from_handle(handle.clone());
                Self { runtime, tokio: Some(handle), _stop: Some(stop), _multi_thread: None }
            }
            (Name::Tokio, Setup::Default) => {
                let tokio = Builder::new_multi_thread().enable_all().build()?;
                let handle = tokio.handle().clone();
                let runtime = tidegate_tokio::from_handle(handle.clone());
                Self { runtime, tokio: Some(handle), _stop: None, _multi_thread: Some(tokio) }
            }
            (Name::Smol, Setup::Dedicated) => {
                Self { runtime: tidegate_smol::dedicated()?, tokio: None, _stop: None, _multi_thread: None }
            }
            // The global executor of smol is one thread that runs this, unless the environment says otherwise.
            (Name::Smol, Setup::Plain | Setup::Default) => {
                let executor = Arc::new(async_executor::Executor::new());
                let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN)?;
                thread::Builder::new().name("plain".into()).spawn(move || {
                    // Ends when the sender is dropped.
                    let _ = async_io::block_on(executor.run(stopped));
                })?;
                Self { runtime, tokio: None, _stop: Some(stop), _multi_thread: None }
            }
        })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn tokio(&self) -> Option<&Handle> {
        self.tokio.as_ref()
    }

    /// What a peer spawns with: on Tokio under its cooperative budget.
    pub(crate) fn spawner(&self) -> Spawner {
        Spawner { runtime: self.runtime.clone(), tokio: self.tokio.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Spawner {
    pub(crate) runtime: Runtime,
    tokio: Option<Handle>,
}

impl Spawner {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.tokio {
            Some(tokio) => drop(tokio.spawn(task)),
            None => self.runtime.spawn(task),
        }
    }
}
