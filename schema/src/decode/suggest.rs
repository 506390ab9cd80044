//! The nearest known name.

/// The known name that the written one was probably meant to be: at most a third of its letters differ.
#[must_use]
pub fn nearest(written: &str, known: &[&'static str]) -> Option<&'static str> {
    // Long keys are no typing errors, and the distance is quadratic.
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_ascii_lowercase().replace('-', "_");
    let limit = (written.chars().count() / 3).max(1);
    known
        .iter()
        .map(|name| (distance(&lower, name), *name))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut previous = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let cost = (previous + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            previous = *cell;
            *cell = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
