//! The URL of a request: text until it is fetched, then parsed once for all who ask.

use std::borrow::Cow;
use std::sync::Arc;

use url::Url;

use super::{canonical, origins, parse_target};
use crate::{Error, Limits};

/// Requests that wait are many, so theirs are text; clones of a parsed one share it.
#[derive(Clone)]
pub(super) enum Target {
    Given(Box<str>),
    /// What [`canonical`](super::canonical) gave.
    Canonical(Box<str>),
    Parsed(Arc<Parsed>),
}

pub(crate) struct Parsed {
    /// In canonical form.
    pub(crate) url: Url,
    /// What was given, where it is not that.
    given: Option<Box<str>>,
}

impl Target {
    /// As it was given.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Given(text) | Self::Canonical(text) => text,
            Self::Parsed(parsed) => parsed.given.as_deref().unwrap_or(parsed.url.as_str()),
        }
    }

    pub(super) fn url(&self) -> Result<Cow<'_, Url>, Error> {
        match self {
            Self::Given(text) => parse_target(text).map(Cow::Owned),
            // What an older version wrote may be refused by this one's parser.
            Self::Canonical(text) => origins::parse(text).or_else(|_| parse_target(text)).map(Cow::Owned),
            Self::Parsed(parsed) => Ok(Cow::Borrowed(&parsed.url)),
        }
    }

    /// The text in canonical form; as it was given where it has none.
    pub(super) fn canonical_text(&self) -> Cow<'_, str> {
        match self {
            Self::Given(text) => match parse_target(text) {
                Ok(url) => String::from(url).into(),
                Err(_) => (&**text).into(),
            },
            Self::Canonical(text) => (&**text).into(),
            Self::Parsed(parsed) => parsed.url.as_str().into(),
        }
    }

    /// Parses it, for good.
    pub(super) fn parse(&mut self) -> Result<Arc<Parsed>, Error> {
        if let Self::Parsed(parsed) = self {
            return Ok(Arc::clone(parsed));
        }
        let url = self.url()?.into_owned();
        let given = (url.as_str() != self.text()).then(|| self.text().into());
        let parsed = Arc::new(Parsed { url, given });
        *self = Self::Parsed(Arc::clone(&parsed));
        Ok(parsed)
    }

    /// Becomes `text`, which is in canonical form: without a copy where it is that.
    pub(super) fn become_canonical(&mut self, text: &str) {
        *self = Self::Canonical(match self {
            Self::Given(own) | Self::Canonical(own) if **own == *text => std::mem::take(own),
            _ => text.into(),
        });
    }

    /// Notes that `url` is what it says in canonical form.
    pub(super) fn note(&mut self, url: &Url) {
        if let Self::Given(text) = self
            && **text == *url.as_str()
        {
            *self = Self::Canonical(std::mem::take(text));
        }
    }
}

impl From<Url> for Target {
    fn from(given: Url) -> Self {
        if given.as_str().len() > Limits::URL {
            return Self::Given(String::from(given).into());
        }
        match canonical(given.clone()) {
            Ok(url) => {
                let given = (url != given).then(|| String::from(given).into());
                Self::Parsed(Arc::new(Parsed { url, given }))
            }
            Err(_) => Self::Given(String::from(given).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stays_what_was_given() {
        for (given, canonical) in [("HTTP://A.test", "http://a.test/"), ("http://a.test/", "http://a.test/")] {
            let mut target = Target::Given(given.into());
            assert_eq!(target.canonical_text(), canonical);
            assert_eq!(target.parse().expect("valid").url.as_str(), canonical);
            assert_eq!((target.text(), &*target.canonical_text()), (given, canonical));
            assert_eq!(target.url().expect("valid").as_str(), canonical);
        }
    }

    #[test]
    fn a_url_is_not_parsed_again() {
        for (given, is) in [("http://a.test/#top", true), ("http://a.test/", true), ("file:///a", false)] {
            let target = Target::from(Url::parse(given).expect("valid"));
            assert_eq!((target.text(), target.url().is_ok()), (given, is));
            assert_eq!(matches!(target, Target::Parsed(_)), is);
        }
    }

    #[test]
    fn only_what_is_canonical_is_noted() {
        for (given, is) in [("http://a.test/", true), ("http://a.test", false)] {
            let mut target = Target::Given(given.into());
            let url = target.url().expect("valid").into_owned();
            target.note(&url);
            assert_eq!((matches!(target, Target::Canonical(_)), target.text()), (is, given));
        }
    }

    #[test]
    fn whatever_it_was_becomes_canonical() {
        let parsed = Target::from(Url::parse("http://a.test/").expect("valid"));
        for mut target in [Target::Given("/".into()), Target::Given("http://a.test/".into()), parsed] {
            target.become_canonical("http://a.test/");
            assert!(matches!(&target, Target::Canonical(text) if **text == *"http://a.test/"));
        }
    }

    #[test]
    fn what_cannot_be_parsed_stays_text() {
        let mut target = Target::Given("nothing".into());
        assert!(target.parse().is_err());
        assert_eq!((target.text(), &*target.canonical_text()), ("nothing", "nothing"));
    }
}
