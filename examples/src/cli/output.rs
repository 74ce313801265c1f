//! Where records and statistics go, opened before the run; and the sink that hands outcomes to a writing thread.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::channel::oneshot;
use serde::Serialize;
use tidegate::{Batch, Delivery, Settled, Sink, SinkError};

use super::Failure;
use super::args::Common;
use super::input::plain;
use super::values::Place;

/// Bytes of records that are written at a time.
const CHUNK: usize = 64 << 10;

/// A file or stream that was opened, and its name for messages.
pub(super) struct Output {
    writer: Box<dyn Write + Send>,
    name: String,
    is_terminal: bool,
}

/// All that a run writes.
pub(super) struct Outputs {
    pub(super) records: Option<Output>,
    pub(super) stats: Option<Output>,
    pub(super) trace: Option<Output>,
}

impl Outputs {
    /// Opens what the options name. Records go to standard output by default, or nowhere with `--demo`.
    pub(super) fn open(common: &Common, demo: bool) -> Result<Self, Failure> {
        let out = common.out.clone().or_else(|| (!demo).then_some(Place::Std));
        let places = [("--out", &out), ("--stats", &common.stats), ("--trace", &common.trace)];
        for (at, (one, place)) in places.iter().enumerate() {
            let Some((other, _)) = places[at + 1..].iter().find(|(_, other)| place.is_some() && other == place) else {
                continue;
            };
            let name = if **place == Some(Place::Std) { "standard output" } else { "the same file" };
            return Err(Failure::usage(format!("{one} and {other} both go to {name}: give one of them another file")));
        }
        let keeps = matches!(common.trace, Some(Place::File(_)));
        let records = match out {
            None if (common.append || common.force) && !keeps => {
                return Err(Failure::usage("--append and --force need --out FILE or --trace FILE"));
            }
            None => None,
            Some(Place::Std) => Some(Output::stdout()),
            Some(Place::File(path)) => Some(Output::kept(&path, common)?),
        };
        let stats = match &common.stats {
            None => None,
            Some(Place::Std) => Some(Output::stdout()),
            Some(Place::File(path)) => Some(Output::file(path, OpenOptions::new().create(true).truncate(true))?),
        };
        let trace = match &common.trace {
            None => None,
            Some(Place::Std) => Some(Output::stdout()),
            Some(Place::File(path)) => Some(Output::kept(path, common)?),
        };
        Ok(Self { records, stats, trace })
    }
}

impl Output {
    fn stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { writer: Box::new(io::stdout()), name: "standard output".into(), is_terminal }
    }

    /// A file that is left alone where it exists, unless told otherwise.
    fn kept(path: &std::path::Path, common: &Common) -> Result<Self, Failure> {
        // Devices and pipes have nothing that could be lost.
        let is_device = path.metadata().is_ok_and(|data| !data.is_file() && !data.is_dir());
        let mut options = OpenOptions::new();
        if common.append {
            options.create(true).append(true);
        } else if common.force || is_device {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        Self::file(path, &mut options)
    }

    fn file(path: &std::path::Path, options: &mut OpenOptions) -> Result<Self, Failure> {
        let name = path.display().to_string();
        match options.write(true).open(path) {
            Ok(file) => Ok(Self { writer: Box::new(file), name, is_terminal: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failure::usage(format!("{name} exists: give --append or --force")))
            }
            Err(error) => Err(Failure::usage(format!("cannot write {name}: {}", plain(&error)))),
        }
    }

    /// Whether somebody reads along, so that a line of progress would be in the way.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes these bytes, and sees to it that they are seen.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.writer.write_all(bytes).and_then(|()| self.writer.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => WriteError::Closed,
            _ => WriteError::Failed(format!("cannot write {}: {}", self.name, plain(&error))),
        })
    }

    /// Writes one object as a line. A reader that has gone is no error.
    pub(super) fn write_json(mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).map_err(|error| Failure::run(format!("cannot serialise: {error}")))?;
        line.push(b'\n');
        match self.writer.write_all(&line).and_then(|()| self.writer.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::run(format!("cannot write {}: {}", self.name, plain(&error))))
            }
            _ => Ok(()),
        }
    }
}

