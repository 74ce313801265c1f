//! [`TraceLayer`]: tells of each fetch, once, when it has ended.

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use url::Url;

use super::Layer;
use crate::{Error, FetchCx, Fetcher, Ledger, Request, Response};

/// A fetch that has ended.
///
/// ```
/// fn told(fetched: &tidegate::layer::Fetched<'_>) {
///     println!("{fetched}"); // GET http://a.test/ attempt 1: 200 in 12.3 ms
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Fetched<'a> {
    /// The request as it came to the layer.
    pub request: &'a Request,
    /// The number of the URL in its crawl; 0 without one.
    pub job: u64,
    /// The attempt, from 1.
    pub attempt: u32,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub end: End<'a>,
}

/// How a fetch ended.
///
/// ```
/// use tidegate::layer::{End, Fetched};
/// fn failed(fetched: &Fetched<'_>) -> bool {
///     !matches!(fetched.end, End::Answer(response) if !response.head.status.is_server_error())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum End<'a> {
    /// There is an answer, of any status.
    Answer(&'a Response),
    /// There is none.
    Failed(&'a Error),
    /// It was dropped: its total deadline was over, or the crawl did not want it any more.
    Dropped,
}

/// Without userinfo, in one line.
impl fmt::Display for Fetched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, attempt, took, end, .. } = self;
        let url = crate::request::without_userinfo(request.url());
        write!(f, "{} {} attempt {attempt}: ", request.method(), url.escape_debug())?;
        match end {
            End::Answer(response) => write!(f, "{}", response.head.status.as_u16())?,
            End::Failed(error) => write!(f, "{}", error.kind().code())?,
            End::Dropped => write!(f, "dropped")?,
        }
        write!(f, " in {:.1} ms", took.as_secs_f64() * 1e3)
    }
}

type Tell = dyn Fn(&Fetched<'_>) + Send + Sync;

/// Calls a function once for each fetch that has ended, in whatever way. Where it stands among the layers decides what it sees:
/// below a cache only what goes on the wire.
///
/// A crawl tells its [`Observer`](crate::Observer) more, and without a layer; this one is for a fetcher of its own, and for what is
/// between two layers.
///
/// # Panics
/// A panic of the function fails the fetch with `fetcher.panic`; one about a fetch that was dropped is contained.
///
/// ```
/// use tidegate::Fetcher;
/// use tidegate::layer::TraceLayer;
///
/// fn told(http: impl Fetcher) -> impl Fetcher {
///     http.layer(TraceLayer::new(|fetched| eprintln!("{fetched}")))
/// }
/// ```
#[derive(Clone)]
pub struct TraceLayer {
    tell: Arc<Tell>,
}

impl TraceLayer {
    /// Calls `tell`, on the loop: it must not block.
    ///
    /// ```
    /// use tidegate::layer::{End, TraceLayer};
    /// let errors = TraceLayer::new(|fetched| if let End::Failed(error) = fetched.end { eprintln!("{error}") });
    /// ```
    pub fn new(tell: impl Fn(&Fetched<'_>) + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(tell) }
    }

    /// Makes an event for the subscriber of `tracing`, with the target `tidegate`: DEBUG for an answer, WARN where there is none. Its
    /// fields are `method`, `url`, `job`, `attempt`, `status` or `error` (the [code](crate::ErrorKind::code), or `dropped`), and `ms`.
    ///
    /// ```
    /// let events = tidegate::layer::TraceLayer::events();
    /// ```
    #[cfg(feature = "tracing")]
    pub fn events() -> Self {
        Self::new(event)
    }
}

#[cfg(feature = "tracing")]
fn event(fetched: &Fetched<'_>) {
    use tracing::{Level, event};

    macro_rules! emit {
        ($level:ident, $($field:tt)*) => {
            event!(
                target: "tidegate",
                Level::$level,
                method = fetched.request.method().as_str(),
                url = &*crate::request::without_userinfo(fetched.request.url()),
                job = fetched.job,
                attempt = fetched.attempt,
                $($field)*,
                ms = fetched.took.as_secs_f64() * 1e3,
            )
        };
    }
    match fetched.end {
        End::Answer(response) => emit!(DEBUG, status = response.head.status.as_u16()),
        End::Failed(error) => emit!(WARN, error = error.kind().code()),
        End::Dropped => emit!(WARN, error = "dropped"),
    }
}

impl fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer").finish_non_exhaustive()
    }
}

impl<F: Fetcher> Layer<F> for TraceLayer {
    type Fetcher = Trace<F>;

    fn layer(&self, inner: F) -> Trace<F> {
        Trace { inner, layer: self.clone() }
    }
}

/// A fetcher below a [`TraceLayer`].
///
/// ```
/// # use tidegate::layer::{Trace, TraceLayer};
/// fn told<F: tidegate::Fetcher>(http: F, trace: TraceLayer) -> Trace<F> {
///     http.layer(trace)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Trace<F> {
    inner: F,
    layer: TraceLayer,
}

