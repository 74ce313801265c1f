//! Extracts a shop: every product with its category and all its reviews, as JSON lines.
//!
//! One file, to be copied. It shows what a real extraction needs beyond a selector:
//!
//! * a parser for each type of page, chosen by the **label** of the request, and one item type for all of them;
//! * **data** that travels with a request: a listing tells the product its category, a product tells its reviews whose
//!   they are;
//! * answers that are not what they seem: a 410 is data here, a "please wait" page with status 200 is not a product;
//! * a **store** that acknowledges what is on disk and nothing else, and that may be given an item twice;
//! * the URLs that **failed**, with all that is needed to try them again: `--replay FILE`;
//! * Ctrl-C, which finishes what is in flight; what was not fetched is in the file of failures as well.
//!
//! ```text
//! catalogue --demo --out products.jsonl --failed failed.jsonl
//! catalogue --user-agent 'shop-bot/1.0 (+mailto:me@example.org)' --out products.jsonl https://shop.example/catalogue/
//! catalogue --user-agent '...' --out products.jsonl --failed again.jsonl --replay failed.jsonl
//! ```

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use clap::{Parser, ValueEnum};
use futures::channel::oneshot;
use futures::executor::block_on;
use http::{HeaderName, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate::rt::Runtime;
use tidegate::{
    Accept, Batch, Builder, Crawl, Handle, Head, Outcome, Output, Page, ParseError, Request, Settled, Shutdown, Sink,
    SinkError, accepting,
};
use tidegate_examples::demo::{DemoOptions, DemoSite};
use tidegate_parse::{css, embedded_json, html, json, json_ld};

// The items.

/// All that the crawl brings: one type, so that one store takes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Item {
    /// A product, alive or discontinued.
    Product(Product),
    /// One review of a product.
    Review(Review),
}

/// A product. One that is discontinued has a stock keeping unit and a category, nothing else.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Product {
    sku: String,
    category: String,
    discontinued: bool,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What the shop says about a product that it sells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Details {
    name: String,
    description: String,
    price: String,
    currency: String,
}

/// A review, and what it is about.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Review {
    sku: String,
    id: String,
    author: String,
    rating: u8,
    text: String,
}

// What travels with a request. It is JSON of at most 4 KiB, so it survives a disk and another process.

#[derive(Serialize, Deserialize)]
struct Listed {
    category: String,
}

#[derive(Serialize, Deserialize)]
struct ReviewsOf {
    sku: String,
    page: u32,
}

// The parsers: plain functions of a page, tested without a network by `tidegate::parse_once`. `?` works on everything.

/// The home of the catalogue: links to the categories.
fn home(page: &Page, out: &mut Output<Item>) -> Result<(), ParseError> {
    for category in html(page)?.links(css!("ul.categories a")) {
        out.follow(category.with_label("listing"));
    }
    Ok(())
}

/// A page of a category: links to its products, and to the next page.
fn listing(page: &Page, out: &mut Output<Item>) -> Result<(), ParseError> {
    let doc = html(page)?;
    let category = doc.text(css!("h1"))?;
    for product in doc.links(css!("li.product > a")) {
        out.follow(product.with_label("product").with_data(&Listed { category: category.clone() })?);
    }
    for next in doc.links(css!("a.next")) {
        out.follow(next.with_label("listing"));
    }
    Ok(())
}

/// Which answers the parser of products wants to see: a product that is gone is data.
fn also_gone(head: &Head) -> Accept {
    if head.status == 410 { Accept::Body } else { Accept::on_success(head) }
}

