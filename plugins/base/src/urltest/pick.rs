//! Which member is the best one.

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The last measurement, in milliseconds.
    pub(super) delay: Option<u16>,
    /// Carries the network that is asked for.
    pub(super) able: bool,
    /// Can be used now.
    pub(super) up: bool,
}

/// The best member by its place, and whether it was measured. `current` stays unless another one is faster by more
/// than `tolerance` milliseconds. Without any measurement, the first one that can be used.
pub(super) fn pick(
    members: &[Candidate],
    current: Option<usize>,
    tolerance: u16,
) -> Option<(usize, bool)> {
    let measured = |index: usize| {
        members.get(index).and_then(|member| member.delay).map(|delay| (index, delay))
    };
    let mut best = current.and_then(measured);
    for (index, member) in members.iter().enumerate().filter(|(_, member)| member.able) {
        let Some(delay) = member.delay else { continue };
        if best.is_none_or(|(_, least)| u32::from(least) > u32::from(delay) + u32::from(tolerance))
        {
            best = Some((index, delay));
        }
    }
    if let Some((index, _)) = best {
        return Some((index, true));
    }
    let first = |up: bool| members.iter().position(|member| member.able && (member.up || !up));
    first(true).or_else(|| first(false)).map(|index| (index, false))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(delays: &[Option<u16>]) -> Vec<Candidate> {
        delays.iter().map(|&delay| Candidate { delay, able: true, up: true }).collect()
    }

    #[test]
    fn tolerance_keeps_the_current_one() {
        let list = members(&[Some(100), Some(60), Some(49)]);
        assert_eq!(pick(&list, Some(0), 50), Some((2, true)));
        assert_eq!(pick(&list, Some(0), 51), Some((0, true)));
        assert_eq!(pick(&list, Some(1), 50), Some((1, true)));
        // Without a current one the tolerance counts against those that come later, as in the reference.
        assert_eq!(pick(&list, None, 50), Some((2, true)));
        assert_eq!(pick(&list, None, 0), Some((2, true)));
        assert_eq!(pick(&members(&[Some(80), Some(60)]), None, 50), Some((0, true)));
        assert_eq!(pick(&members(&[None, Some(60)]), Some(0), 50), Some((1, true)));
        assert_eq!(
            pick(&members(&[Some(u16::MAX), Some(u16::MAX)]), Some(1), u16::MAX),
            Some((1, true))
        );
    }

    #[test]
    fn without_measurements() {
        let mut list = members(&[None, None]);
        assert_eq!(pick(&list, Some(1), 50), Some((0, false)));
        list[0].up = false;
        assert_eq!(pick(&list, None, 50), Some((1, false)));
        list[1].able = false;
        assert_eq!(pick(&list, None, 50), Some((0, false)));
        list[0].able = false;
        assert_eq!(pick(&list, None, 50), None);
        assert_eq!(pick(&[], None, 50), None);
    }

    proptest! {
        #[test]
        fn never_picks_a_clearly_slower_one(delays in proptest::collection::vec(proptest::option::of(0u16..1000), 1..8), current in proptest::option::of(0usize..8), tolerance in 0u16..100) {
            let list = members(&delays);
            let (index, measured) = pick(&list, current, tolerance).unwrap();
            prop_assert_eq!(measured, delays.iter().any(Option::is_some));
            if let (Some(delay), Some(least)) = (delays[index], delays.iter().flatten().min()) {
                prop_assert!(delay <= least + tolerance);
            }
        }
    }
}
