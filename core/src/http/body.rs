//! Reading a body: into memory, or into a file beside its target that is renamed at the end.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use futures::channel::oneshot;

use super::wire::Wire;
use crate::rt::{Offload, PhaseTimer, ThreadPool};
use crate::time::later;
use crate::{Error, ErrorKind, FetchCx, Limits};

/// Bytes that are booked at a time at most, and written to a file.
const STEP: u64 = 64 << 10;

/// Bytes that are booked at a time at first: bodies that drip are many, and must not spend the budget (A9).
const FIRST_STEP: u64 = 1 << 10;

/// The beginning of a body.
pub(super) struct Start {
    /// Its length, where that is known.
    pub(super) length: Option<u64>,
    /// What came with the head.
    pub(super) early: Vec<u8>,
}

/// Reads the body of the answer that `wire` is in the middle of; for a file the result is empty.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(super) fn read<'a>(
    wire: &'a mut Wire,
    start: Start,
    mut file: Option<&'a mut SaveTo>,
    limits: &'a Limits,
    cx: &'a FetchCx,
) -> impl Future<Output = Result<(Bytes, u64), Error>> + Send + 'a {
    async move {
        let over = |what: String| Error::new(ErrorKind::BodyTooLarge, format!("read a body of {what}"));
        let Start { length, early: mut kept } = start;
        if let Some(length) = length.filter(|length| *length > limits.body_wire) {
            return Err(over(format!("{length} bytes, more than {}", limits.body_wire)));
        }
        let (mut total, mut booked) = (0, 0);
        let mut timer: Option<PhaseTimer> = None;
        let mut came = kept.len();
        loop {
            total += came as u64;
            if total > limits.body_wire {
                return Err(over(format!("more than {} bytes", limits.body_wire)));
            }
            if let Some(file) = file.as_deref_mut() {
                if booked == 0 && total > 0 {
                    // No more of it is in memory at a time.
                    cx.book(STEP).await;
                    booked = STEP;
                }
                if kept.len() as u64 >= STEP {
                    // Boxed, as bodies that go to a file are rare.
                    Box::pin(file.write(std::mem::take(&mut kept).into())).await?;
                }
            } else if total > booked {
                let more = (total - booked).next_multiple_of(booked.clamp(FIRST_STEP, STEP));
                cx.book(more).await;
                booked += more;
            }
            // What was waited for since these bytes came is no time of the server's.
            if let Some(timer) = timer.as_mut() {
                timer.reset(later(cx.moment(), limits.deadlines.idle));
            }
            if came > 0 && !wire.has_ended() && cx.slice_is_over() {
                cx.yield_now().await;
            }
            let next = std::future::poll_fn(|task| {
                if let Poll::Ready(data) = wire.poll_body(task, &mut kept) {
                    return Poll::Ready(data.transpose());
                }
                let limit = limits.deadlines.idle;
                ready!(cx.poll_deadline(timer.get_or_insert_with(|| cx.deadline(limit)), task));
                let attempted = format!("receive more of the body within {limit:?}");
                Poll::Ready(Err(Error::new(ErrorKind::TimeoutIdle, attempted)))
            });
            let Some(more) = next.await? else { break };
            came = more;
        }
        if let Some(file) = file {
            Box::pin(file.write(std::mem::take(&mut kept).into())).await?;
        }
        Ok((kept.into(), total))
    }
}

/// A file that is being written by a thread of the fetcher's own; removed unless [`finish`](Self::finish) was reached.
pub(super) struct SaveTo {
    writers: Arc<ThreadPool>,
    target: PathBuf,
    temporary: PathBuf,
    file: Option<Arc<File>>,
}

impl SaveTo {
    /// Makes an empty file beside `target`; `number` tells those of this process apart.
    pub(super) async fn create(writers: &Arc<ThreadPool>, target: &Path, number: u64) -> Result<Self, Error> {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}-{number}.part", std::process::id()));
        let temporary = target.with_file_name(name);
        let path = temporary.clone();
        let create = move || OpenOptions::new().write(true).create_new(true).open(path);
        // Before anything is waited for, so that a fetch that is dropped meanwhile leaves no file.
        let mut guard = Self { writers: Arc::clone(writers), target: target.to_owned(), temporary, file: None };
        match run(writers, target, "create a file beside", create).await {
            Ok(file) => guard.file = Some(Arc::new(file)),
            Err(e) => {
                // There is none of ours.
                guard.temporary = PathBuf::new();
                return Err(e);
            }
        }
        Ok(guard)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some(file) = self.file.clone().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        run(&self.writers, &self.target, "write the body for", move || (&*file).write_all(&bytes)).await
    }

    /// Gives the file its name.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.file = None;
        let (from, to) = (std::mem::take(&mut self.temporary), self.target.clone());
        let rename = move || {
            std::fs::rename(&from, to).inspect_err(|_| {
                let _ = std::fs::remove_file(&from);
            })
        };
        run(&self.writers, &self.target, "rename the body to", rename).await
    }
}

impl Drop for SaveTo {
    fn drop(&mut self) {
        let temporary = std::mem::take(&mut self.temporary);
        if temporary.as_os_str().is_empty() {
            return;
        }
        let remove = Box::new(move || {
            let _ = std::fs::remove_file(temporary);
        });
        // After what is queued, which may make the file yet. Where there is no room it is done here.
        if let Err(rejected) = self.writers.submit(remove) {
            (rejected.0)();
        }
    }
}

async fn run<T: Send + 'static>(
    writers: &ThreadPool,
    target: &Path,
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let attempted = || format!("{what} {}", target.display());
    let (sender, receiver) = oneshot::channel();
    let job = Box::new(move || {
        let _ = sender.send(work());
    });
    writers
        .submit(job)
        .map_err(|_| Error::new(ErrorKind::LocalResource, format!("{}: too many writes wait", attempted())))?;
    let result = receiver.await.map_err(|e| Error::new(ErrorKind::Other, attempted()).with_source(e))?;
    result.map_err(|e| Error::new(ErrorKind::Other, attempted()).with_source(e))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use super::*;

    // H10
    #[test]
    fn a_file_that_nobody_waits_for_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let writers = Arc::new(ThreadPool::new(NonZeroUsize::MIN).with_queue(9));
        let (go, wait) = mpsc::channel::<()>();
        writers.submit(Box::new(move || wait.recv().expect("told to go"))).expect("room");
        {
            let target = directory.path().join("page");
            let mut creating = std::pin::pin!(SaveTo::create(&writers, &target, 1));
            assert!(creating.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let (done, is_done) = mpsc::channel();
        go.send(()).expect("the thread waits");
        writers.submit(Box::new(move || done.send(()).expect("waited for"))).expect("room");
        is_done.recv().expect("all before it ran");
        let left: Vec<_> = std::fs::read_dir(directory.path()).expect("exists").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
