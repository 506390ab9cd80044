//! Medians and percentiles.

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest and the largest; zeros of nothing.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let high = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
    (low, high)
}

/// The value at `share` of a sorted list; 0 of nothing.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().map_or(0.0, f64::from)
}

/// The median of the ratios of pairs, of those rounds where the reference is not zero.
pub(crate) fn ratio(subject: &[f64], reference: &[f64]) -> Option<f64> {
    let pairs = subject.iter().zip(reference).filter(|(_, r)| **r != 0.0);
    let ratios: Vec<f64> = pairs.map(|(s, r)| s / r).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_one_and_many() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(percentile(&[1, 2, 3], 0.99), 3.0);
        assert_eq!(ratio(&[2.0, 8.0, 9.0], &[1.0, 2.0, 3.0]), Some(3.0));
        assert_eq!(ratio(&[2.0], &[0.0]), None);
    }
}
