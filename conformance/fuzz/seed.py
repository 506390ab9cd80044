#!/usr/bin/env python3
"""Writes seeds for a fuzz target, made from ../vectors: seed.py TARGET DIRECTORY. A target without an entry starts from nothing."""
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


target, out = sys.argv[1], pathlib.Path(sys.argv[2])
for number, seed in enumerate(globals().get(target, list)()):
    (out / f"seed-{number}").write_bytes(seed)
