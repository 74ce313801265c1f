//! Events for subscribers of `tracing`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Span, event, span};

use super::{Event, Observer, What};
use crate::Outcome;
use crate::hash::KeyedState;

/// An observer that hands everything to the subscriber of `tracing`, with the target `tidegate`.
///
/// Each URL is a span `url` of level DEBUG with the fields `job` and `url`. Its events are in it, and have the fields
/// `event` (the [name](What::name)), `job`, `attempt`, `url` and `detail`. A URL that failed and a gate that shuts are
/// WARN; a retry and a gate that opens are INFO; a URL that was settled otherwise is DEBUG; everything else is TRACE.
///
/// ```no_run
/// # fn example(builder: tidegate::Builder<String>) -> tidegate::Builder<String> {
/// builder.observer(tidegate::observer::Tracing::new())
/// # }
/// ```
#[derive(Debug)]
pub struct Tracing {
    /// Of the URLs that are under way, which the engine bounds; none where the level is not enabled.
    spans: Mutex<HashMap<u64, Span, KeyedState>>,
}

impl Tracing {
    /// An observer for the subscriber that is in force where each event happens.
    pub fn new() -> Self {
        Self { spans: Mutex::new(HashMap::with_hasher(KeyedState::new(0))) }
    }

    /// The span of a URL, which begins with its first event and ends with its last.
    fn span(&self, of: &Event<'_>) -> Span {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        match of.what {
            What::Leased { .. } => {
                let span = span!(target: "tidegate", Level::DEBUG, "url", job = of.job, url = &*of.url);
                if !span.is_disabled() {
                    spans.insert(of.job, span.clone());
                }
                span
            }
            What::Settled(_) => spans.remove(&of.job).unwrap_or_else(Span::none),
            _ => spans.get(&of.job).cloned().unwrap_or_else(Span::none),
        }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Tracing {
    fn event(&self, of: &Event<'_>) {
        macro_rules! emit {
            ($level:ident) => {
                event!(
                    target: "tidegate",
                    Level::$level,
                    event = of.what.name(),
                    job = of.job,
                    attempt = of.attempt,
                    url = &*of.url,
                    detail = %of.what,
                )
            };
        }
        self.span(of).in_scope(|| match of.what {
            What::Settled(settled) if matches!(settled.outcome, Outcome::Error(_)) => emit!(WARN),
            What::Gate { open: false, .. } | What::Stall { .. } => emit!(WARN),
            What::Retried { .. } | What::Gate { open: true, .. } => emit!(INFO),
            What::Settled(_) => emit!(DEBUG),
            _ => emit!(TRACE),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::engine::Bound;
    use crate::{Error, ErrorKind, Request, Settled};

    /// Keeps lines: level, the span that it is in, the name of the event.
    #[derive(Clone, Default)]
    struct Kept {
        lines: Arc<Mutex<Vec<String>>>,
        inside: Arc<AtomicU64>,
        spans: Arc<AtomicU64>,
        closed: Arc<AtomicU64>,
    }

    struct Name(String);

    impl Visit for Name {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "event" {
                self.0 = value.into();
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    }

    impl Subscriber for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut name = Name(String::new());
            event.record(&mut name);
            assert_eq!(event.metadata().target(), "tidegate");
            let (level, span) = (event.metadata().level(), self.inside.load(Ordering::Relaxed));
            self.lines.lock().expect("not poisoned").push(format!("{level} {span} {}", name.0));
        }

        fn enter(&self, id: &Id) {
            self.inside.store(id.into_u64(), Ordering::Relaxed);
        }

        fn exit(&self, _: &Id) {
            self.inside.store(0, Ordering::Relaxed);
        }

        fn try_close(&self, _: Id) -> bool {
            self.closed.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    #[test]
    fn a_url_is_a_span_and_its_events_are_in_it() {
        let kept = Kept::default();
        let observer = Tracing::new();
        let error = Error::new(ErrorKind::ConnectReset, "connect");
        let request = || Arc::new(Request::get("http://a.test/"));
        let good = Settled::new(1, request(), Outcome::Ok);
        let bad = Settled::new(2, request(), Outcome::Error(error.replicate()));
        let tell = |job, what| {
            let url = if job > 0 { "http://a.test/" } else { "" };
            observer.event(&Event { elapsed: Duration::ZERO, job, url: url.into(), attempt: 0, what });
        };
        tracing::subscriber::with_default(kept.clone(), || {
            tell(1, What::Leased { depth: 0 });
            tell(2, What::Leased { depth: 0 });
            tell(1, What::Queued);
            tell(2, What::Retried { error: &error, wait: Duration::ZERO });
            tell(0, What::Gate { signal: Bound::Lag, name: "lag", open: false });
            tell(1, What::Settled(&good));
            tell(2, What::Settled(&bad));
        });
        let expected = [
            "TRACE 1 leased",
            "TRACE 2 leased",
            "TRACE 1 queued",
            "INFO 2 retried",
            "WARN 0 gate",
            "DEBUG 1 settled",
            "WARN 2 settled",
        ];
        assert_eq!(*kept.lines.lock().expect("not poisoned"), expected);
        assert!(observer.spans.lock().expect("not poisoned").is_empty(), "nothing is kept of what is settled");
        assert!(kept.closed.load(Ordering::Relaxed) >= 2);
    }
}
