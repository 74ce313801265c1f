//! Between a [`Fetcher`] and a [`tower_service::Service`] of HTTP, both ways.
//!
//! | you have | and want | take |
//! |---|---|---|
//! | a service: a client of your own, axum's router in a test | a fetcher for a crawl | [`FromService`] |
//! | a fetcher, with its layers | a service, to put tower's layers around it | [`IntoService`] |
//!
//! ```
//! # use tidegate::Fetcher;
//! # fn example(runtime: &tidegate::rt::Runtime, http: impl Fetcher) -> impl Fetcher {
//! use bytes::Bytes;
//! use tidegate::layer::tower::{FromService, IntoService};
//! use tower::ServiceBuilder;
//!
//! let mut limits = tidegate::Limits::default();
//! limits.redirects = 0; // the crawl follows them
//! let service = ServiceBuilder::new()
//!     .map_request(|request: http::Request<http_body_util::Full<Bytes>>| request)
//!     .service(IntoService::new(http, runtime).with_limits(limits));
//! FromService::new(service)
//! # }
//! ```
//!
//! There and back a fetch loses its [`FetchCx`]: what is between the two knows nothing of the crawl, so that the inner fetcher has deadlines
//! and limits of its own, books no bytes, and reads bodies that the parser does not want. Prefer a [`Layer`](super::Layer) to a
//! service where there is one.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use tower_service::Service;
use url::Url;

use crate::rt::{BoxFuture, Runtime};
use crate::{Accept, Error, ErrorKind, FetchCx, Fetcher, Head, Limits, Phase, Request, Response};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service of HTTP as a [`Fetcher`]. `B` is the body of its requests, made of the bytes of ours.
///
/// A service makes its connections by itself, so that up to the head of an answer no deadline but
/// [`total`](crate::Deadlines::total) holds; the body is bounded as ever ([`idle`](crate::Deadlines::idle),
/// [`Limits::body_wire`], the byte budget), and a body that is not wanted is dropped unread. A body with a Content-Encoding is
/// decoded where bodies are, with the feature `http`; a service that decodes by itself takes that field off. A request has the
/// fields that it was given and no others: no User-Agent, no Accept-Encoding; userinfo in a URL is not sent.
///
/// An error of the service that is an [`Error`] of this crate stays what it is; any other is [`ErrorKind::Other`], which
/// is retried.
///
/// Each fetch has a clone of the service, and waits for that one to be ready. It holds permits meanwhile: limit rates and numbers by the
/// crawl.
///
/// # Cancel safety
/// That of the service's futures.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tidegate::layer::tower::FromService;
///
/// let service = tower::service_fn(|request: http::Request<Bytes>| async move {
///     Ok::<_, std::io::Error>(http::Response::new(Full::new(request.into_body())))
/// });
/// let fetcher = FromService::new(service);
/// # fn is_fetcher(_: impl tidegate::Fetcher) {}
/// # is_fetcher(fetcher);
/// ```
pub struct FromService<S, B = Bytes> {
    service: S,
    #[cfg(feature = "http")]
    decoder: Arc<dyn crate::Decode>,
    body: PhantomData<fn() -> B>,
}

impl<S, B> FromService<S, B> {
    /// Makes a fetcher of a service.
    ///
    /// ```
    /// # fn example<S>(service: S) -> tidegate::layer::tower::FromService<S, http_body_util::Full<bytes::Bytes>> {
    /// tidegate::layer::tower::FromService::new(service)
    /// # }
    /// ```
    pub fn new(service: S) -> Self {
        Self {
            service,
            #[cfg(feature = "http")]
            decoder: Arc::new(crate::http::ContentDecoder::new()),
            body: PhantomData,
        }
    }
}

impl<S: Clone, B> Clone for FromService<S, B> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            #[cfg(feature = "http")]
            decoder: Arc::clone(&self.decoder),
            body: PhantomData,
        }
    }
}

impl<S, B> fmt::Debug for FromService<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromService").finish_non_exhaustive()
    }
}

#[async_trait]
impl<S, B, R> Fetcher for FromService<S, B>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: From<Bytes> + Send + 'static,
    R: Body + Send,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let url = request.target()?;
        let failed = |error: BoxError| match error.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::new(ErrorKind::Other, "call the service").with_source(other).with_url(request.url()),
        };
        let work = async {
            let asked = wire_request(request, &url)?;
            cx.phase(Phase::Local);
            let mut service = self.service.clone();
            poll_fn(|task| service.poll_ready(task)).await.map_err(|error| failed(error.into()))?;
            cx.phase(Phase::FirstByte);
            let answer = service.call(asked).await.map_err(|error| failed(error.into()))?;
            let (parts, body) = answer.into_parts();
            let head = Head { url, status: parts.status, version: parts.version, headers: parts.headers };
            cx.phase(Phase::Body);
            let accepted = cx.accept(&head);
            let body = match accepted {
                Accept::Body => read(body, cx, failed).await?,
                _ => Bytes::new(),
            };
            let mut response = Response::new(head, body);
            response.accepted = accepted;
            #[cfg(feature = "http")]
            if !response.body.is_empty() && response.head.headers.contains_key(http::header::CONTENT_ENCODING) {
                response.decoder = Some(Arc::clone(&self.decoder));
            }
            Ok(response)
        };
        // In a crawl that deadline is the crawl's.
        if cx.follows_redirects() {
            return cx.timeout(cx.limits().deadlines.total, ErrorKind::TimeoutTotal, "call the service", work).await?;
        }
        work.await
    }
}

