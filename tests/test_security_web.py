"""Hostile visitors of the web view, and hostile names on it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest

import stream_ann.sinks.web.connection as connections
from stream_ann.sinks.web import Access, WebView
from tests.web_tools import EXITS, Client, FakeRun


@pytest.fixture
def run() -> FakeRun:
    return FakeRun("camera")


@pytest.fixture
def view(run: FakeRun) -> Iterator[WebView]:
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view:
        yield view


def ended(visitor: socket.socket, *, within_s: float = 20.0) -> bool:
    """Whether the server closes a connection, within a time."""
    visitor.settimeout(within_s)
    try:
        while visitor.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


class TestPatience:
    """Visitors who ask for nothing, very slowly, or very much."""

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch):
        monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.5)

    @pytest.mark.parametrize("sent", [b"", b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
    def test_a_request_that_does_not_arrive_ends_the_connection(self, view, sent):
        with socket.create_connection(("127.0.0.1", view.port)) as visitor:
            visitor.sendall(sent)
            assert ended(visitor)

    @pytest.mark.parametrize(("length", "sent"), [(0, b"GET /st"), (1_000_000, b"a part of the body")])
    def test_nor_does_a_second_one_or_a_body_without_end(self, view, length, sent):
        with socket.create_connection(("127.0.0.1", view.port)) as visitor:
            head = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
            visitor.sendall(head.encode())
            visitor.settimeout(20)
            heard = b""
            while b"sources" not in heard:
                heard += visitor.recv(4096)
            visitor.sendall(sent)
            assert ended(visitor)

    def test_a_byte_now_and_then_is_not_enough(self, view):
        with socket.create_connection(("127.0.0.1", view.port)) as visitor:
            begun_s = time.monotonic()
            with contextlib.suppress(OSError):
                visitor.sendall(b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                while time.monotonic() - begun_s < 20:
                    visitor.sendall(b"X-A: b\r\n")
                    time.sleep(0.1)
            assert time.monotonic() - begun_s < 20

    def test_whoever_is_being_answered_stays(self, run, view):
        connection, answer = Client(view.port).stream("/events")
        with contextlib.closing(connection):
            answer.read1(1)
            time.sleep(1.2)
            run.answer(label="still here")
            heard = b""
            while b"still here" not in heard:
                heard += answer.read1(65536)

    def test_those_who_wait_do_not_keep_others_out_for_long(self, view, monkeypatch):
        monkeypatch.setattr(connections, "MOST_OPEN", 6)
        with contextlib.ExitStack() as stack:
            silent = [socket.create_connection(("127.0.0.1", view.port)) for _ in range(12)]
            for one in silent:
                stack.enter_context(one)
            assert all(ended(one) for one in silent)
            assert Client(view.port).get("/state")[0] == 200


class TestSizes:
    def test_headers_without_end_are_refused(self, view):
        with socket.create_connection(("127.0.0.1", view.port)) as visitor:
            with contextlib.suppress(OSError):
                visitor.sendall(
                    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * (2 * connections.MOST_HEADER_BYTES)
                )
            visitor.settimeout(20)
            with contextlib.suppress(OSError):
                assert visitor.recv(100).startswith(b"HTTP/1.1 400")
            assert ended(visitor)

    def test_a_body_is_not_kept(self, view):
        connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest("POST", "/state")
            connection.putheader("Content-Length", str(1 << 40))
            connection.endheaders()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    connection.send(bytes(65536))
                    if view._server.server_state.connections:
                        one = next(iter(view._server.server_state.connections))
                        assert len(one.cycle.body if one.cycle else b"") < 300_000

    @pytest.mark.parametrize(
        "number", ["9" * 20, "9" * 5000, "-1", "0x0", "\u0660", "..%2f..%2fetc%2fpasswd", "%00", "0%0a"]
    )
    def test_a_source_has_a_number_and_nothing_else_is_one(self, view, number):
        from urllib.parse import quote

        assert Client(view.port).get(f"/sources/{quote(number, safe='%')}/picture.jpg")[0] == 404

    @pytest.mark.parametrize(
        "path", ["/../pyproject.toml", "/%2e%2e/errors.py", "/view.py", "//etc/passwd", "/static/x"]
    )
    def test_only_the_pages_own_files_are_served(self, view, path):
        assert Client(view.port).get(path)[0] == 404


class TestToken:
    TOKEN = "open-sesame"

    @pytest.fixture
    def client(self, run) -> Iterator[Client]:
        with WebView(run.statuses, EXITS, access=Access(port=0, token=self.TOKEN)) as view:
            yield Client(view.port)

    def test_it_is_neither_in_the_cookie_nor_in_any_answer(self, client):
        status, headers, body = client.get(f"/?token={self.TOKEN}")
        assert status == 303
        assert self.TOKEN not in str(headers) + body.decode()
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        cookie = headers["set-cookie"].split(";")[0]
        status, headers, body = client.get("/state", Cookie=cookie)
        assert status == 200
        assert self.TOKEN not in str(headers) + body.decode()

    def test_the_cookie_of_another_run_opens_nothing(self, run, client):
        with WebView(run.statuses, EXITS, access=Access(port=0, token=self.TOKEN)) as other:
            cookie = Client(other.port).get(f"/?token={self.TOKEN}")[1]["set-cookie"].split(";")[0]
        value = cookie.partition("=")[2]
        assert client.get("/state", Cookie=f"stream-ann-{client.port}={value}")[0] == 401
        assert client.get("/state", Cookie=f"stream-ann-{client.port}={self.TOKEN}")[0] == 401
        assert client.get("/state", Cookie='=;;stream-ann="')[0] == 401

    def test_it_is_compared_in_constant_time(self, monkeypatch):
        import hmac

        compared = []
        monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
        assert not Access(token=self.TOKEN).knows("open-sesamf")
        assert Access(token=self.TOKEN).knows(self.TOKEN)
        assert len(compared) == 2

    def test_nothing_of_a_visitor_is_logged(self, client, caplog, capfd):
        caplog.set_level(0)
        client.get(f"/?token={self.TOKEN}")
        client.get("/\x1b[2J-nonsense".replace("\x1b", "%1b"), Authorization=f"Bearer {self.TOKEN}")
        assert self.TOKEN not in caplog.text
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("path", ["/", "/state", "/nothing", "/sources/0/picture.jpg", "/metrics", "/healthz"])
    def test_every_answer_tells_browsers_to_trust_nobody(self, run, view, client, path):
        run.answer()
        for one in (Client(view.port), client):  # with an answer, and with a refusal
            _, headers, _ = one.get(path)
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "server" not in headers
            assert "access-control-allow-origin" not in headers
