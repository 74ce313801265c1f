//! The values of options: durations, sizes, rates, lists. Pure functions from text, for clap's `value_parser`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tidegate::Scope;

/// `500ms`, `10s`, `1.5m`, `2h`, `1d`; a bare number only where it is 0.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        "" if number == 0.0 => 1.0,
        "" => return Err("needs a unit, as in 500ms, 10s or 2m".into()),
        _ => return Err(format!("{unit:?} is none of ms, s, m, h, d")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "is too long".into())
}

/// As [`duration`], longer than nothing.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("must be longer than 0".into()) } else { Ok(time) })
}

/// `8MiB`, `64k`, `1.5G`, `1000`: k, M and G are powers of 1,024, kB, MB and GB of 1,000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(format!("{unit:?} is none of k, M, G, KiB, MiB, GiB, kB, MB, GB")),
    };
    let size = (number * bytes).round();
    if size < 9e15 { Ok(size as u64) } else { Err("is too large".into()) }
}

/// `200/s`, `30/m`, `5/h`, or `200`, which is a second's.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match per.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{per:?} is none of s, m, h")),
    };
    let number: f64 = number.trim().parse().map_err(|_| "must be like 200/s".to_owned())?;
    if number.is_finite() && number > 0.0 { Ok(number / seconds) } else { Err("must be more than 0".into()) }
}

fn number_and_unit(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| "must begin with a number".to_owned())?;
    Ok((number, unit.trim()))
}

/// A count, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Most {
    Of(NonZeroU32),
    Unlimited,
}

impl Most {
    pub(super) fn limit(self) -> Option<NonZeroU32> {
        match self {
            Self::Of(n) => Some(n),
            Self::Unlimited => None,
        }
    }
}

pub(super) fn most(text: &str) -> Result<Most, String> {
    if text == "unlimited" {
        return Ok(Most::Unlimited);
    }
    text.parse().map(Most::Of).map_err(|_| "must be a number from 1 on, or unlimited".into())
}

/// Where pages are parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParsePlace {
    Inline,
    Threads(NonZeroUsize),
}

pub(super) fn parse_place(text: &str) -> Result<ParsePlace, String> {
    let threads = |n: &str| n.parse().ok().filter(|n: &NonZeroUsize| n.get() <= 1024);
    match text.split_once(':') {
        None if text == "inline" => Ok(ParsePlace::Inline),
        Some(("threads", n)) => {
            threads(n).map(ParsePlace::Threads).ok_or_else(|| "needs 1 to 1024 threads, as in threads:4".into())
        }
        _ => Err("must be inline or threads:N".into()),
    }
}

/// A header as a command line gives it.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be like 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{:?} is no name of a header", name.trim()))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "has a value that no header can hold".to_owned())?;
    Ok((name, value))
}

/// The address of a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) address: SocketAddr,
}

/// `example.org:443:127.0.0.1`, as curl's; an IPv6 address with or without brackets.
pub(super) fn fixed(text: &str) -> Result<Fixed, String> {
    let mut parts = text.splitn(3, ':');
    let (Some(host), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("must be like example.org:443:127.0.0.1".into());
    };
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let ip: IpAddr = bare.parse().map_err(|_| format!("{address:?} is no address"))?;
    Ok(Fixed { host: host.to_owned(), port, address: SocketAddr::new(ip, port) })
}

/// A set of statuses, as `200-299,404`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusList(Vec<RangeInclusive<u16>>);

impl StatusList {
    pub(super) fn contains(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

pub(super) fn status_list(text: &str) -> Result<StatusList, String> {
    let status = |text: &str| {
        let status = text.trim().parse().ok().filter(|status| (100..=999).contains(status));
        status.ok_or_else(|| format!("{:?} is no status", text.trim()))
    };
    let range = |part: &str| match part.split_once('-') {
        None => status(part).map(|one| one..=one),
        Some((first, last)) => {
            let range = status(first)?..=status(last)?;
            if range.is_empty() { Err(format!("{part:?} ends before it begins")) } else { Ok(range) }
        }
    };
    text.split(',').map(range).collect::<Result<_, _>>().map(StatusList)
}

/// `site`, `origin`, `host`, `any` or `prefix:URL`.
pub(super) fn scope(text: &str) -> Result<Scope, String> {
    match text {
        "site" => Ok(Scope::site()),
        "origin" => Ok(Scope::origin()),
        "host" => Ok(Scope::host()),
        "any" => Ok(Scope::any()),
        _ => {
            let prefix = text.strip_prefix("prefix:").ok_or("must be site, origin, host, any or prefix:URL")?;
            // In canonical form, because the URLs that are compared with it are.
            let url = tidegate::parse_target(prefix).map_err(|error| error.to_string())?;
            Ok(Scope::prefix(url.as_str()))
        }
    }
}

/// A file, or `-` for standard input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Std,
    File(PathBuf),
}

pub(super) fn place(text: &str) -> Result<Place, String> {
    match text {
        "" => Err("must be a file, or -".into()),
        "-" => Ok(Place::Std),
        path => Ok(Place::File(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5h", 5_400_000), ("0", 0), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1 fortnight", "1..5s", "1e9s", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn sizes_are_binary_or_decimal_by_name() {
        for (text, bytes) in [("8MiB", 8 << 20), ("64k", 64 << 10), ("1.5G", 3 << 29), ("10kB", 10_000), ("123", 123)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "8 parsecs", "-1k", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_a_second_a_minute_or_an_hour() {
        assert_eq!(rate("200/s"), Ok(200.0));
        assert_eq!(rate("30/m"), Ok(0.5));
        assert_eq!(rate("7"), Ok(7.0));
        for text in ["", "0/s", "-1/s", "5/fortnight", "inf/s", "NaN"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_statuses_are_ranges_and_single_ones() {
        let list = status_list("200-299, 404").expect("a list");
        let has = |code: u16| list.contains(StatusCode::from_u16(code).expect("literal"));
        assert!(has(200) && has(299) && has(404) && !has(300) && !has(403));
        for text in ["", "2xx", "200-", "299-200", "99", "200,,404"] {
            assert!(status_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_rest() {
        assert_eq!(parse_place("inline"), Ok(ParsePlace::Inline));
        assert!(matches!(parse_place("threads:3"), Ok(ParsePlace::Threads(n)) if n.get() == 3));
        assert!(["threads", "threads:0", "threads:9999999", "fast"].iter().all(|text| parse_place(text).is_err()));
        assert_eq!(most("unlimited"), Ok(Most::Unlimited));
        assert!(most("0").is_err());
        let (name, value) = header("X-Key:  a b ").expect("a header");
        assert_eq!((name.as_str(), value.to_str().expect("text")), ("x-key", "a b"));
        assert!(header("no colon").is_err() && header("a b: c").is_err() && header("a: b\nc").is_err());
        assert_eq!(fixed("a.test:443:[::1]").expect("an address").address, "[::1]:443".parse().expect("literal"));
        assert_eq!(fixed("a.test:80:127.0.0.1").expect("an address").host, "a.test");
        assert!(["a.test:80", "a.test:x:127.0.0.1", "a.test:80:b.test"].iter().all(|text| fixed(text).is_err()));
        assert!(scope("prefix:http://a.test/x").is_ok() && scope("prefix:x").is_err() && scope("planet").is_err());
        assert_eq!(place("-"), Ok(Place::Std));
    }
}
