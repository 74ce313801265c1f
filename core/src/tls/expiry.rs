//! When a certificate ends: the one field of X.509 that we need, read from its DER.

use std::time::{Duration, SystemTime};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of a certificate (RFC 5280, 4.1); `None` where it is not as the RFC has it or is before 1970.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (to_be_signed, _) = expect(certificate, SEQUENCE)?;
    let rest = expect(to_be_signed, VERSION).map_or(to_be_signed, |(_, rest)| rest);
    let (_serial, rest) = expect(rest, INTEGER)?;
    let (_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (_issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _not_before, rest) = element(validity)?;
    let (tag, not_after, _) = element(rest)?;
    time(tag, not_after)
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).and_then(|(found, content, rest)| (found == tag).then_some((content, rest)))
}

/// Tag, content and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // At most four bytes of length: no certificate is larger, and the sum cannot overflow.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x0f))?;
            (bytes.iter().try_fold(0_usize, |sum, b| sum.checked_mul(256)?.checked_add(usize::from(*b)))?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let digits = |at: usize, len: usize| {
        let digits = text.get(at..at + len)?;
        digits.iter().try_fold(0_u64, |sum, b| Some(sum * 10 + u64::from(char::from(*b).to_digit(10)?)))
    };
    let (year, at) = match (tag, text.len()) {
        (UTC_TIME, 13) => {
            let year = digits(0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (GENERALIZED_TIME, 15) => (digits(0, 4)?, 4),
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        [digits(at, 2)?, digits(at + 2, 2)?, digits(at + 4, 2)?, digits(at + 6, 2)?, digits(at + 8, 2)?];
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || text.last() != Some(&b'Z') {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days of the Gregorian calendar, counted in years that begin in March so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        let time = time(tag, text.as_bytes())?;
        Some(time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs())
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229000000Z"), Some(951_782_400));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for bad in ["", "500101000000Z", "701301000000Z", "700100000000Z", "7001010000000", "70010100000Zx"] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
        assert_eq!(seconds(GENERALIZED_TIME, "00000101000000Z"), None);
    }

    #[test]
    fn the_end_of_a_real_certificate_is_found_and_of_no_cut_one() {
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("valid");
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let der = certificate.der();
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_936_742_400);
        assert_eq!(not_after(der), Some(expected));
        for cut in 0..der.len() {
            assert_eq!(not_after(&der[..cut]), None, "the outer length is wrong");
        }
    }

    proptest! {
        #[test]
        fn never_panics(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = not_after(&der);
        }
    }
}
