//! Samples of real programs.

use super::*;
use crate::sniff::History;

#[test]
fn client_hellos_of_real_programs() {
    // CLIENTHELLO_DIR: a larger collection in the same form (fields.tsv or expected.tsv beside the samples).
    let dir = std::env::var_os("CLIENTHELLO_DIR")
        .map_or_else(|| vectors_dir().join("clienthello"), PathBuf::from);
    let (table, sni_column) = ["expected.tsv", "fields.tsv"]
        .iter()
        .find_map(|name| std::fs::read_to_string(dir.join(name)).ok())
        .map(|text| (text, 2))
        .expect("a table beside the samples");
    let mut count = 0;
    for line in table.lines().skip(1) {
        let mut columns = line.split('\t');
        let file = columns.next().expect("file name");
        let sni = columns.nth(sni_column - 1).expect("server name");
        let hello = unhex(&std::fs::read_to_string(dir.join(file)).expect("sample"));
        assert_eq!(stream(&[], &hello), matched("tls", sni, ""), "{file}");
        for cut in 0..hello.len() {
            let outcome = stream(&[Sniffer::Tls], &hello[..cut]);
            assert_eq!(outcome, Outcome::NeedMore, "{file} cut at {cut}");
        }
        count += 1;
    }
    assert!(count >= 10, "only {count} samples");
}

#[test]
fn quic_of_real_clients() {
    for (file, domain, client) in [
        ("quic-rfc9001-a2", "example.com", "unknown"),
        ("quic-rfc9369-a2", "example.com", "unknown"),
        ("quic-draft29", "example.com", "unknown"),
        ("quic-uquic-chrome115", "www.google.com", "chromium"),
        ("quic-firefox", "www.google.com", "firefox"),
        ("quic-safari", "www.google.com", "safari"),
        ("quic-chromium-2-datagrams", "google.com", "chromium"),
        ("quic-chrome-3-datagrams", "www.google.com", "chromium"),
    ] {
        let datagrams = samples(file);
        let (last, before) = datagrams.split_last().expect("a datagram");
        for list in [&[][..], &[Sniffer::Quic]] {
            let mut sniffer = PacketSniffer::new();
            assert_eq!(sniffer.partial(), None);
            for datagram in before {
                assert_eq!(sniffer.push(list, datagram), Outcome::NeedMore, "{file}");
                let partial = sniffer.partial().map(Outcome::Match);
                assert_eq!(partial, Some(matched("quic", "", "chromium")), "{file}");
            }
            assert_eq!(sniffer.push(list, last), matched("quic", domain, client), "{file}");
            assert_eq!(sniffer.partial(), None);
        }
    }
}

#[test]
fn quic_datagrams_in_any_order() {
    let mut datagrams = samples("quic-chrome-3-datagrams");
    datagrams.reverse();
    let mut sniffer = PacketSniffer::new();
    // The duplicate must change nothing.
    for datagram in [&datagrams[0], &datagrams[0], &datagrams[1]] {
        assert_eq!(sniffer.push(&[], datagram), Outcome::NeedMore);
    }
    assert_eq!(sniffer.push(&[], &datagrams[2]), matched("quic", "www.google.com", "chromium"));
}

#[test]
fn streams() {
    for sample in samples("bittorrent-stream") {
        assert_eq!(stream(&[], &sample), matched("bittorrent", "", ""));
    }
    for (file, sniffer, client) in [
        ("dns-stream", Sniffer::Dns, ""),
        ("rdp", Sniffer::Rdp, ""),
        ("ssh", Sniffer::Ssh, "dropbear"),
    ] {
        let sample = &samples(file)[0];
        let expected = matched(sniffer.name(), "", client);
        assert_eq!(stream(&[], sample), expected);
        assert_eq!(stream(&[sniffer], sample), expected);
        for cut in 0..sample.len() {
            let outcome = stream(&[sniffer], &sample[..cut]);
            assert!(
                outcome == Outcome::NeedMore || outcome == expected,
                "{file} cut at {cut}: {outcome:?}"
            );
        }
    }
}

#[test]
fn datagrams() {
    for (file, protocol) in [
        ("bittorrent-utp", "bittorrent"),
        ("bittorrent-tracker", "bittorrent"),
        ("dns-packet", "dns"),
        ("dtls-client-hello", "dtls"),
        ("dtls-application-data", "dtls"),
        ("ntp", "ntp"),
        ("stun", "stun"),
    ] {
        let sniffer = Sniffer::parse(protocol).expect("a sniffer");
        for sample in samples(file) {
            assert_eq!(packet(&[], &sample), matched(protocol, "", ""), "{file}");
            assert_eq!(packet(&[sniffer], &sample), matched(protocol, "", ""));
        }
    }
    for sample in samples("not-utp") {
        assert_eq!(packet(&[Sniffer::BitTorrent], &sample), Outcome::NoMatch);
    }
}

#[test]
fn what_the_reference_hides_behind_dns() {
    for file in ["ntp", "dtls-client-hello"] {
        let sample = &samples(file)[0];
        let mut sniffer = PacketSniffer::new().dns_ends_sniffing(true);
        assert_eq!(sniffer.push(&[], sample), Outcome::NoMatch, "{file}");
    }
}

#[test]
fn names_go_both_ways() {
    for sniffer in ALL {
        assert_eq!(Sniffer::parse(sniffer.name()), Some(sniffer));
    }
    assert_eq!(Sniffer::parse("TLS"), None);
    assert_eq!(Sniffer::parse(""), None);
}

#[test]
fn lists_for_the_other_network_do_not_match() {
    let hello = unhex(
        &std::fs::read_to_string(vectors_dir().join("clienthello/chromium156-real-1.hex"))
            .expect("sample"),
    );
    assert_eq!(stream(&[Sniffer::Quic], &hello), Outcome::NoMatch);
    let initial = &samples("quic-firefox")[0];
    assert_eq!(packet(&[Sniffer::Tls], initial), Outcome::NoMatch);
}

#[test]
fn history_keeps_from_repeating_a_failure() {
    let (a, b) = ([Sniffer::Tls, Sniffer::Http], [Sniffer::Http, Sniffer::Tls]);
    let mut history = History::new();
    assert!(history.allows_stream(&a) && !history.allows_packets(&a));
    assert!(history.allows_stream(&[]) && history.allows_packets(&[]));
    assert!(!history.allows_stream(&[Sniffer::Quic]));
    history.record(&a, &Outcome::NoMatch);
    assert!(!history.allows_stream(&a));
    assert!(history.allows_stream(&b) && history.allows_stream(&[]));
    history.record(&a, &Outcome::NeedMore);
    assert!(history.allows_stream(&a));
    history.record(&a, &matched("tls", "", ""));
    assert!(!history.allows_stream(&b));
}
