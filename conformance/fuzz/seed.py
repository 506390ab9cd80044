#!/usr/bin/env python3
"""Writes seeds for a fuzz target, made from ../vectors: seed.py TARGET DIRECTORY. A target without an entry starts from nothing."""
import json
import pathlib
import sys

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"


def lines(folder, prefixes):
    for path in sorted((VECTORS / folder).glob("*.hex")):
        if path.name.startswith(prefixes):
            yield [bytes.fromhex(line) for line in path.read_text().split()]


def sniff_stream():
    picks = {"bittorrent-stream": 3, "dns-stream": 2, "ssh": 4, "rdp": 5}
    for name, pick in picks.items():
        for samples in lines("sniff", (name,)):
            yield from (bytes([pick]) + sample for sample in samples)
    for samples in lines("clienthello", ("",)):
        yield b"\0" + b"".join(samples)
    yield b"\1GET /a HTTP/1.1\r\nHost: www.example.com:80\r\nAccept: */*\r\n\r\n"
    yield b"\1CONNECT h.example:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n"


def tls_hello():
    for samples in lines("clienthello", ("",)):
        yield b"\5" + b"".join(samples)


def framed(samples):
    return b"".join(len(sample).to_bytes(2, "big") + sample for sample in samples)


def sniff_packet():
    for samples in lines("sniff", ("quic", "dns-packet", "dtls", "ntp", "stun", "bittorrent-utp", "bittorrent-tracker")):
        yield b"\0" + framed(samples)


def sniff_quic():
    for samples in lines("clienthello", ("",)):
        hello = b"".join(samples)[5:]
        crypto = lambda at, data: b"\6" + (at | 0x4000).to_bytes(2, "big") + (len(data) | 0x4000).to_bytes(2, "big") + data
        yield framed([crypto(0, hello) + bytes(9)])
        yield framed([crypto(0, hello[:100]) + b"\1\2\5\0\1\0\1\1", bytes(9) + crypto(100, hello[100:])])


RULE = (
    '{"version": 3, "rules": [{"domain": ["a.example", "b.example"], "domain_suffix": [".x", "y"], "domain_keyword": "k", "ip_cidr": ["10.0.0.0/8", "::1"], '
    '"port": [1, 2], "port_range": ":9", "query_type": ["A", 65], "network_type": "wifi", "invert": true}, '
    '{"type": "logical", "mode": "or", "rules": [{"domain_regex": "^a"}, {"process_name": "p", "wifi_ssid": "s"}]}]}'
)


def derp_frames():
    frame = lambda kind, body=b"": bytes([kind]) + len(body).to_bytes(4, "big") + body
    key = bytes(range(32))
    yield b"\0" + frame(7, b"\1") + frame(4, key + b"TS\xf0\x9f\x92\xac" + bytes(60)) + frame(0x12, bytes(8)) + frame(0x66, b"later")
    yield b"\0" + frame(0x10) + frame(0x0A, key + key + b"packet") + frame(0x11, key)
    yield b"\1" + frame(5, key + b"packet") + frame(6) + frame(8, key + b"\1") + frame(9, key + bytes(19)) + frame(0x14, b"text") + frame(0x15, bytes(8))
    yield b'\2{"meshKey":"' + b"0a" * 32 + b'","version":2,"CanAckPings":true,"IsProber":true}'


def derp_stun():
    tx = bytes(range(12))
    yield bytes.fromhex("000100142112a442") + tx + bytes.fromhex("802200087461696c6e6f646580280004") + bytes(4)
    yield bytes.fromhex("0101000c2112a442") + tx + bytes.fromhex("002000080001a14721122b41")


def srs():
    # Two keys "a." and "ab" reversed, as a trie: leaves, bitmap, labels.
    words = lambda *values: bytes([len(values)]) + b"".join(v.to_bytes(8, "big") for v in values)
    trie = b"\0" + words(0b1100) + words(0b1110100) + b"\3.ba"
    ranges = b"\1" + (1).to_bytes(8, "big") + b"\4\x0a\0\0\0\4\x0a\xff\xff\xff"
    items = b"\x02" + trie + b"\x03\1\1k" + b"\x06" + ranges + b"\x09\2\0\1\0\2" + b"\x10" + trie + b"\x12\2\0\3\x13\x14"
    rule = b"\0" + items + b"\xff\1"
    yield b"\2\1" + rule
    yield b"\1\2\1\0\2" + rule + b"\0\x00\2\0\1\0\x1c\xff\0\1" + rule


def rule_set_source():
    yield RULE.encode()
    yield b'{"version": 1, "rules": {"domain": "a"}, } // rest'


def geosite():
    yield b"\0\2\1a\0\2\1b\5\1" + b"\0\1x\3\1y" + b"\1\2.z"


def adguard():
    yield b"www.example.org\n||example.org^\n@@|a.*.org^$important\n/^ads[0-9]+/\n0.0.0.0 b.example\nplain\n||x.org$dnsrewrite=::\n"


def dns_message_question():
    head = lambda extra: b"\0\7\1\0\0\1\0\0\0\0\0" + bytes([extra])
    question = b"\3www\7example\3org\0\0\1\0\1"
    yield head(0) + question
    subnet = b"\0\x08\0\7\0\1\x18\0\xc0\0\2"
    yield head(1) + question + b"\0\0\x29\x04\xd0\0\0\x80\0" + len(subnet).to_bytes(2, "big") + subnet


