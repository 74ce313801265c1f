//! As everybody does it: bare hyper, a task a fetch and a task a connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;
use futures::channel::oneshot;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use tidegate_benches::Ticker;

use crate::setup::{Executor, Spawner};
use crate::{Failure, Run, Stage, Storm};

type Sender = SendRequest<Empty<Bytes>>;

/// What the tasks of a round share.
struct Round {
    spawner: Spawner,
    addr: SocketAddr,
    stage: Stage,
    left: AtomicUsize,
    failed: AtomicU64,
    senders: Mutex<Vec<Sender>>,
    /// One message for all, so that the waiting thread does not compete for the core.
    done: mpsc::Sender<()>,
}

/// Runs the storm under the eyes of a ticker, and asks for all pages once more over the same connections, unparsed.
pub(crate) fn run(executor: &Executor, storm: &Storm, stage: Stage) -> Result<Run, Failure> {
    let pages = storm.pages.get() as usize;
    let runtime = executor.runtime();
    let round = |stage| {
        let (done, is_done) = mpsc::channel();
        let round = Round {
            spawner: executor.spawner(),
            addr: storm.addr,
            stage,
            left: AtomicUsize::new(pages),
            failed: AtomicU64::new(0),
            senders: Mutex::default(),
            done,
        };
        (Arc::new(round), is_done)
    };
    let (first, is_done) = round(stage);
    let path = if storm.gate { "/gate" } else { "/page" };
    let started = runtime.now();
    let ticker = Ticker::start(runtime);
    begin(&first, pages, path, Vec::new());
    is_done.recv()?;
    let seconds = runtime.now().saturating_duration_since(started).as_secs_f64();
    let lateness = ticker.stop()?;
    let (second, is_done) = round(Stage::None);
    let senders = std::mem::take(&mut *first.senders.lock().unwrap_or_else(PoisonError::into_inner));
    begin(&second, pages, "/page", senders);
    is_done.recv()?;
    Ok(Run { lateness, seconds, failed: first.failed.load(Ordering::Relaxed), connections: Box::new(second) })
}

/// Spawns all tasks from one of the executor's own.
fn begin(round: &Arc<Round>, pages: usize, path: &'static str, senders: Vec<Sender>) {
    let round = Arc::clone(round);
    let mut senders = senders.into_iter();
    round.spawner.clone().spawn(async move {
        for number in 0..pages {
            let (round, parked) = (Arc::clone(&round), senders.next());
            round.spawner.clone().spawn(async move {
                if page(&round, format!("{path}/{number}"), parked).await.is_err() {
                    round.failed.fetch_add(1, Ordering::Relaxed);
                }
                if round.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    // The receiver waits.
                    let _ = round.done.send(());
                }
            });
        }
    });
}

async fn page(round: &Arc<Round>, path: String, parked: Option<Sender>) -> Result<(), Failure> {
    let mut sender = match parked {
        Some(parked) if !parked.is_closed() => parked,
        _ => connect(round).await?,
    };
    sender.ready().await?;
    let request = http::Request::get(path).header("host", "load").body(Empty::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    round.senders.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    match &round.stage {
        Stage::None => {}
        Stage::Inline(work) => work.parse(&body),
        Stage::Offload(offload, work) => {
            let (done, is_done) = oneshot::channel();
            let work = Arc::clone(work);
            let job = Box::new(move || {
                work.parse(&body);
                // Whoever asked waits.
                let _ = done.send(());
            });
            offload.submit(job).map_err(|_| "the pool is full")?;
            is_done.await?;
        }
    }
    Ok(())
}

async fn connect(round: &Round) -> Result<Sender, Failure> {
    let connection = round.spawner.runtime.tcp().connect(round.addr, &Default::default()).await?;
    let (sender, driver) = http1::handshake(connection.io).await?;
    round.spawner.spawn(async move {
        // The request on it is told the same.
        let _ = driver.await;
    });
    Ok(sender)
}
