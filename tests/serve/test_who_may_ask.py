"""Who may ask: names of this machine, pages of this server, those who know the token, and not too often."""

import pytest
from served import detail

from simclr.serve.guard import Guard
from simclr.serve.limits import Limits, Refused

HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def check(guard, *, method="GET", path="/collection", client="1.2.3.4", **headers):
    guard.check(method, path, client, {"host": "127.0.0.1:8000"} | headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(host):
    check(Guard(token=None, hosts=HOSTS, rate=0), host=host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", "localhost@evil.example"],
)
def test_a_name_that_leads_here_by_rebinding_is_refused(host):
    with pytest.raises(Refused) as refused:
        check(Guard(token=None, hosts=HOSTS, rate=0), host=host)
    assert refused.value.status == 421


def test_with_a_token_any_name_will_do():
    check(Guard(token="t", hosts=HOSTS, rate=0), host="photos.example", authorization="Bearer t")


def test_a_page_of_another_site_may_not_post():
    guard = Guard(token=None, hosts=HOSTS, rate=0)
    check(guard, method="POST", origin="http://127.0.0.1:8000")
    for origin in ("https://evil.example", "http://127.0.0.1:9000", "null"):
        with pytest.raises(Refused) as refused:
            check(guard, method="POST", origin=origin)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic secret", "secret", "Bearer secrets", "Bearer sécret"],
)
def test_a_wrong_token_is_refused(header):
    with pytest.raises(Refused) as refused:
        check(Guard(token="secret", hosts=HOSTS, rate=0), authorization=header)
    assert refused.value.status == 401


def test_a_token_may_have_any_letters():
    check(Guard(token="geheim-ß", hosts=HOSTS, rate=0), authorization="bearer geheim-ß")


@pytest.mark.parametrize("cookie", ["", "simclr=", "simclr=wrong", "other=x", 'simclr="', "simclr=é"])
def test_a_wrong_cookie_is_refused(cookie):
    with pytest.raises(Refused) as refused:
        check(Guard(token="secret", hosts=HOSTS, rate=0), cookie=cookie)
    assert refused.value.status == 401


def test_the_cookie_is_not_the_token():
    guard = Guard(token="secret", hosts=HOSTS, rate=0)
    check(guard, cookie=f"a=b; simclr={guard.cookie}")
    assert "secret" not in guard.cookie and guard.cookie != Guard(token="other", hosts=HOSTS, rate=0).cookie


def test_what_tells_nothing_of_the_collection_needs_no_token():
    for path in ("/", "/healthz", "/session", "/page/page.js"):
        check(Guard(token="secret", hosts=HOSTS, rate=0), path=path)


def test_ten_seconds_of_requests_may_come_at_once_and_then_each_when_its_time_has_come(monkeypatch):
    now = 100.0
    monkeypatch.setattr("simclr.serve.guard.time.monotonic", lambda: now)
    guard = Guard(token=None, hosts=HOSTS, rate=2)
    for _ in range(20):
        check(guard)
    with pytest.raises(Refused) as refused:
        check(guard)
    assert (refused.value.status, refused.value.retry_after) == (429, 0.5)
    check(guard, client="5.6.7.8")
    now += 0.5
    check(guard)
    with pytest.raises(Refused):
        check(guard)


def test_refusals_do_not_use_up_what_a_client_may_ask(monkeypatch):
    now = 100.0
    monkeypatch.setattr("simclr.serve.guard.time.monotonic", lambda: now)
    guard = Guard(token=None, hosts=HOSTS, rate=0.1)
    check(guard)
    for _ in range(50):
        with pytest.raises(Refused):
            check(guard)
    now += 10.001
    check(guard)


def test_clients_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("simclr.serve.guard._CLIENTS", 10)
    guard = Guard(token=None, hosts=HOSTS, rate=1)
    for number in range(100):
        check(guard, client=str(number))
    assert len(guard._buckets) == 10


# ---- over HTTP


def test_every_route_but_the_page_needs_the_token(client_of):
    client = client_of(token="secret")
    paths = [
        route
        for route in client.get("/openapi.json", headers={"authorization": "Bearer secret"}).json()["paths"]
    ]
    for path in paths:
        for method in ("get", "post"):
            answer = getattr(client, method)(path.format(id=1))
            if path == "/healthz" or (path == "/session" and method == "post"):
                assert answer.status_code != 401
            elif path != "/session":
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert "token" in detail(answer)
    assert client.get("/openapi.json").status_code == 401


def test_a_browser_gets_a_cookie_for_the_token(client_of):
    client = client_of(token="secret")
    assert client.post("/session", json={"token": "wrong"}).status_code == 401
    answer = client.post("/session", json={"token": "secret"})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "secret" not in cookie
    assert client.get("/collection").status_code == 200


def test_a_name_of_another_machine_is_refused_without_a_token(client):
    answer = client.get("/collection", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert detail(answer).startswith("this server answers only to names of its own machine.")


def test_too_many_requests_are_told_when_to_come_again(client_of):
    client = client_of(limits=Limits(rate=0.2))
    assert [client.get("/healthz").status_code for _ in range(3)] == [200, 200, 429]
    assert 1 <= int(client.get("/healthz").headers["retry-after"]) <= 5