def dns_cache_patch():
    for query in dns_message_question():
        question = query[12:33]
        a = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"
        soa = b"\0\0\6\0\1\0\0\1\x2c\0\x16\0\0" + bytes(16) + b"\0\0\0\x3c"
        hints = b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\x23\0\1\0\0\4\0\4\xc0\0\2\1\0\6\0\x10" + bytes(16) + b"\0\1\0\0"
        opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
        head = lambda *counts: query[:2] + b"\x81\x80\0\1" + b"".join(n.to_bytes(2, "big") for n in counts)
        for answer in (
            head(1, 0, 0) + question + a,
            head(0, 1, 1) + question + soa + opt,
            head(1, 0, 2) + question + a + opt + a,
            head(1, 0, 0) + question + hints,
        ):
            yield len(query).to_bytes(2, "big") + query + answer


def socks_server():
    login = b"\5\1\2\1\4user\6secret"
    for hello in (b"\0\5\1\0", b"\1" + login):
        yield hello + b"\5\1\0\3\6a.test\0\x50rest"
        yield hello + b"\5\3\0\1\0\0\0\0\0\0"
        yield hello + b"\5\1\0\4" + bytes(15) + b"\1\0\x50"
    yield b"\0\4\1\0\x50\x7f\0\0\1me\0"
    yield b"\1\4\1\0\x50\0\0\0\1four\0a.test\0"


def socks_udp():
    yield b"\0\0\0\1\x7f\0\0\1\0\x35payload"
    yield b"\0\0\0\3\6a.test\0\x35payload"
    yield b"\0\0\0\4" + bytes(10) + b"\xff\xff\x7f\0\0\1\0\x35payload"


def http_server():
    chunks = b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for head in (
        b"\0CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\1CONNECT /p HTTP/1.1\r\nHost: a.test:1\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n",
        b"\0GET http://u:p@a.test:81/x?y HTTP/1.1\r\nConnection: keep-alive, X\r\nX: 1\r\nX-Forwarded-For: ::1\r\n\r\n",
        b"\0POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + chunks,
        b"\0GET http://a/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"\x14HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"\4HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nKeep-Alive: 5\r\n\r\n" + chunks,
        b"\4HTTP/1.0 200 OK\nA: b\n c\nContent-Length: 3\n\nabc",
        b"\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ):
        yield head
    yield b"\0" + chunks


def rules():
    for line in (VECTORS / "config" / "check.jsonl").read_text().splitlines():
        config = json.loads(line)["config"]
        if '"rules"' in config:
            yield config.encode()
    for key, value in {"domain_regex": "^a.c", "ip_cidr": "10.0.0.0/8", "port_range": "1:2", "domain_suffix": ".a"}.items():
        yield json.dumps({"route": {"rules": [{key: [value], "invert": True, "outbound": "a"}]}}).encode()


def rule_regex():
    yield b"^a\\d+(b|\\x{41})[[:alpha:]\\]]{1,3}?\\Q.\\E$\na1bb."
    yield b"(?i)(?P<n>\\pL)\\b|[^a-z&&~~]\nxyz"


def resolv_conf():
    yield b"# x\nsearch lan\nnameserver 127.0.0.53\nnameserver fe80::1%lo\noptions edns0 trust-ad timeout:3 attempts:2 rotate use-vc no-reload ndots:2\n"
    yield b"127.0.0.1\tlocalhost lo # y\n::1 LOCALHOST.\nfe80::1%eth0 b\n"


def dhcp_reply():
    fixed = b"\2\1\6\0\1\2\3\4" + bytes(228) + b"\x63\x82\x53\x63"
    yield fixed + b"\x35\1\2\6\4\n\0\0\1\x0f\3lan\x33\4\0\0\x0e\x10\xff"
    yield fixed + b"\x35\1\5\x77\x0a\3eng\5apple\x77\x11\3com\0\x09marketing\xc0\4\xff"
    yield fixed + b"\x35\1\2\x34\1\3\xff"


def dns_response():
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1a\4test\0\0\1\0\1"
    answer = b"\x12\x34\x81\x80" + query[4:] + b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"
    size = len(query).to_bytes(2, "big")
    yield size + query + answer
    yield size + query + b"\x12\x34\x81\x85" + bytes(8)
    yield b"\0\0" + 2 * (len(answer).to_bytes(2, "big") + answer)


def bbolt():
    """Pages 2 and up: a branch above a leaf with a bucket inline, one on a page of its own, and a value."""
    head = lambda number, flags, count: number.to_bytes(8, "little") + flags.to_bytes(2, "little") + count.to_bytes(2, "little") + bytes(4)
    word = lambda *numbers: b"".join(n.to_bytes(4, "little") for n in numbers)
    page = lambda data: data.ljust(512, b"\0")
    inline = head(0, 2, 1) + word(0, 16, 1, 1) + b"kv"
    bucket = bytes(16) + inline
    leaf = head(3, 2, 3) + word(1, 48, 1, len(bucket)) + word(1, 33 + len(bucket), 1, 16) + word(0, 34 + len(bucket), 1, 1)
    leaf += b"a" + bucket + b"b" + (4).to_bytes(8, "little") + bytes(8) + b"cd"
    yield page(head(2, 1, 1) + word(0, 0) + (3).to_bytes(8, "little")) + page(leaf) + page(head(4, 2, 1) + word(0, 16, 2, 2) + b"keyv")


target, out = sys.argv[1], pathlib.Path(sys.argv[2])
for number, seed in enumerate(globals().get(target, list)()):
    (out / f"seed-{number}").write_bytes(seed)