/// The page of a product.
fn product(page: &Page, out: &mut Output<Item>) -> Result<(), ParseError> {
    let Listed { category } = page.data()?;
    let doc = html(page)?;
    if page.status() == 410 {
        let sku = doc.attr(css!(".gone"), "data-sku")?;
        out.item(Item::Product(Product { sku, category, discontinued: true, details: None }));
        return Ok(());
    }
    if doc.first(css!("form#challenge")).is_some() {
        // Status 200, but no product: fetched again later, and in the end a failure, never an empty item.
        return Err(ParseError::blocked("it asks whether we are human"));
    }

    #[derive(Deserialize)]
    struct State {
        product: StateOfProduct,
    }
    #[derive(Deserialize)]
    struct StateOfProduct {
        sku: String,
        reviews: StateOfReviews,
    }
    #[derive(Deserialize)]
    struct StateOfReviews {
        count: u32,
        endpoint: String,
    }
    let State { product: StateOfProduct { sku, reviews } } = embedded_json(&doc, "state")?;

    let markup = json_ld(&doc).into_iter().find(|object| object["@type"] == "Product");
    let markup = markup.ok_or_else(|| ParseError::broken("no JSON-LD of a product"))?;
    let text = |pointer: &str| {
        let value = markup.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
        value.ok_or_else(|| ParseError::broken(format!("no {pointer} in its JSON-LD")))
    };
    let details = Details {
        name: text("/name")?,
        description: text("/description")?,
        price: text("/offers/price")?,
        currency: text("/offers/priceCurrency")?,
    };
    if reviews.count > 0 {
        out.follow(reviews_request(&reviews.endpoint, ReviewsOf { sku: sku.clone(), page: 1 })?);
    }
    out.item(Item::Product(Product { sku, category, discontinued: false, details: Some(details) }));
    Ok(())
}

/// All reviews are behind one URL; what is asked for is in the body, so the body is part of a request's identity.
fn reviews_request(endpoint: &str, of: ReviewsOf) -> Result<Request, ParseError> {
    Ok(Request::post(endpoint, serde_json::to_vec(&of)?)
        .with_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .with_label("reviews")
        .with_data(&of)?)
}

/// A page of reviews, as JSON.
fn reviews(page: &Page, out: &mut Output<Item>) -> Result<(), ParseError> {
    #[derive(Deserialize)]
    struct Reply {
        reviews: Vec<ReplyReview>,
        next: Option<u32>,
    }
    #[derive(Deserialize)]
    struct ReplyReview {
        id: String,
        author: String,
        rating: u8,
        text: String,
    }
    let ReviewsOf { sku, .. } = page.data()?;
    let reply: Reply = json(page)?;
    for ReplyReview { id, author, rating, text } in reply.reviews {
        out.item(Item::Review(Review { sku: sku.clone(), id, author, rating, text }));
    }
    if let Some(page_after) = reply.next {
        out.follow(reviews_request(page.url().as_str(), ReviewsOf { sku, page: page_after })?);
    }
    Ok(())
}

/// The crawl, but for where it begins and where its items go.
pub(crate) fn shop(runtime: Runtime) -> Builder<Item> {
    Crawl::builder(runtime)
        .route("home", home)
        .route("listing", listing)
        .route("product", accepting(product, also_gone))
        .route("reviews", reviews)
}

/// Where it begins.
pub(crate) fn start_at(url: impl Into<String>) -> Request {
    Request::get(url).with_label("home")
}

// The store: a file of JSON lines.

/// Appends to a file on a thread of its own, because a disk may block and the crawl's thread must not.
struct Appender(mpsc::Sender<Append>);

struct Append {
    lines: Vec<u8>,
    durable: oneshot::Sender<io::Result<()>>,
}

impl Appender {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // A sink waits for its answer before it sends more, so at most one is under way.
        let (sender, receiver) = mpsc::channel::<Append>();
        thread::Builder::new().name(format!("writes {}", path.display())).spawn(move || {
            for Append { lines, durable } in receiver {
                let _ = durable.send(file.write_all(&lines).and_then(|()| file.sync_data()));
            }
        })?;
        Ok(Self(sender))
    }

    /// Ready when the lines are on the disk. An error is final: after one nobody knows what the file holds.
    async fn append(&self, lines: Vec<u8>) -> Result<(), SinkError> {
        let (durable, answer) = oneshot::channel();
        self.0.send(Append { lines, durable }).map_err(|_| SinkError::fatal("the writer has ended"))?;
        answer.await.map_err(SinkError::fatal)?.map_err(SinkError::fatal)
    }
}

