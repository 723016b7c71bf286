"""A web service with metrics of Prometheus: `web_service.py PORT DELAY_S FAIL_EVERY`.

Each request takes DELAY_S, and each FAIL_EVERYth fails, none with 0.
"""

from __future__ import annotations

import asyncio
import sys
import time

_METRICS = """\
web_requests_total{{code="200"}} {good}
web_requests_total{{code="500"}} {failed}
web_seconds_sum {seconds}
web_seconds_count {all}
"""


class Service:
    """What it answered."""

    def __init__(self, delay_s: float, fail_every: int) -> None:
        self.delay_s, self.fail_every = delay_s, fail_every
        self.all = self.failed = 0
        self.seconds = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass
            status, body = await self.answer(line.split()[1].decode())
            head = f"HTTP/1.1 {status} -\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}"
            writer.write(f"{head}\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    async def answer(self, path: str) -> tuple[int, str]:
        if path == "/metrics":
            good = self.all - self.failed
            return 200, _METRICS.format(
                good=good, failed=self.failed, seconds=self.seconds, all=self.all
            )
        begun = time.monotonic()
        await asyncio.sleep(self.delay_s)
        self.all += 1
        fails = self.fail_every > 0 and self.all % self.fail_every == 0
        self.failed += fails
        self.seconds += time.monotonic() - begun
        return (500, "failed") if fails else (200, "hello")


async def main(port: int, delay_s: float, fail_every: int) -> None:
    service = Service(delay_s, fail_every)
    server = await asyncio.start_server(service.serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
