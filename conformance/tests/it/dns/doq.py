"""A DNS server over QUIC (RFC 9250) on the library aioquic, in front of a DNS server over TCP.

Arguments: port, certificate, key, port of the server behind.
"""

import asyncio
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived

PORT, CERTIFICATE, KEY, BEHIND = sys.argv[1:]


class Doq(QuicConnectionProtocol):
    """One connection: a query on each stream."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.streams = {}
        self.tasks = set()

    def quic_event_received(self, event):
        if not isinstance(event, StreamDataReceived):
            return
        data = self.streams.pop(event.stream_id, b"") + event.data
        if event.end_stream:
            task = asyncio.ensure_future(self.answer(event.stream_id, data))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.streams[event.stream_id] = data

    async def answer(self, stream_id, data):
        length, ident = struct.unpack("!HH", data[:4])
        # RFC 9250 4.2.1: a query with another id is an error of the client.
        if length != len(data) - 2 or ident != 0:
            self._quic.close(error_code=2)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(BEHIND))
            writer.write(data)
            answer = await reader.readexactly(2)
            answer += await reader.readexactly(struct.unpack("!H", answer)[0])
            writer.close()
            self._quic.send_stream_data(stream_id, answer, end_stream=True)
        self.transmit()


async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["doq"])
    configuration.load_cert_chain(CERTIFICATE, KEY)
    await serve("127.0.0.1", int(PORT), configuration=configuration, create_protocol=Doq)
    await asyncio.Future()


asyncio.run(main())
