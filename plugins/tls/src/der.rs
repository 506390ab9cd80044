//! The few parts of a certificate that rustls does not show (RFC 5280 §4.1): when it is valid, and its public key.

use std::time::Duration;

use rustls::pki_types::UnixTime;

/// One DER element: its tag, its contents, itself with its header, and what follows.
type Element<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

/// Splits one DER element off.
fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, after) = rest.split_at_checked(len)?;
    let whole = input.get(..input.len() - after.len())?;
    Some((tag, contents, whole, after))
}

/// What was read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// Valid from.
    pub(crate) from: UnixTime,
    /// Valid until.
    pub(crate) until: UnixTime,
    /// The SubjectPublicKeyInfo, with its header.
    pub(crate) key: &'a [u8],
}

/// Reads a certificate. `None` for what is none.
pub(crate) fn parts(certificate: &[u8]) -> Option<Parts<'_>> {
    let (0x30, certificate, _, _) = element(certificate)? else { return None };
    let (0x30, mut rest, _, _) = element(certificate)? else { return None };
    // [0] version, which may be absent; serial number; signature algorithm; issuer.
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.3;
    }
    for _ in 0..3 {
        rest = element(rest)?.3;
    }
    let (0x30, validity, _, rest) = element(rest)? else { return None };
    let (tag, text, _, validity) = element(validity)?;
    let from = time(tag, text)?;
    let (tag, text, _, _) = element(validity)?;
    let until = time(tag, text)?;
    let (_, _, _, rest) = element(rest)?;
    let (0x30, _, key, _) = element(rest)? else { return None };
    Some(Parts { from, until, key })
}

/// UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 has them: seconds, and Zulu.
fn time(tag: u8, text: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (year, rest) = match tag {
        0x17 => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let digits = rest.strip_suffix('Z').filter(|d| d.len() == 10)?;
    let field = |at: usize| digits.get(at..at + 2)?.parse::<i8>().ok();
    let date = jiff::civil::DateTime::new(
        year,
        field(0)?,
        field(2)?,
        field(4)?,
        field(6)?,
        field(8)?.min(59),
        0,
    )
    .ok()?;
    let seconds = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0))))
}

/// A moment as an operator reads it.
pub(crate) fn show(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "a time beyond the calendar".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_was_made() {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let parts = parts(made.der()).unwrap();
        assert_eq!(show(parts.from), "2020-02-29T00:00:00Z");
        assert_eq!(show(parts.until), "2051-01-02T00:00:00Z");
        assert!(parts.key.windows(65).any(|w| w == key.public_key_raw()));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
            let _ = parts(&bytes);
            let made = rcgen::generate_simple_self_signed(vec!["a.test".into()]).unwrap();
            let mut der = made.cert.der().to_vec();
            der.truncate(cut);
            for (at, byte) in bytes.iter().enumerate().step_by(7) {
                if let Some(place) = der.get_mut(at) {
                    *place = *byte;
                }
            }
            let _ = parts(&der);
        }
    }
}