/// Keeps each delivery once, whatever is retried, replayed or crawled again: it knows the ids that are in its file.
pub(crate) struct Store {
    file: Appender,
    known: HashSet<u128>,
}

impl Store {
    /// Opens a store, which may have items already.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Line {
            id: String,
        }
        let mut known = HashSet::new();
        cut_torn_line(path)?;
        for line in lines_of(path)? {
            let Line { id } = serde_json::from_str(&line?)?;
            known.insert(u128::from_str_radix(&id, 16).map_err(io::Error::other)?);
        }
        Ok(Self { file: Appender::open(path)?, known })
    }
}

#[async_trait]
impl Sink<Item> for Store {
    async fn deliver(&mut self, batch: &mut Batch<Item>) -> Result<(), SinkError> {
        let (mut lines, mut ids) = (Vec::new(), HashSet::new());
        for delivery in batch.iter() {
            let id = delivery.id.as_u128();
            if !self.known.contains(&id) && ids.insert(id) {
                serde_json::to_writer(&mut lines, delivery).map_err(SinkError::fatal)?;
                lines.push(b'\n');
            }
        }
        if !lines.is_empty() {
            self.file.append(lines).await?;
        }
        self.known.extend(ids);
        // Only now: what is taken out of the batch never comes again.
        batch.ack_all();
        Ok(())
    }
}

/// A crash may have left half a line at the end. Nobody was told that it is durable, so it goes.
fn cut_torn_line(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() { file.set_len(whole as u64) } else { Ok(()) }
}

fn lines_of(path: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let file = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(file.into_iter().flat_map(|file| BufReader::new(file).lines()))
}

// The failures.

/// A URL that was not brought in: why, and all that is needed to try it again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    error: String,
    message: String,
    attempts: u32,
    method: String,
    url: String,
    label: Option<String>,
    data: Option<Box<RawValue>>,
    headers: Vec<(String, String)>,
    /// Text, as all bodies are that this program sends.
    body: String,
}

impl Failure {
    /// The failure that an outcome is, if it is one. What the end of the crawl cut off is one too.
    fn of(settled: &Settled) -> Option<Self> {
        let (error, message) = match &settled.outcome {
            Outcome::Error(error) => (error.kind().code(), error.to_string()),
            Outcome::Cancelled => ("cancelled", String::new()),
            _ => return None,
        };
        let request = &settled.request;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = request.headers().into_iter().flatten();
        Some(Self {
            error: error.to_owned(),
            message,
            attempts: settled.attempts,
            method: request.method().to_string(),
            url: settled.url().into_owned(),
            label: request.label().map(str::to_owned),
            data: request.raw_data().map(ToOwned::to_owned),
            headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: String::from_utf8_lossy(&request.body()).into_owned(),
        })
    }

    /// The request again.
    fn into_request(self) -> Result<Request, Box<dyn StdError>> {
        let mut request = Request::new(Method::from_bytes(self.method.as_bytes())?, self.url).with_body(self.body);
        if let Some(label) = self.label {
            request = request.with_label(label);
        }
        if let Some(data) = self.data {
            request = request.with_data(&data)?;
        }
        for (name, value) in self.headers {
            request = request.with_header(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(&value)?);
        }
        Ok(request)
    }
}

/// The second sink: it is given exactly one outcome for each URL, and keeps those that are failures.
pub(crate) struct Failures(Appender);

impl Failures {
    /// Opens a file of failures; what it has stays.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Appender::open(path)?))
    }
}

#[async_trait]
impl Sink<Settled> for Failures {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        let mut lines = Vec::new();
        for failure in batch.iter().filter_map(|delivery| Failure::of(&delivery.item)) {
            serde_json::to_writer(&mut lines, &failure).map_err(SinkError::fatal)?;
            lines.push(b'\n');
        }
        if !lines.is_empty() {
            self.0.append(lines).await?;
        }
        batch.ack_all();
        Ok(())
    }
}

