//! Hand-written first bytes, whole, cut short and malformed.

use super::*;
use crate::sniff::Outcome::{NeedMore, NoMatch};

#[test]
fn http_hosts() {
    for (request, host) in [
        ("GET / HTTP/1.1\r\nHost: www.google.com\r\nAccept: */*\r\n\r\n", "www.google.com"),
        ("GET / HTTP/1.1\r\nHost: www.gov.cn:8080\r\nAccept: */*\r\n\r\n", "www.gov.cn"),
        ("GET / HTTP/1.1\nhost:  spaced.example \n\n", "spaced.example"),
        ("GET / HTTP/1.0\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nA: b\r\n folded: c\r\nHost: x.example\r\n\r\n", "x.example"),
        (
            "GET http://user:pw@proxy.example:81/a@b HTTP/1.1\r\nHost: other\r\n\r\n",
            "proxy.example",
        ),
        ("CONNECT tunnel.example:443 HTTP/1.1\r\nHost: other\r\n\r\n", "tunnel.example"),
        ("CONNECT /path HTTP/1.1\r\nHost: h.example\r\n\r\n", "h.example"),
        ("GET / HTTP/1.1\r\nHost: [2001:DB8:0::1]:8080\r\n\r\n", "2001:db8::1"),
        ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "::1"),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", "192.0.2.1"),
        ("GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n", "a:b:c"),
        ("OPTIONS * HTTP/1.1\r\nHost: star\r\n\r\n", "star"),
        ("BREW urn:pot HTTP/1.1\r\nHost: tea\r\n\r\n", "tea"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
    ] {
        let expected = matched("http", host, "");
        assert_eq!(stream(&[], request.as_bytes()), expected, "{request:?}");
        let known = request.split(' ').next() != Some("BREW");
        let head = request.find("\r\n\r\n").or_else(|| request.find("\n\n"));
        for cut in 0..=head.expect("a blank line") {
            let outcome = stream(&[Sniffer::Http], &request.as_bytes()[..cut]);
            assert!(!known || outcome == NeedMore, "{request:?} cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_http() {
    for bytes in [
        "GET /\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET / HTTP/1.x\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n",
        " / HTTP/1.1\r\n\r\n",
        "GET host HTTP/1.1\r\n\r\n",
        "GET /\u{7f} HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "HELO there",
        "GET\r",
        "GET / HTTX",
        "GET / HTTP/1.1x",
    ] {
        assert_eq!(stream(&[Sniffer::Http], bytes.as_bytes()), NoMatch, "{bytes:?}");
    }
    let endless = format!("GET /{}", "a".repeat(20 << 10));
    assert_eq!(stream(&[Sniffer::Http], endless.as_bytes()), NoMatch);
}

#[test]
fn ssh_versions() {
    let sniff = |bytes: &[u8]| stream(&[Sniffer::Ssh], bytes);
    assert_eq!(
        sniff(b"SSH-2.0-OpenSSH_9.6p1 Debian-4\r\nmore"),
        matched("ssh", "", "OpenSSH_9.6p1 Debian-4")
    );
    assert_eq!(sniff(b"SSH-2.0-OpenSSH"), NeedMore);
    assert_eq!(sniff(b"SSH-2.0"), NeedMore);
    assert_eq!(sniff(b""), NeedMore);
    assert_eq!(sniff(b"SSH-2.1"), NoMatch);
    assert_eq!(sniff(b"SSH-1.99-x\r\n"), NoMatch);
    let long = [b"SSH-2.0-".as_slice(), &[b'a'; 400]].concat();
    assert_eq!(sniff(&long), matched("ssh", "", &"a".repeat(247)));
}

#[test]
fn tls_over_several_records() {
    let hello = unhex(
        &std::fs::read_to_string(vectors_dir().join("clienthello/firefox153esr-real-1.hex"))
            .expect("sample"),
    );
    let expected = stream(&[Sniffer::Tls], &hello);
    let message = &hello[5..];
    for size in [1, 3, 4, 5, 100, message.len()] {
        let mut records = Vec::new();
        for part in message.chunks(size) {
            records.extend([22, 3, 1]);
            records.extend((part.len() as u16).to_be_bytes());
            records.extend(part);
        }
        assert_eq!(stream(&[], &records), expected);
        for cut in 0..records.len() {
            assert_eq!(stream(&[Sniffer::Tls], &records[..cut]), NeedMore);
        }
    }
    for (at, value) in [(0, 21), (0, 0x80), (1, 0x10), (3, 0x41), (5, 2), (6, 2)] {
        let mut bad = hello.clone();
        bad[at] = value;
        let outcome = stream(&[Sniffer::Tls], &bad);
        assert_eq!(outcome, NoMatch, "byte {at} = {value}");
    }
}

#[test]
fn tls_server_names_that_servers_refuse() {
    let hello = |names: &[&[u8]]| {
        let mut list = Vec::new();
        for name in names {
            list.push(0);
            list.extend((name.len() as u16).to_be_bytes());
            list.extend(*name);
        }
        let with_len = |body: &[u8]| [&(body.len() as u16).to_be_bytes()[..], body].concat();
        let extension = [&[0, 0][..], &with_len(&with_len(&list))].concat();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(with_len(&extension));
        let message = [&[1, 0][..], &with_len(&body)].concat();
        [&[22, 3, 1][..], &with_len(&message)].concat()
    };
    let sniff = |names: &[&[u8]]| stream(&[Sniffer::Tls], &hello(names));
    assert_eq!(sniff(&[b"a.example"]), matched("tls", "a.example", ""));
    assert_eq!(sniff(&[b"\xff\xfe"]), matched("tls", "", ""));
    assert_eq!(sniff(&[b"a.example."]), NoMatch);
    assert_eq!(sniff(&[b"a", b"b"]), NoMatch);
    assert_eq!(sniff(&[b""]), NoMatch);
    assert_eq!(sniff(&[]), NoMatch);
}

#[test]
fn dns_messages() {
    let query = samples("dns-packet").remove(0);
    let with = |at: usize, value: u8| {
        let mut changed = query.clone();
        changed[at] = value;
        packet(&[Sniffer::Dns], &changed)
    };
    assert_eq!(with(2, 0x81), NoMatch, "a response");
    assert_eq!(with(5, 0), NoMatch, "no question");
    assert_eq!(with(7, 1), NoMatch, "an answer");
    assert_eq!(with(9, 1), NoMatch, "an authority record");
    assert_eq!(with(5, 2), matched("dns", "", ""), "fewer than counted");
    assert_eq!(with(12, 0x40), NoMatch, "a label type of old");
    assert_eq!(with(12, 63), NoMatch, "a label over the end");
    let edns = [&query[..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(packet(&[Sniffer::Dns], &edns), matched("dns", "", ""));
    for cut in 0..query.len() {
        assert_eq!(packet(&[Sniffer::Dns], &query[..cut]), NoMatch);
    }

    let sniff = |hex: &str| stream(&[Sniffer::Dns], &unhex(hex));
    assert_eq!(sniff("001e740701000001000000000000"), NeedMore);
    assert_eq!(sniff("001e740701000000000000000000"), NoMatch);
    assert_eq!(sniff("000b7407"), NoMatch);
    assert_eq!(sniff("001e740781"), NoMatch);
    assert_eq!(sniff("00"), NeedMore);
}

#[test]
fn small_datagrams() {
    let sniff = |sniffer, hex: &str| packet(&[sniffer], &unhex(hex)) != NoMatch;
    assert!(!sniff(Sniffer::Stun, "000100002112a44224b1a025d0c180c4843413"));
    assert!(!sniff(Sniffer::Stun, "000100042112a44224b1a025d0c180c484341306"));
    assert!(!sniff(Sniffer::Stun, "000100002112a44324b1a025d0c180c484341306"));
    let zeros = |n: usize| "00".repeat(n);
    assert!(sniff(Sniffer::Ntp, &format!("23{}", zeros(47))));
    assert!(!sniff(Sniffer::Ntp, &format!("23{}", zeros(46))));
    assert!(!sniff(Sniffer::Ntp, &format!("24{}", zeros(47))), "server");
    assert!(!sniff(Sniffer::Ntp, &format!("13{}", zeros(47))), "NTPv2");
    assert!(!sniff(Sniffer::Ntp, &format!("2300000000100001{}", zeros(40))));
    assert!(sniff(Sniffer::Dtls, &format!("19fefd{}", zeros(10))));
    assert!(!sniff(Sniffer::Dtls, &format!("18fefd{}", zeros(10))));
    assert!(!sniff(Sniffer::Dtls, &format!("16fefc{}", zeros(10))));
    assert!(!sniff(Sniffer::Dtls, &format!("16fefd{}", zeros(9))));
    assert!(!sniff(Sniffer::BitTorrent, "000004172710198000000001000000000000"));
    assert!(!sniff(Sniffer::BitTorrent, &format!("51{}", zeros(19))));
}
