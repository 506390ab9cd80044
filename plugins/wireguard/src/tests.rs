//! Two devices and what lies between them; with the feature `fake-clock` also a day of it.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::lab::{Lab, address};

/// A packet from an address behind one side to one behind the other.
fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(20 + payload.len()).expect("short");
    let mut packet = vec![0x45, 0, 0, len, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend([10, 9, 0, from, 10, 9, 0, to]);
    packet.extend_from_slice(payload);
    packet
}

/// Says something from each side, and sees that the other one hears it.
fn talk(lab: &mut Lab, word: &[u8]) {
    for (side, packet) in [(0, packet(1, 2, word)), (1, packet(2, 1, word))] {
        lab.send(side, &packet);
        lab.carry();
        assert_eq!(lab.heard(1 - side), [packet]);
    }
}

#[test]
fn packets_go_both_ways_and_only_from_addresses_of_the_peer() {
    let mut lab = Lab::new(0);
    talk(&mut lab, b"hello");
    lab.send(0, &packet(7, 2, b"in another's name"));
    lab.send(0, &packet(1, 9, b"to nobody"));
    lab.carry();
    assert!(lab.heard(1).is_empty());
    talk(&mut lab, b"again");
}

#[test]
fn what_waited_for_a_session_goes_when_the_peer_makes_one() {
    let mut lab = Lab::new(0);
    // Side 1 does not know where the other one is: its handshake goes nowhere.
    for word in [b"one", b"two"] {
        lab.send(1, &packet(2, 1, word));
    }
    assert!(lab.messages(1).is_empty());
    let first = packet(1, 2, b"hello");
    lab.send(0, &first);
    lab.carry();
    assert_eq!(lab.heard(1), [first]);
    assert_eq!(lab.heard(0), [packet(2, 1, b"one"), packet(2, 1, b"two")]);
}

fn whereabouts(lab: &Lab, side: usize) -> Option<SocketAddr> {
    lab.device(side).peers().iter().next().and_then(|peer| peer.endpoint())
}

#[test]
fn who_moves_is_followed_and_replays_are_not() {
    let mut lab = Lab::new(0);
    talk(&mut lab, b"hello");
    let elsewhere: SocketAddr = ([127, 0, 0, 2], 5).into();
    lab.send(0, &packet(1, 2, b"from elsewhere"));
    let messages: Vec<_> = lab.messages(0).into_iter().map(|(_, message)| message).collect();
    lab.hear(1, elsewhere, messages.iter().map(Vec::as_slice));
    assert_eq!(lab.heard(1).len(), 1);
    assert_eq!(whereabouts(&lab, 1), Some(elsewhere));
    lab.hear(1, address(0), messages.iter().map(Vec::as_slice));
    assert!(lab.heard(1).is_empty());
    assert_eq!(whereabouts(&lab, 1), Some(elsewhere));
}

#[test]
fn a_flood_of_handshakes_moves_nobody() {
    let mut lab = Lab::new(0);
    lab.send(0, &packet(1, 2, b"hello"));
    let handshake: Vec<_> = lab.messages(0).into_iter().map(|(_, message)| message).collect();
    lab.hear(1, address(0), handshake.iter().map(Vec::as_slice));
    let answer: Vec<_> = lab.messages(1).into_iter().map(|(_, message)| message).collect();
    assert_eq!(whereabouts(&lab, 0), Some(address(1)));
    let elsewhere: SocketAddr = ([127, 0, 0, 2], 5).into();
    // An answer whose outer code is right and whose inside is not: anyone can make one who knows our key. Under load
    // it is answered with a cookie.
    let mut forged = answer.concat();
    assert_eq!(forged.len(), 92);
    lab.hear(0, address(1), [forged.as_slice()]);
    lab.carry();
    for _ in 0..1000 {
        lab.hear(0, elsewhere, [forged.as_slice()]);
        assert_eq!(whereabouts(&lab, 0), Some(address(1)));
    }
    forged[20] ^= 1;
    lab.hear(0, elsewhere, [forged.as_slice()]);
    assert_eq!(whereabouts(&lab, 0), Some(address(1)));
    // What was sent to the stranger are cookies, and nothing of the session.
    assert!(lab.messages(0).iter().all(|(_, message)| message[0] == 3));
    assert_eq!(lab.heard(1).len(), 1);
    talk(&mut lab, b"still here");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No message makes a device panic or ends a session.
    #[test]
    fn nonsense_harms_nothing(
        made_up in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        changes in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u16>()), 0..60),
    ) {
        let mut lab = Lab::new(0);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        lab.send(0, &packet(1, 2, b"hello"));
        for side in [0, 1, 0, 1, 0] {
            let messages = lab.messages(side);
            seen.extend(messages.iter().map(|(_, message)| message.clone()));
            lab.hear(1 - side, address(side), messages.iter().map(|(_, message)| &**message));
        }
        prop_assert_eq!(lab.heard(1).len(), 1);
        for kind in 0..6_u8 {
            for message in &made_up {
                let mut message = message.clone();
                if let Some(first) = message.first_mut() {
                    *first = kind;
                }
                lab.hear(usize::from(kind % 2), address(0), [message.as_slice()]);
            }
        }
        for (pick, bit, cut) in changes {
            let mut message = seen[usize::from(pick) % seen.len()].clone();
            let at = usize::from(pick) / 7 % message.len();
            message[at] ^= 1 << (bit % 8);
            if bit % 5 == 0 {
                message.truncate(usize::from(cut) % message.len());
            }
            let side = usize::from(bit & 1);
            lab.hear(side, address(1 - side), [message.as_slice()]);
        }
        lab.carry();
        prop_assert!(lab.heard(0).is_empty() && lab.heard(1).is_empty());
        talk(&mut lab, b"still here");
    }
}

