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
    Running(Mutex<std::sync::mpsc::Sender<Message>>),
}

struct Message {
    work: Work,
    done: oneshot::Sender<std::io::Result<()>>,
}

enum Work {
    Write(Vec<u8>),
    /// Flush the writer and drop it: some write their end only then.
    End,
}

/// A sink that writes the item of each delivery as a line of JSON; a batch is acknowledged once it is written and
/// flushed. A thread does the writing; it starts with the first batch and ends with the sink. Closing waits until the
/// writer was flushed and dropped there: a compressor writes its end when it is dropped.
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
    fn sender(&mut self) -> Result<&Mutex<std::sync::mpsc::Sender<Message>>, SinkError> {
        if let State::Idle(writer) = &mut self.state {
            let Some(writer) = writer.take() else {
                return Err(SinkError::fatal("the writer thread did not start"));
            };
            // At most one message is under way: the sink waits for its acknowledgement.
            let (sender, receiver) = std::sync::mpsc::channel();
            thread::Builder::new()
                .name("tidegate-jsonl".into())
                .spawn(move || write(writer, &receiver))
                .map_err(SinkError::fatal)?;
            self.state = State::Running(Mutex::new(sender));
        }
        match &self.state {
            State::Running(sender) => Ok(sender),
            State::Idle(_) => Err(SinkError::fatal("the writer thread did not start")),
        }
    }

    async fn run(&mut self, work: Work) -> Result<(), SinkError> {
        let (done, result) = oneshot::channel();
        self.sender()?
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .send(Message { work, done })
            .map_err(|_| SinkError::fatal("the writer thread has ended"))?;
        result.await.map_err(SinkError::fatal)?.map_err(SinkError::fatal)
    }
}

/// The life of the thread.
fn write(mut writer: Box<dyn Write + Send>, messages: &std::sync::mpsc::Receiver<Message>) {
    for Message { work, done } in messages {
        let result = match work {
            Work::Write(bytes) => writer.write_all(&bytes).and_then(|()| writer.flush()),
            Work::End => {
                let result = writer.flush();
                drop(writer);
                let _ = done.send(result);
                return;
            }
        };
        let _ = done.send(result);
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
            self.run(Work::Write(bytes)).await?;
        }
        for _ in 0..taken {
            batch.pop();
        }
        rejected.map_or(Ok(()), Err)
    }

    async fn close(&mut self, _why: Close) -> Result<(), SinkError> {
        if matches!(self.state, State::Idle(None)) {
            return Ok(());
        }
        let ended = self.run(Work::End).await;
        self.state = State::Idle(None);
        ended
    }
}

impl std::fmt::Debug for Jsonl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jsonl").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::executor::block_on;

    use super::*;

    /// Writes its end when it is dropped, after a while, as a compressor on a slow disk does.
    struct Compressor {
        written: Arc<Mutex<Vec<String>>>,
        flushes_left: usize,
    }

    impl Compressor {
        fn push(&self, text: &str) {
            self.written.lock().expect("no panic").push(format!("{text} {:?}", thread::current().name()));
        }
    }

    impl Write for Compressor {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.push("bytes");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.flushes_left = self.flushes_left.checked_sub(1).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }

    impl Drop for Compressor {
        fn drop(&mut self) {
            (0..1000).for_each(|_| thread::yield_now());
            self.push("end");
        }
    }

    fn sink(flushes_left: usize) -> (Jsonl, Arc<Mutex<Vec<String>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        (jsonl(Compressor { written: Arc::clone(&written), flushes_left }), written)
    }

    fn close(sink: &mut Jsonl) -> Result<(), SinkError> {
        block_on(Sink::<u32>::close(sink, Close::Done))
    }

    #[test]
    fn close_waits_until_the_writer_is_dropped_on_its_thread() {
        let (mut sink, written) = sink(2);
        block_on(sink.run(Work::Write(b"1\n".to_vec()))).expect("it takes bytes");
        close(&mut sink).expect("it ends");
        let name = r#"Some("tidegate-jsonl")"#;
        assert_eq!(*written.lock().expect("no panic"), [format!("bytes {name}"), format!("end {name}")]);
        close(&mut sink).expect("there is nothing left to do");
    }

    #[test]
    fn close_without_a_batch_ends_the_writer_as_well() {
        let (mut sink, written) = sink(1);
        close(&mut sink).expect("it ends");
        assert_eq!(written.lock().expect("no panic").len(), 1);
    }

    #[test]
    fn close_tells_what_the_last_flush_says() {
        let (mut sink, _) = sink(1);
        block_on(sink.run(Work::Write(b"1\n".to_vec()))).expect("it takes bytes");
        assert!(close(&mut sink).is_err());
    }
}