#[async_trait]
impl<F: Fetcher> Fetcher for Trace<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let mut span = Span { tell: &*self.layer.tell, request, cx, began: cx.now(), is_open: true };
        let result = self.inner.fetch(request, cx).await;
        span.end(match &result {
            Ok(response) => End::Answer(response),
            Err(error) => End::Failed(error),
        });
        result
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.inner.ledger()
    }
}

/// A fetch that is told of when it ends.
struct Span<'a> {
    tell: &'a Tell,
    request: &'a Request,
    cx: &'a FetchCx,
    began: Instant,
    is_open: bool,
}

impl Span<'_> {
    fn end(&mut self, end: End<'_>) {
        self.is_open = false;
        let Self { tell, request, cx, began, .. } = *self;
        let took = cx.now().saturating_duration_since(began);
        tell(&Fetched { request, job: cx.job(), attempt: cx.attempt(), took, end });
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // Whoever drops a fetch does not expect a panic.
            let _ = catch_unwind(AssertUnwindSafe(|| self.end(End::Dropped)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Waker};

    use super::*;
    use crate::Head;
    use crate::rt::manual::Manual;

    async fn inner(request: Request) -> Result<Response, Error> {
        let url = request.target()?;
        match url.path() {
            "/silent" => std::future::pending().await,
            "/panics" => panic!("on purpose"),
            _ => Ok(Response::new(Head::new(url, http::StatusCode::NOT_FOUND), "")),
        }
    }

    fn lines(layer: impl FnOnce(Arc<Mutex<Vec<String>>>) -> TraceLayer) -> Vec<String> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let fetcher = inner.layer(layer(Arc::clone(&told)));
        let manual = Manual::new();
        for url in ["http://me:pw@a.test/", "ftp://a.test/", "http://a.test/silent", "http://a.test/panics"] {
            let (request, cx) = (Request::get(url), FetchCx::detached(&manual.runtime()));
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let mut fetch = pin!(fetcher.fetch(&request, &cx));
                let _ = fetch.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                manual.advance(Duration::from_millis(2));
            }));
        }
        let told = told.lock().expect("not poisoned");
        told.clone()
    }

    // C7
    #[test]
    fn each_fetch_is_told_of_once_however_it_ends() {
        let told =
            lines(|told| TraceLayer::new(move |fetched| told.lock().expect("not poisoned").push(fetched.to_string())));
        assert_eq!(
            told,
            [
                "GET http://a.test/ attempt 1: 404 in 0.0 ms",
                "GET ftp://a.test/ attempt 1: url.scheme in 0.0 ms",
                "GET http://a.test/silent attempt 1: dropped in 2.0 ms",
                "GET http://a.test/panics attempt 1: dropped in 0.0 ms",
            ]
        );
    }

    // C7
    #[cfg(feature = "tracing")]
    #[test]
    fn an_event_has_what_happened_in_its_fields() {
        use tracing::field::{Field, Visit};
        use tracing::span::{Attributes, Id, Record};

        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<String>>>);

        struct Line(String);

        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() != "ms" {
                    self.0 += &format!(" {}={value:?}", field.name());
                }
            }
        }

        impl tracing::Subscriber for Kept {
            fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
                true
            }

            fn new_span(&self, _: &Attributes<'_>) -> Id {
                Id::from_u64(1)
            }

            fn record(&self, _: &Id, _: &Record<'_>) {}

            fn record_follows_from(&self, _: &Id, _: &Id) {}

            fn event(&self, event: &tracing::Event<'_>) {
                let mut line = Line(format!("{} {}", event.metadata().target(), event.metadata().level()));
                event.record(&mut line);
                self.0.lock().expect("not poisoned").push(line.0);
            }

            fn enter(&self, _: &Id) {}

            fn exit(&self, _: &Id) {}
        }

        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || lines(|_| TraceLayer::events()));
        let of = |level: &str, url: &str, end: &str| {
            format!("tidegate {level} method=\"GET\" url=\"{url}\" job=0 attempt=1 {end}")
        };
        let expected = [
            of("DEBUG", "http://a.test/", "status=404"),
            of("WARN", "ftp://a.test/", "error=\"url.scheme\""),
            of("WARN", "http://a.test/silent", "error=\"dropped\""),
            of("WARN", "http://a.test/panics", "error=\"dropped\""),
        ];
        assert_eq!(*kept.0.lock().expect("not poisoned"), expected);
    }

    #[test]
    fn a_panic_about_a_dropped_fetch_is_contained() {
        let told = lines(|told| {
            TraceLayer::new(move |fetched| {
                told.lock().expect("not poisoned").push(String::new());
                assert!(!matches!(fetched.end, End::Dropped), "on purpose");
            })
        });
        assert_eq!(told.len(), 4);
    }
}