/// A day goes by in a moment: `cargo test -p crosspoint-wireguard --lib --features fake-clock`.
#[cfg(feature = "fake-clock")]
mod day {
    use std::time::Duration;

    use mock_instant::MockClock;

    use super::*;
    use crate::tunnel::TICK;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Lets time pass; messages are carried when `way` is open. How many there were.
    fn pass(lab: &mut Lab, time: Duration, way: bool) -> usize {
        let mut count = 0;
        for _ in 0..time.as_millis() / TICK.as_millis() {
            MockClock::advance(TICK);
            lab.tick();
            if way {
                count += lab.carry();
            } else {
                count += lab.messages(0).len() + lab.messages(1).len();
            }
        }
        count
    }

    #[test]
    fn silence_costs_nothing_and_ends_at_once() {
        let mut lab = Lab::new(0);
        talk(&mut lab, b"good morning");
        // The end of what was said is told; then nothing is.
        let first = pass(&mut lab, Duration::from_secs(600), true);
        assert!(first <= 12, "{first} messages after the last word");
        assert_eq!(pass(&mut lab, DAY, true), 0);
        talk(&mut lab, b"good morning");
    }

    #[test]
    fn a_way_that_is_kept_open_stays_open() {
        let mut lab = Lab::new(25);
        // Without a word from inside: the first handshake comes of the wish to be kept in touch.
        let mut count = pass(&mut lab, Duration::from_secs(30), true);
        assert!(count >= 3, "{count} messages");
        for hour in 0..24 {
            count += pass(&mut lab, Duration::from_secs(3600), true);
            // The side that does not know where the other one is can begin.
            let word = packet(2, 1, &[hour; 9]);
            lab.send(1, &word);
            pass(&mut lab, Duration::from_secs(26), true);
            assert_eq!(lab.heard(0), [word], "hour {hour}");
        }
        // One each 25 seconds, and handshakes of three messages.
        assert!((3000..6000).contains(&count), "{count} messages in a day");
    }

    #[test]
    fn keys_change_all_day_and_nothing_is_lost() {
        let mut lab = Lab::new(0);
        let mut handshakes = 0;
        for round in 0..DAY.as_secs() / 10 {
            let word = round.to_be_bytes();
            for (side, packet) in [(0, packet(1, 2, &word)), (1, packet(2, 1, &word))] {
                lab.send(side, &packet);
                lab.carry();
                assert_eq!(lab.heard(1 - side), [packet], "after {} s", round * 10);
            }
            for _ in 0..40 {
                MockClock::advance(TICK);
                lab.tick();
                let begun = lab.messages(0);
                handshakes += begun.iter().filter(|(_, message)| message[0] == 1).count();
                lab.hear(1, address(0), begun.iter().map(|(_, message)| &**message));
                lab.carry();
            }
        }
        // One every two minutes.
        assert!((600..=800).contains(&handshakes), "{handshakes} handshakes in a day");
    }

    #[test]
    fn who_was_away_is_met_again() {
        for keepalive in [0, 25] {
            let mut lab = Lab::new(keepalive);
            talk(&mut lab, b"hello");
            for away in [30, 100, 200, 600, 4 * 3600] {
                lab.send(0, &packet(1, 2, b"into the void"));
                pass(&mut lab, Duration::from_secs(away), false);
                let _ = (lab.heard(0), lab.heard(1));
                if keepalive == 0 {
                    // A handshake is made again every five seconds at most.
                    lab.send(0, &packet(1, 2, b"hello again"));
                }
                pass(&mut lab, Duration::from_secs(26), true);
                let _ = (lab.heard(0), lab.heard(1));
                talk(&mut lab, b"met again");
            }
        }
    }
}
