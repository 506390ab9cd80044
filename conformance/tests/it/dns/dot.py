"""TLS, as Python and OpenSSL speak it, in front of a DNS server over TCP.

Arguments: port, certificate, key, port of the server behind.
"""

import asyncio
import ssl
import sys

PORT, CERTIFICATE, KEY, BEHIND = sys.argv[1:]


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    behind = await asyncio.open_connection("127.0.0.1", int(BEHIND))
    await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, KEY)
    server = await asyncio.start_server(serve, "127.0.0.1", int(PORT), ssl=context)
    await server.serve_forever()


asyncio.run(main())
