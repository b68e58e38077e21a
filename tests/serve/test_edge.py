"""What every request passes: bounds of its body and its time, headers of its answer, and no trace of what went wrong inside."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from served import RED, detail, photo

from simclr.serve.edge import HEADERS, Edge
from simclr.serve.guard import Guard
from simclr.serve.limits import Limits


class Counted:
    """As much of `Metrics` as is needed here."""

    def __init__(self):
        self.requests = Counter("r", "", ["route", "status"], registry=CollectorRegistry())
        self.seconds = Histogram("s", "", ["route"], registry=CollectorRegistry())


def edge(app, *, most=10, **limits):
    guard = Guard(token=None, hosts=frozenset({"here"}), rate=0)
    return Edge(app, guard=guard, limits=Limits(**limits), metrics=Counted(), most=most)


async def sent(app, messages=(), *, wait=0.0, headers=()):
    """Status, headers and body of what an application answers to a body that comes in these pieces, `wait` seconds apart."""
    left, answer = list(messages), []

    async def receive():
        await asyncio.sleep(wait)
        piece = left.pop(0) if left else b""
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message):
        answer.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/search", "client": ("1.2.3.4", 5),
        "headers": [(b"host", b"here"), *headers],
    }  # fmt: skip
    await app(scope, receive, send)
    return answer[0]["status"], dict(answer[0]["headers"]), json.loads(answer[1]["body"])


async def reader(scope, receive, send):
    """Reads it all, as routes do."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def test_every_answer_carries_the_headers_that_keep_a_page_to_itself(client):
    for answer in (client.get("/healthz"), client.get("/nothing"), client.get("/", headers={"host": "evil"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read():
    async def unread(scope, receive, send):
        raise AssertionError

    status, headers, body = asyncio.run(
        sent(edge(unread, upload_bytes=10), headers=[(b"content-length", b"11")])
    )
    assert status == 413 and headers[b"connection"] == b"close"
    assert body == {"detail": "more than 10 bytes. Send less, or a smaller image."}


def test_a_body_that_grows_too_large_is_refused_where_it_does():
    pieces = [b"x" * 4] * 100
    assert asyncio.run(sent(edge(reader, upload_bytes=10), pieces))[0] == 413
    assert asyncio.run(sent(edge(reader, upload_bytes=400), pieces))[0] == 200


def test_a_body_that_comes_too_slowly_is_given_up():
    status, _, body = asyncio.run(sent(edge(reader, seconds=0.2), [b"x"] * 100, wait=0.05))
    assert status == 408 and body["detail"] == "the request took longer than 0.2 s to arrive."


def test_an_answer_that_takes_too_long_is_given_up_and_says_when_to_try_again():
    async def slow(scope, receive, send):
        await receive()
        await asyncio.sleep(60)

    status, headers, _ = asyncio.run(sent(edge(slow, seconds=0.2)))
    assert status == 503 and headers[b"retry-after"] == b"1"


def test_more_requests_than_may_be_inside_are_told_to_come_again():
    async def run():
        go = asyncio.Event()

        async def waits(scope, receive, send):
            await go.wait()
            await reader(scope, receive, send)

        app = edge(waits, most=2)
        first = [asyncio.create_task(sent(app)) for _ in range(2)]
        await asyncio.sleep(0.01)
        third = await sent(app)
        go.set()
        return third, await asyncio.gather(*first), await sent(app)

    third, first, later = asyncio.run(run())
    assert third[0] == 503 and third[1][b"retry-after"] == b"1"
    assert [answer[0] for answer in first] == [200, 200] and later[0] == 200


def test_an_error_inside_shows_no_trace_to_the_client_and_all_to_the_operator(
    client, monkeypatch, caplog, id_of
):
    def broken(*words, **more):
        raise RuntimeError("/secret/path is broken")

    monkeypatch.setattr("simclr.serve.answers.found", broken)
    answer = client.post("/search", json={"id": id_of("red_dark")})
    assert answer.status_code == 500
    assert detail(answer) == "something went wrong here (RuntimeError)."
    assert "/secret/path is broken" in caplog.text


def test_an_upload_above_the_limit_is_refused_by_its_size(client_of):
    client = client_of(limits=Limits(upload_bytes=1000))
    answer = client.post("/search", files={"file": photo(RED, "BMP", (40, 40))})
    assert answer.status_code == 413 and detail(answer).startswith("more than 1,000 bytes.")


@pytest.mark.parametrize("length", [b"-5", b"abc", b"1_0", "٣".encode(), b""])
def test_a_length_that_is_no_number_is_the_protocols_matter(length):
    assert asyncio.run(sent(edge(reader), headers=[(b"content-length", length)]))[0] == 200
