"""Clients of an HTTP server on this machine, in a process of their own: how many requests it answers, and how fast. Not part of the package.

    serve_load.py PORT search|upload CLIENTS SECONDS [--images N] [--rate R] [--folder PHOTOS] [--requests N]

Each client has one connection and asks again when it is answered; with --rate they ask when it is time instead, and a late answer counts from when it
should have been asked for, so that a server which stops for a while does not stop the clock. Prints one JSON object.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np

BOUNDARY = b"simclr-benchmark"


def search_body(rng: random.Random, images: int) -> tuple[bytes, bytes]:
    return b"application/json", b'{"id":%d,"k":10}' % rng.randrange(images)


def upload_body(photo: bytes) -> tuple[bytes, bytes]:
    head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return (
        b"multipart/form-data; boundary=" + BOUNDARY,
        head % BOUNDARY + photo + b"\r\n--%s--\r\n" % BOUNDARY,
    )


class Load:
    def __init__(self, words: argparse.Namespace) -> None:
        self.words = words
        self.seconds: list[float] = []
        self.codes: Counter[int] = Counter()
        photos = sorted(Path(words.folder).rglob("*.jpg")) if words.folder else []
        self.photos = [photo.read_bytes() for photo in photos[:200]]
        self.began = time.monotonic()
        self.asked = 0

    def more(self) -> bool:
        self.asked += 1
        if self.words.requests:
            return self.asked <= self.words.requests
        return time.monotonic() - self.began < self.words.seconds

    async def due(self) -> float:
        """When the next request should be sent; waits until then."""
        if not self.words.rate:
            return time.monotonic()
        due = self.began + self.asked / self.words.rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        return due

    async def client(self, number: int) -> None:
        rng = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.words.port)
        while self.more():
            kind, body = (
                search_body(rng, self.words.images)
                if self.words.what == "search"
                else upload_body(rng.choice(self.photos))
            )
            started = await self.due()
            head = (
                b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
            )
            writer.write(head % (kind, len(body)) + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            place = answer.index(b"content-length:") + 15
            await reader.readexactly(int(answer[place : answer.index(b"\r", place)]))
            self.seconds.append(time.monotonic() - started)
            self.codes[int(answer[9:12])] += 1
        writer.close()

    async def run(self) -> dict[str, object]:
        self.began = time.monotonic()
        await asyncio.gather(*(self.client(number) for number in range(self.words.clients)))
        took = time.monotonic() - self.began
        low, high = np.percentile(self.seconds, [50, 99]).tolist()
        return {
            "per_second": len(self.seconds) / took,
            "p50_ms": 1e3 * low,
            "p99_ms": 1e3 * high,
            "codes": dict(self.codes),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("what", choices=["search", "upload"])
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--folder")
    print(json.dumps(asyncio.run(Load(parser.parse_args()).run())))