/// The requests of a file of failures.
///
/// # Errors
/// Where the file cannot be read, or a line is none of ours.
pub(crate) fn replay(path: &Path) -> Result<Vec<Request>, Box<dyn StdError>> {
    let file = File::open(path)?;
    let failures = BufReader::new(file).lines().map(|line| Ok(serde_json::from_str::<Failure>(&line?)?));
    failures.map(|failure: Result<Failure, Box<dyn StdError>>| failure?.into_request()).collect()
}

// The program.

/// Extracts a shop: every product with its category and all its reviews, as JSON lines.
#[derive(Parser)]
struct Args {
    /// The home of the catalogue.
    #[arg(required_unless_present_any = ["demo", "replay"])]
    url: Option<String>,
    /// Crawl a shop on loopback that is made up for this.
    #[arg(long)]
    demo: bool,
    /// Try the URLs of a file of failures again.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Where the items go: one a line, appended, each once.
    #[arg(long, default_value = "products.jsonl")]
    out: PathBuf,
    /// Where the failures go, appended.
    #[arg(long, default_value = "failed.jsonl")]
    failed: PathBuf,
    /// Who is asking, with an address to complain to; required for any site but the demo.
    #[arg(long, required_unless_present = "demo", default_value_if("demo", "true", "tidegate-demo/1.0"))]
    user_agent: Option<String>,
    /// Milliseconds between two requests to the site; 0 in the demo.
    #[arg(long, default_value = "500", default_value_if("demo", "true", "0"))]
    delay: u64,
    /// Requests to the site at a time.
    #[arg(long, default_value = "2", default_value_if("demo", "true", "8"))]
    per_host: NonZeroU32,
    /// What it runs on.
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: On,
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    Tokio,
    Smol,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("catalogue: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode, Box<dyn StdError>> {
    if args.replay.as_ref() == Some(&args.failed) {
        return Err("--replay and --failed name one file; a replay writes what fails again to another".into());
    }
    let demo = if args.demo { Some(DemoSite::start(DemoOptions::default())?) } else { None };
    let mut seeds = Vec::new();
    if let Some(file) = &args.replay {
        seeds = replay(file)?;
    }
    seeds.extend(demo.iter().map(|site| start_at(format!("{}catalogue/", site.url()))));
    seeds.extend(args.url.map(start_at));
    if seeds.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }

    let runtime = match args.runtime {
        On::Tokio => tidegate_tokio::dedicated()?,
        On::Smol => tidegate_smol::dedicated()?,
    };
    let crawl = shop(runtime)
        .user_agent(args.user_agent.unwrap_or_default())
        .seeds(seeds)
        .delay(Duration::from_millis(args.delay))
        .max_in_flight_per_host(Some(args.per_host))
        .sink(Store::open(&args.out)?)
        .outcomes(Failures::open(&args.failed)?)
        .start()?;
    end_on_signals(crawl.handle())?;
    let report = block_on(crawl)?;
    complain(&report.to_string());
    Ok(if report.finish_reason == tidegate::FinishReason::Shutdown { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// The first Ctrl-C or SIGTERM drains the crawl, the second stops it.
fn end_on_signals(handle: Handle) -> io::Result<()> {
    // A handler may do next to nothing, so it writes a byte to a pipe, and a thread reads it.
    let (mut signals, pipe) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::low_level::pipe::register(signal, pipe.try_clone()?)?;
    }
    thread::Builder::new().name("signals".into()).spawn(move || {
        for how in [Shutdown::Graceful { within: Duration::from_secs(30) }, Shutdown::Now] {
            if signals.read_exact(&mut [0]).is_err() {
                return;
            }
            complain("catalogue: ending");
            handle.shutdown(how);
        }
    })?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a program says on stderr how it went")]
fn complain(text: &str) {
    eprintln!("{text}");
}
