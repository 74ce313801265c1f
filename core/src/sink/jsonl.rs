//! JSON lines to a writer, written by a thread of its own so that a slow disk or pipe never blocks the loop.

use std::io::Write;
use std::sync::Mutex;
use std::thread;

use async_trait::async_trait;
use futures::channel::oneshot;
use serde::Serialize;

use super::{Batch, Close, Sink, SinkError};

/// Writes one JSON object a line. See [`jsonl`].
pub struct Jsonl {
    state: State,
}

enum State {
    Idle(Option<Box<dyn Write + Send>>),
    Running(Mutex<std::sync::mpsc::Sender<Lines>>),
}

struct Lines {
    bytes: Vec<u8>,
    written: oneshot::Sender<std::io::Result<()>>,
}

/// A sink that writes the item of each delivery as a line of JSON; a batch is acknowledged once it is written and
/// flushed. A thread does the writing; it starts with the first batch and ends with the sink.
///
/// An item that cannot be serialised is rejected; an I/O error is fatal.
///
/// ```
/// let sink = tidegate::sink::jsonl(Vec::new());
/// ```
pub fn jsonl(writer: impl Write + Send + 'static) -> Jsonl {
    Jsonl { state: State::Idle(Some(Box::new(writer))) }
}

/// As [`jsonl`], to standard output.
///
/// ```
/// let sink = tidegate::sink::jsonl_stdout();
/// ```
pub fn jsonl_stdout() -> Jsonl {
    jsonl(std::io::stdout())
}

impl Jsonl {
    fn sender(&mut self) -> Result<&Mutex<std::sync::mpsc::Sender<Lines>>, SinkError> {
        if let State::Idle(writer) = &mut self.state {
            let Some(mut writer) = writer.take() else {
                return Err(SinkError::fatal("the writer thread did not start"));
            };
            // At most one batch is under way: the sink waits for its acknowledgement.
            let (sender, receiver) = std::sync::mpsc::channel::<Lines>();
            thread::Builder::new()
                .name("tidegate-jsonl".into())
                .spawn(move || {
                    for lines in receiver {
                        let result = writer.write_all(&lines.bytes).and_then(|()| writer.flush());
                        let _ = lines.written.send(result);
                    }
                })
                .map_err(SinkError::fatal)?;
            self.state = State::Running(Mutex::new(sender));
        }
        match &self.state {
            State::Running(sender) => Ok(sender),
            State::Idle(_) => Err(SinkError::fatal("the writer thread did not start")),
        }
    }
}

#[async_trait]
impl<T: Serialize + Send + 'static> Sink<T> for Jsonl {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        let mut bytes = Vec::new();
        let mut taken = 0;
        let mut rejected = None;
        for delivery in batch.iter() {
            let mark = bytes.len();
            if let Err(error) = serde_json::to_writer(&mut bytes, &delivery.item) {
                bytes.truncate(mark);
                rejected = Some(SinkError::reject(error));
                break;
            }
            bytes.push(b'\n');
            taken += 1;
        }
        if taken > 0 {
            let (written, done) = oneshot::channel();
            self.sender()?
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .send(Lines { bytes, written })
                .map_err(|_| SinkError::fatal("the writer thread has ended"))?;
            done.await.map_err(SinkError::fatal)?.map_err(SinkError::fatal)?;
        }
        for _ in 0..taken {
            batch.pop();
        }
        rejected.map_or(Ok(()), Err)
    }

    async fn close(&mut self, _why: Close) -> Result<(), SinkError> {
        self.state = State::Idle(None);
        Ok(())
    }
}

impl std::fmt::Debug for Jsonl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jsonl").finish_non_exhaustive()
    }
}
