//! Sets of ports.

/// A range that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No colon.
    #[error("bad port range: {0}")]
    Shape(String),
    /// A bound that is no port; the second text is the number parser's.
    #[error("bad port range: {0}: {1}")]
    Bound(String, String),
}

/// A set of ports, kept as sorted ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Box<[(u16, u16)]>);

impl PortSet {
    /// Single ports and ranges of the forms `a:b`, `:b` and `a:` (bounds included). A range whose
    /// start is above its end holds nothing, as in the reference.
    ///
    /// # Errors
    /// The first range of another form.
    pub fn new<T: AsRef<str>>(ports: &[u16], ranges: &[T]) -> Result<Self, PortError> {
        let mut all: Vec<(u16, u16)> = ports.iter().map(|port| (*port, *port)).collect();
        for range in ranges {
            let (start, end) = parse_range(range.as_ref())?;
            if start <= end {
                all.push((start, end));
            }
        }
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match merged.last_mut() {
                Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Ok(Self(merged.into_boxed_slice()))
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let above = self.0.partition_point(|(start, _)| *start <= port);
        above > 0 && self.0[above - 1].1 >= port
    }

    /// The single ports, if the set is at most `limit` of them.
    pub(crate) fn few(&self, limit: usize) -> Option<Vec<u16>> {
        let total: usize = self.0.iter().map(|(start, end)| usize::from(end - start) + 1).sum();
        (total <= limit).then(|| self.0.iter().flat_map(|(start, end)| *start..=*end).collect())
    }
}

fn parse_range(text: &str) -> Result<(u16, u16), PortError> {
    let (start, end) = text.split_once(':').ok_or_else(|| PortError::Shape(text.to_owned()))?;
    Ok((
        if start.is_empty() { 0 } else { bound(text, start)? },
        if end.is_empty() { u16::MAX } else { bound(text, end)? },
    ))
}

fn bound(range: &str, text: &str) -> Result<u16, PortError> {
    let fail = |why| {
        PortError::Bound(range.to_owned(), format!("strconv.ParseUint: parsing {text:?}: {why}"))
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fail("invalid syntax"));
    }
    text.parse().map_err(|_| fail("value out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        let set = PortSet::new(&[80, 443], &["1000:2000", ":10", "65000:", "9:1"]).unwrap();
        for port in [80, 443, 1000, 2000, 0, 10, 65000, 65535] {
            assert!(set.contains(port), "{port}");
        }
        for port in [11, 79, 999, 2001, 64999] {
            assert!(!set.contains(port), "{port}");
        }
        assert!(PortSet::new(&[], &[":"]).unwrap().contains(7));
        assert!(!PortSet::new::<&str>(&[], &[]).unwrap().contains(7));
    }

    #[test]
    fn errors_of_the_reference() {
        for (range, text) in [
            ("1-2", "bad port range: 1-2"),
            ("a:2", r#"bad port range: a:2: strconv.ParseUint: parsing "a": invalid syntax"#),
            (
                "1:70000",
                r#"bad port range: 1:70000: strconv.ParseUint: parsing "70000": value out of range"#,
            ),
            ("+1:2", r#"bad port range: +1:2: strconv.ParseUint: parsing "+1": invalid syntax"#),
        ] {
            assert_eq!(PortSet::new(&[], &[range]).unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn same_as_naive(ports in prop::collection::vec(any::<u16>(), 0..8),
                         ranges in prop::collection::vec((any::<u16>(), any::<u16>()), 0..8), extra in any::<u16>()) {
            let texts: Vec<String> = ranges.iter().map(|(a, b)| format!("{a}:{b}")).collect();
            let set = PortSet::new(&ports, &texts).unwrap();
            let edges = ports.iter().chain(ranges.iter().flat_map(|(a, b)| [a, b]));
            for port in edges.flat_map(|p| [p.wrapping_sub(1), *p, p.wrapping_add(1)]).chain([extra]) {
                let naive = ports.contains(&port) || ranges.iter().any(|(a, b)| (*a..=*b).contains(&port));
                prop_assert_eq!(set.contains(port), naive, "{}", port);
            }
        }

        #[test]
        fn never_panics(text in ".{0,12}") {
            let _ = PortSet::new(&[], &[text]);
        }
    }
}
