//! [`StdHarness`]: the harness of runtimes on threads and sockets of the system.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use super::harness::block_on;
use super::{Capabilities, Harness};
use crate::rt::{Runtime, inline};

type Drive = dyn for<'a> Fn(Pin<&'a mut (dyn Future<Output = ()> + 'a)>) + Send + Sync;

/// The harness of a runtime on threads and sockets of the system.
///
/// By itself it is for a runtime that has threads of its own and ends with its last clone; the rest is said:
///
/// ```
/// use tidegate::conformance::StdHarness;
///
/// fn several_threads(runtime: tidegate::rt::Runtime) -> StdHarness {
///     StdHarness::new(runtime).lacking(|capabilities| capabilities.one_thread = false)
/// }
/// ```
pub struct StdHarness {
    runtime: Mutex<Option<Runtime>>,
    capabilities: Capabilities,
    drive: Option<Box<Drive>>,
    end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl StdHarness {
    /// A harness of `runtime`, which has all [capabilities](Capabilities).
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime: Mutex::new(Some(runtime)),
            capabilities: Capabilities::all(),
            drive: None,
            end: Mutex::default(),
        }
    }

    /// A harness of the tasks of [`inline`] over `runtime`, which end when it does. `drive` runs a future to its end.
    ///
    /// ```
    /// # use tidegate::conformance::StdHarness;
    /// # fn harness(runtime: tidegate::rt::Runtime) -> StdHarness {
    /// StdHarness::inline(runtime, |future| futures::executor::block_on(future))
    /// # }
    /// ```
    pub fn inline(
        runtime: Runtime,
        drive: impl for<'a> Fn(Pin<&'a mut (dyn Future<Output = ()> + 'a)>) + Send + Sync + 'static,
    ) -> Self {
        let (runtime, tasks) = inline(runtime);
        let tasks = Arc::new(Mutex::new(Some(tasks)));
        let runs = Arc::clone(&tasks);
        Self::new(runtime)
            .driven_by(move |future| {
                // A case that fails panics in here.
                let mut tasks = runs.lock().unwrap_or_else(PoisonError::into_inner);
                drive(pin!(tasks.as_mut().expect("they have not ended").run(future)));
            })
            .ended_by(move || drop(tasks.lock().unwrap_or_else(PoisonError::into_inner).take()))
    }

    /// Takes capabilities away.
    #[must_use]
    pub fn lacking(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }

    /// How a future is run, where that is what drives the tasks too. It is called until the runtime ends.
    ///
    /// ```
    /// # use tidegate::conformance::StdHarness;
    /// # fn harness(runtime: tidegate::rt::Runtime) -> StdHarness {
    /// StdHarness::new(runtime).driven_by(|future| futures::executor::block_on(future))
    /// # }
    /// ```
    #[must_use]
    pub fn driven_by(
        mut self,
        drive: impl for<'a> Fn(Pin<&'a mut (dyn Future<Output = ()> + 'a)>) + Send + Sync + 'static,
    ) -> Self {
        self.drive = Some(Box::new(drive));
        self
    }

    /// What ends the runtime, where its last clone does not: takes the capability [`owned`](Capabilities::owned).
    #[must_use]
    pub fn ended_by(mut self, end: impl FnOnce() + Send + 'static) -> Self {
        self.capabilities.owned = false;
        self.end = Mutex::new(Some(Box::new(end)));
        self
    }
}

impl Harness for StdHarness {
    fn runtime(&self) -> Runtime {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.clone().expect("no case asks for a runtime that it has ended")
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let is_ended = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let Some(drive) = self.drive.as_ref().filter(|_| !is_ended) else { return block_on(future) };
        let mut output = None;
        drive(pin!(async { output = Some(future.await) }));
        output.expect("the future is run to its end")
    }

    fn end(&self) {
        // Dropped outside of the locks: either may run destructors of tasks.
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(runtime);
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            end();
        }
    }
}

impl std::fmt::Debug for StdHarness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdHarness").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}