fn wire_request<B: From<Bytes>>(request: &Request, url: &Url) -> Result<http::Request<B>, Error> {
    let mut shown = url.clone();
    // Both fail only for URLs without a host, which are refused before.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let mut asked = http::Request::new(B::from(request.body()));
    *asked.method_mut() = request.method().clone();
    *asked.uri_mut() = shown.as_str().parse().map_err(|error| {
        Error::new(ErrorKind::UrlInvalid, "give the URL to a service").with_source(error).with_url(request.url())
    })?;
    if let Some(headers) = request.headers() {
        asked.headers_mut().clone_from(headers);
    }
    Ok(asked)
}

async fn read<R>(body: R, cx: &FetchCx, failed: impl Fn(BoxError) -> Error) -> Result<Bytes, Error>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    let (most, idle) = (cx.limits().body_wire, cx.limits().deadlines.idle);
    loop {
        let frame = poll_fn(|task| body.as_mut().poll_frame(task));
        let Some(frame) = cx.timeout(idle, ErrorKind::TimeoutIdle, "read the body", frame).await? else {
            return Ok(bytes.freeze());
        };
        let frame = frame.map_err(|error| failed(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        let more = data.remaining();
        if (bytes.len() as u64).saturating_add(more as u64) > most {
            return Err(Error::new(ErrorKind::BodyTooLarge, format!("read a body of more than {most} bytes")));
        }
        cx.book(more as u64).await;
        bytes.put(data);
        if cx.slice_is_over() {
            cx.yield_now().await;
        }
    }
}

/// A [`Fetcher`] as a service of HTTP. Always ready: how much there is at a time is for the caller to bound.
///
/// It fetches without a crawl ([`FetchCx::detached`]): redirects are followed, and the deadlines are those of the limits. The
/// URI of a request must be absolute. Bodies are whole in memory, those of requests and of answers up to [`Limits::body_wire`] bytes each. The
/// body of an answer is as it came over the wire, and its Content-Encoding with it; the [`Head`], with the URL of the last hop, is in the
/// extensions as an `Arc<Head>`.
///
/// ```no_run
/// # async fn example(runtime: &tidegate::rt::Runtime, fetcher: impl tidegate::Fetcher) -> Result<(), tidegate::Error> {
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tidegate::layer::tower::IntoService;
/// use tower::ServiceExt;
///
/// let service = IntoService::new(fetcher, runtime);
/// let request = http::Request::get("http://127.0.0.1:8080/").body(Full::<Bytes>::default()).expect("valid");
/// println!("{}", service.oneshot(request).await?.status());
/// # Ok(()) }
/// ```
pub struct IntoService<F> {
    fetcher: Arc<F>,
    runtime: Runtime,
    limits: Limits,
}

impl<F> IntoService<F> {
    /// Makes a service of a fetcher, with the limits of listed URLs.
    ///
    /// ```
    /// # fn example(runtime: &tidegate::rt::Runtime, fetcher: impl tidegate::Fetcher) {
    /// let service = tidegate::layer::tower::IntoService::new(fetcher, runtime);
    /// # }
    /// ```
    pub fn new(fetcher: F, runtime: &Runtime) -> Self {
        Self { fetcher: Arc::new(fetcher), runtime: runtime.clone(), limits: Limits::listed() }
    }

    /// Replaces the limits.
    ///
    /// ```
    /// # fn example(service: tidegate::layer::tower::IntoService<std::sync::Arc<dyn tidegate::Fetcher>>) {
    /// let service = service.with_limits(tidegate::Limits::discovered());
    /// # }
    /// ```
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl<F> Clone for IntoService<F> {
    fn clone(&self) -> Self {
        Self { fetcher: Arc::clone(&self.fetcher), runtime: self.runtime.clone(), limits: self.limits.clone() }
    }
}

impl<F> fmt::Debug for IntoService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoService").finish_non_exhaustive()
    }
}

impl<F, B> Service<http::Request<B>> for IntoService<F>
where
    F: Fetcher,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Full<Bytes>>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: http::Request<B>) -> Self::Future {
        let Self { fetcher, runtime, limits } = self.clone();
        Box::pin(async move {
            let most = usize::try_from(limits.body_wire).unwrap_or(usize::MAX);
            let (parts, body) = asked.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(|error| {
                let attempted = format!("read the body of a request, of {most} bytes at most");
                Error::new(ErrorKind::RequestInvalid, attempted).with_source(error)
            })?;
            let request = Request::new(parts.method, parts.uri.to_string())
                .with_headers(parts.headers)
                .with_body(body.to_bytes());
            let cx = FetchCx::detached(&runtime).with_limits(limits);
            let response = fetcher.fetch(&request, &cx).await?;
            let mut answer = http::Response::new(Full::new(response.body));
            *answer.status_mut() = response.head.status;
            *answer.version_mut() = response.head.version;
            answer.headers_mut().clone_from(&response.head.headers);
            answer.extensions_mut().insert(response.head);
            Ok(answer)
        })
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<FromService<IntoService<Arc<dyn Fetcher>>, Full<Bytes>>>();
};
