"""`simclr serve` as a process: what it prints, where it listens, what it does with slow and hostile clients, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import BLUE, photo
from test_cli import run


class Server:
    """One process."""

    def __init__(self, *words: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simclr", "serve", *map(str, words), "--port", "0"],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {}),
        )  # fmt: skip
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if found := re.search(r"serving at http://.*:(\d+) ", line):
                self.port = int(found[1])
                return
        raise AssertionError(self.said)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def search(self, id: int) -> tuple[int, dict]:
        code, body = self.ask(
            "POST", "/search", json.dumps({"id": id}).encode(), content_type="application/json"
        )
        return code, json.loads(body)

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said from its start on."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=30)
        assert out == ""
        return self.process.returncode, err


@pytest.fixture
def serve(index: Path) -> Iterator:
    servers = []

    def serve(*words: object, **options) -> Server:
        servers.append(Server(index, *words, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_it_says_what_it_serves_and_where_and_that_it_has_ended(serve):
    server = serve()
    assert server.said[0] == "12 images, IDMap2,Flat, encoder on ort-cpu"
    assert server.said[1] == f"serving at http://127.0.0.1:{server.port} (Ctrl-C ends)"
    assert server.ask("GET", "/healthz")[0] == 200
    assert server.end() == (0, "ended: everything that had begun was answered.\n")


def test_the_page_and_its_parts_are_served(serve):
    server = serve()
    code, page = server.ask("GET", "/")
    assert code == 200 and b"<!doctype html>" in page.lower()
    for part in set(re.findall(rb'(?:src|href)="(/page/[^"]+)"', page)):
        assert server.ask("GET", part.decode())[0] == 200
    for path in ("/page/../api.py", "/page/%2e%2e/api.py", "/page/..%2fapi.py", "/page/nothing.js", "/page/"):
        assert server.ask("GET", path)[0] == 404


def test_only_this_machine_is_listened_to_unless_there_is_a_token(index):
    code, out, err = run("serve", index, "--host", "0.0.0.0")
    assert (code, out) == (2, "")
    assert err == (
        "error: --host 0.0.0.0 can be reached from other machines: give a --token, or use 127.0.0.1 for this machine alone.\n"
    )


def test_an_empty_token_is_none(index):
    code, _, err = run("serve", index, "--token", " ")
    assert code == 2 and err.startswith("error: --token is empty.")


def test_a_token_may_come_from_the_environment(serve, id_of):
    server = serve("--host", "0.0.0.0", environment={"SIMCLR_TOKEN": "secret"})
    assert server.search(id_of("red_dark"))[0] == 401
    assert server.ask("GET", "/collection", authorization="Bearer secret")[0] == 200


def test_a_port_that_is_taken_is_said_to_be(index):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("serve", index, "--port", port)
    assert code == 2
    assert (
        err
        == f"error: 127.0.0.1:{port}: cannot listen there (Address already in use). Give another --port, or --host.\n"
    )


def test_a_missing_index_is_said_to_be(tmp_path):
    code, _, err = run("serve", tmp_path / "no.faiss")
    assert code == 1 and "no such index" in err


def test_a_rate_below_zero_is_refused(index):
    code, _, err = run("serve", index, "--rate", "-1")
    assert code == 2 and err == "error: rate (-1) must be requests a second, or 0 for no limit.\n"


def test_what_has_begun_is_finished_when_the_server_ends(serve):
    """The body of an upload is on its way when it is told to end."""
    server = serve()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + photo(BLUE)
        + b"\r\n--x--\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as begun:
        head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
        begun.sendall(head.encode() + body[:50])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        begun.sendall(body[50:])
        answer = begun.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 200")
    assert server.end() == (0, "ended: everything that had begun was answered.\n")


def test_ctrl_c_ends_it_as_well(serve):
    server = serve()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


def test_a_head_that_comes_a_letter_at_a_time_is_given_up(serve, monkeypatch, index):
    """In this process, with less patience."""
    import asyncio

    import uvicorn

    from simclr.serve.patience import patient

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def talk(port, *, slow):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for letter in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n":
            writer.write(bytes([letter]))
            await asyncio.sleep(0.05 if slow else 0)
        answer = await reader.read(100)
        writer.close()
        return answer

    async def both():
        config = uvicorn.Config(app, http=patient(0.4), ws="none", log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(server._serve([listener]))
        found = await asyncio.gather(
            *(talk(listener.getsockname()[1], slow=slow) for slow in (True, False)), return_exceptions=True
        )
        server.should_exit = True
        await task
        return found

    slow, quick = asyncio.run(both())
    assert slow == b"" or isinstance(slow, ConnectionError)
    assert quick.startswith(b"HTTP/1.1 204")


def test_a_huge_head_is_refused(serve):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        try:
            for _ in range(100):
                client.sendall(b"X-A: " + b"a" * 1000 + b"\r\n")
            answer = client.recv(1000)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert server.ask("GET", "/healthz")[0] == 200


def test_what_is_no_http_is_refused(serve):
    server = serve()
    tls, version = b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n"
    for words in (tls, version, b"GET\r\n\r\n", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(1000)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert server.ask("GET", "/healthz")[0] == 200


def test_it_loads_no_torch(index):
    script = (
        "import sys\nfrom pathlib import Path\nfrom simclr.serve.api import create_app\nfrom simclr.serve.collection import Collection\n"
        f"create_app(Collection.open(Path({str(index)!r})), thumbnails=Path('x'))\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
