//! What kind of traffic a stream carries, seen from its first packets (Xray `proxy/proxy.go`, sing-vmess
//! `vless/vision.go`).

/// Packets that are looked at.
const PACKETS: u8 = 8;

/// `supported_versions` of a ServerHello with TLS 1.3 (RFC 8446 §4.2.1).
const TLS13: [u8; 6] = [0, 0x2b, 0, 2, 3, 4];

/// Cipher suites of TLS 1.3 that are left to themselves: all but TLS_AES_128_CCM_8_SHA256.
const SUITES: std::ops::RangeInclusive<u16> = 0x1301..=0x1304;

/// Looks at the first packets of both directions.
#[derive(Clone, Debug)]
pub struct Filter {
    left: u8,
    tls: bool,
    tls12: bool,
    direct: bool,
    /// Bytes of a ServerHello that are still to come.
    hello: usize,
    suite: u16,
}

impl Default for Filter {
    fn default() -> Self {
        Self { left: PACKETS, tls: false, tls12: false, direct: false, hello: 0, suite: 0 }
    }
}

impl Filter {
    /// Whether enough was seen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Whether a handshake of TLS was seen.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether it is TLS 1.3 with a suite that needs no further protection.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is known not to be TLS, or soon will be.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.tls12 && self.left <= 1
    }

    /// Looks at a packet of either direction.
    pub fn look(&mut self, packet: &[u8]) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        // The head of a record, and the type of a message of the handshake.
        if let Some([22, 3, minor, high, low, kind, _]) = packet.first_chunk() {
            self.tls |= *minor == 3 || *kind == 1;
            if *minor == 3 && *kind == 2 {
                self.tls12 = true;
                self.hello = 5 + usize::from(u16::from_be_bytes([*high, *low]));
                let suite = packet.get(43).and_then(|id| {
                    packet.get(44 + usize::from(*id)..).and_then(<[u8]>::first_chunk)
                });
                if self.hello >= 79 && packet.len() >= 79 {
                    self.suite = suite.map_or(0, |suite| u16::from_be_bytes(*suite));
                }
            }
        }
        if self.hello > 0 {
            let seen = &packet[..packet.len().min(self.hello)];
            self.hello -= seen.len();
            if seen.windows(TLS13.len()).any(|window| window == TLS13) {
                self.direct = SUITES.contains(&self.suite);
                self.left = 0;
            } else if self.hello == 0 {
                self.left = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ServerHello with that suite, and with or without the extension of TLS 1.3.
    pub(super) fn server_hello(suite: u16, tls13: bool) -> Vec<u8> {
        let mut out = vec![22, 3, 3, 0, 0, 2, 0, 0, 0, 3, 3];
        out.extend([7; 32]);
        out.push(32);
        out.extend([9; 32]);
        out.extend(suite.to_be_bytes());
        out.push(0);
        if tls13 {
            out.extend([0, 6]);
            out.extend(TLS13);
        } else {
            out.extend([0, 4, 0xff, 1, 0, 0]);
        }
        let len = (out.len() - 5) as u16;
        out[3..5].copy_from_slice(&len.to_be_bytes());
        out
    }

    #[test]
    fn handshakes_are_told_apart() {
        for (suite, tls13, direct) in [
            (0x1301, true, true),
            (0x1303, true, true),
            (0x1305, true, false),
            (0xc02f, true, false),
            (0xc02f, false, false),
        ] {
            let mut filter = Filter::default();
            filter.look(&[22, 3, 1, 0, 200, 1, 0, 0]);
            assert!(filter.is_tls() && !filter.is_over() && !filter.is_direct());
            filter.look(&server_hello(suite, tls13));
            assert_eq!((filter.is_direct(), filter.is_over()), (direct, true), "{suite:x}");
            assert!(!filter.is_plain());
        }
    }

    #[test]
    fn a_hello_may_come_in_pieces() {
        let hello = server_hello(0x1302, true);
        let mut filter = Filter::default();
        filter.look(&hello[..hello.len() - 7]);
        assert!(!filter.is_over());
        filter.look(&hello[hello.len() - 7..]);
        assert!(filter.is_direct());
    }

    #[test]
    fn other_traffic_ends_after_some_packets() {
        let mut filter = Filter::default();
        for n in 0..7 {
            assert!(!filter.is_plain(), "{n}");
            filter.look(b"GET / HTTP/1.1");
        }
        assert!(filter.is_plain() && !filter.is_tls() && !filter.is_over());
        filter.look(b"");
        assert!(filter.is_over());
    }
}