/// Turns an outcome into a line, on the writing thread. Nothing: no line, as where records go nowhere.
pub(super) type Render = Box<dyn FnMut(&Delivery<Settled>, &mut Vec<u8>) -> serde_json::Result<()> + Send>;

/// How writing went, for the end of the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Arc<Mutex<Option<WriteError>>>);

#[derive(Clone, Debug)]
pub(super) enum WriteError {
    /// Nobody reads any more.
    Closed,
    /// Everything else, in words.
    Failed(String),
}

impl Written {
    pub(super) fn error(&self) -> Option<WriteError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: WriteError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// A sink that acknowledges outcomes when their lines are written. Rendering and writing are a thread's, so that neither
/// a large body nor a slow disk or pipe holds up the loop.
#[derive(Debug)]
pub(super) struct RecordSink {
    /// At most one lot is under way: the sink waits for its acknowledgement.
    lots: mpsc::Sender<Lot>,
}

struct Lot {
    deliveries: Vec<Delivery<Settled>>,
    written: oneshot::Sender<bool>,
}

impl RecordSink {
    /// Starts the thread. Where `output` is nothing, outcomes are rendered and dropped.
    pub(super) fn start(output: Option<Output>, render: Render) -> Result<(Self, Written), Failure> {
        let (lots, receiver) = mpsc::channel::<Lot>();
        let written = Written::default();
        let mut writer = Writer { output, render, written: written.clone(), buffer: Vec::new() };
        std::thread::Builder::new()
            .name("tidegate-output".into())
            .spawn(move || {
                for lot in receiver {
                    let went_well = writer.write(lot.deliveries);
                    let _ = lot.written.send(went_well);
                }
            })
            .map_err(|error| Failure::run(format!("cannot start a thread: {error}")))?;
        Ok((Self { lots }, written))
    }
}

struct Writer {
    output: Option<Output>,
    render: Render,
    written: Written,
    buffer: Vec<u8>,
}

impl Writer {
    fn write(&mut self, deliveries: Vec<Delivery<Settled>>) -> bool {
        for delivery in deliveries {
            if let Err(error) = (self.render)(&delivery, &mut self.buffer) {
                self.written.set(WriteError::Failed(format!("cannot serialise a record: {error}")));
                return false;
            }
            if self.buffer.len() >= CHUNK && !self.flush() {
                return false;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> bool {
        let result = match &mut self.output {
            Some(output) => output.write(&self.buffer),
            None => Ok(()),
        };
        self.buffer.clear();
        // One large body does not stay for the rest of the run.
        self.buffer.shrink_to(2 * CHUNK);
        let Err(error) = result else { return true };
        self.written.set(error);
        false
    }
}

#[async_trait]
impl Sink<Settled> for RecordSink {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        // Taken out here, but acknowledged only by returning.
        let deliveries = batch.drain().collect();
        let (written, done) = oneshot::channel();
        self.lots.send(Lot { deliveries, written }).map_err(|_| SinkError::fatal("the writing thread has ended"))?;
        match done.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(SinkError::fatal("records cannot be written")),
            Err(_) => Err(SinkError::fatal("the writing thread has ended")),
        }
    }
}

/// Appends `record` as a line.
pub(super) fn line(record: &impl Serialize, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *buffer, record)?;
    buffer.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_left_alone_unless_told_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, "old\n").expect("written");
        let open = |options: &[&str]| {
            use clap::Parser as _;
            let path = path.to_str().expect("text");
            let args =
                ["tidegate", "fetch", "http://a.test/", "--out", path].into_iter().chain(options.iter().copied());
            let super::super::args::Command::Fetch(args) = super::super::args::Cli::parse_from(args).command else {
                unreachable!("fetch was asked for")
            };
            Outputs::open(&args.common, false).map(drop)
        };
        let refused = open(&[]).expect_err("it exists");
        assert_eq!((refused.code, refused.message.ends_with("exists: give --append or --force")), (2, true));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old\n");
        open(&["--append"]).expect("appends");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old\n");
        open(&["--force"]).expect("replaces");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "");
    }
}
