"""The web page's server, asked by real clients over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_ann.errors import OutputError, UsageError
from stream_ann.sinks.web import Access, MetricsServer, WebView
from stream_ann.sinks.web.metrics import Metrics
from tests.web_tools import EXITS, Client, FakeRun


@pytest.fixture
def run() -> FakeRun:
    return FakeRun("camera", "door")


@pytest.fixture
def view(run):
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view:
        yield view
    assert view.error is None


@pytest.fixture
def client(view) -> Client:
    return Client(view.port)


def next_event(answer) -> dict[str, Any]:
    """The next message of a stream of events."""
    while True:
        line = answer.readline()
        if line.startswith(b"data: "):
            return json.loads(line[6:])


def next_picture(answer) -> bytes:
    """The next part of a multipart message."""
    while (line := answer.readline()) != b"\r\n":
        assert line, "the stream has ended"
    data = b""
    while not data.endswith(b"\r\n--frame\r\n"):
        line = answer.readline()
        assert line, "the stream has ended"
        data += line
    return data.removesuffix(b"\r\n--frame\r\n")


class TestPage:
    def test_everything_it_loads_is_its_own(self, client):
        status, headers, body = client.get("/")
        assert status == 200
        assert headers["content-type"].startswith("text/html")
        text = body.decode()
        assert "http:" not in text
        assert "https:" not in text
        assert "style=" not in text
        assert "onerror" not in text
        for name in ("view.css", "view.js", "view.svg"):
            assert name in text
            assert client.get(f"/{name}")[0] == 200
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    def test_events_begin_with_what_was_before_and_go_on(self, run, view, client):
        for _ in range(3):
            view.put(run.answer())
        connection, answer = client.stream("/events")
        with contextlib.closing(connection):
            assert answer.headers["content-type"].startswith("text/event-stream")
            first = next_event(answer)
            assert first["whole"]
            assert first["exit_names"] == list(EXITS)
            assert [source["source"] for source in first["sources"]] == ["camera", "door"]
            camera, door = first["sources"]
            assert [point[0] for point in camera["points"]] == [1, 2, 3]
            assert camera["points"][0][1:] == [2.5, 6.5, 33.3]
            assert camera["label"] == "Egyptian cat"
            assert camera["counts"] == [3, 3, 0, 0]
            assert [exit_[0] for exit_ in camera["exits"]] == [0, 1]
            assert door["label"] == ""
            assert door["age_ms"] is None
            view.put(run.answer(label="tripod"))
            while (event := next_event(answer))["sources"][0]["label"] != "tripod":
                assert not event["whole"]
            assert 4 in [point[0] for point in event["sources"][0]["points"]]

    def test_states_and_the_age_of_a_picture_are_told(self, run, view, client):
        run.answer()
        run.state("camera", "reconnecting", "the camera does not answer", 3)
        time.sleep(0.05)
        source = client.json("/state")["sources"][0]
        assert (source["state"], source["troubled"]) == ("reconnecting", True)
        assert source["line"] == "reconnecting (attempt 3): the camera does not answer"
        assert source["age_ms"] >= 50

    def test_what_earlier_frames_have_said_is_told(self, run, view, client):
        run.answer()
        assert client.json("/state")["sources"][0]["carried"] == ""
        run.now["camera"] = replace(run.now["camera"], carried=0.63)
        assert client.json("/state")["sources"][0]["carried"] == "63 % from earlier frames"

    def test_the_bars_are_of_the_answer_that_the_headline_is_of(self, run, view, client):
        run.answer(label="tripod", confidence=0.9)
        begun = [("binder", 0.45), ("tripod", 0.3)]  # the next frame has come to its first exit
        run.now["camera"] = replace(run.now["camera"], label="binder", confidence=0.45, top=tuple(begun))
        source = client.json("/state")["sources"][0]
        assert [source["label"], source["confidence"]] == source["top"][0] == ["binder", 0.45]

    def test_numbers_that_json_cannot_say_become_null(self, run, view, client):
        run.answer(confidence=float("nan"), top=[("a", float("inf"))])
        source = client.json("/state")["sources"][0]
        assert source["confidence"] is None
        assert source["top"] == [["a", None]]


class TestPictures:
    def test_the_newest_comes_as_jpeg_in_its_colours(self, run, client):
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[..., 0] = 250
        run.answer(image=picture)
        status, headers, body = client.get("/sources/0/picture.jpg")
        assert (status, headers["content-type"], headers["cache-control"]) == (200, "image/jpeg", "no-store")
        decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (40, 60, 3)
        assert decoded[20, 30, 2] > 240
        assert decoded[20, 30, 0] < 12

    def test_large_ones_are_scaled_down(self, run, client):
        run.answer(image=np.zeros((1080, 1920, 3), np.uint8))
        decoded = cv2.imdecode(np.frombuffer(client.get("/sources/0/picture.jpg")[2], np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (540, 960, 3)

    def test_there_may_be_none(self, client):
        assert client.get("/sources/0/picture.jpg")[0] == 404
        assert client.get("/sources/7/picture.jpg")[0] == 404
        assert client.get("/sources/7/stream.mjpg")[0] == 404
        assert client.get("/sources/x/stream.mjpg")[0] == 404

    def test_a_stream_moves(self, run, client):
        run.answer()
        connection, answer = client.stream("/sources/0/stream.mjpg")
        with contextlib.closing(connection):
            assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
            before = next_picture(answer)
            run.answer()
            after = next_picture(answer)
        shades = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).mean() for data in (before, after)]
        assert shades == pytest.approx([40, 80], abs=3)

    def test_each_is_encoded_once_for_all_and_only_if_somebody_watches(self, run, view, client, monkeypatch):
        encoded = []
        encode = cv2.imencode
        monkeypatch.setattr(cv2, "imencode", lambda *args: encoded.append(1) or encode(*args))
        for _ in range(5):
            run.answer()
            time.sleep(0.1)
        assert encoded == []
        assert run.polls <= 2
        with contextlib.ExitStack() as stack:
            streams = [client.stream("/sources/0/stream.mjpg") for _ in range(4)]
            for connection, _ in streams:
                stack.callback(connection.close)
            for _ in range(3):
                for _, answer in streams:
                    next_picture(answer)
                run.answer()
        assert len(encoded) <= 4


class TestSlowClients:
    def test_one_that_does_not_read_misses_pictures_and_holds_nothing_up(self, run, view, client):
        noise = np.random.default_rng(0).integers(0, 255, (540, 960, 3)).astype(np.uint8)  # 400 kB as JPEG
        run.answer(image=noise)
        with socket.create_connection(("127.0.0.1", view.port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(b"GET /sources/0/stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            connection, answer = client.stream("/sources/0/stream.mjpg")
            with contextlib.closing(connection):
                for i in range(12):
                    next_picture(answer)
                    run.answer(image=np.roll(noise, i + 1, axis=0))
                transports = [c.transport for c in view._server.server_state.connections]
                waiting = [t.get_write_buffer_size() for t in transports if not t.is_closing()]
        assert max(waiting) < 1_000_000, "more than one picture waits for a reader"

    def test_one_who_never_reads_is_let_go(self, run, view, monkeypatch):
        import stream_ann.sinks.web.connection as connections

        monkeypatch.setattr(connections, "TAKEN_WITHIN_S", 0.5)
        noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), dtype=np.uint8)
        with socket.create_connection(("127.0.0.1", view.port)) as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.sendall(b"GET /sources/0/stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            had = False
            until_s = time.monotonic() + 30
            while view._server.server_state.connections or not had:
                had = had or bool(view._server.server_state.connections)
                assert time.monotonic() < until_s, "its connection is kept, and with it a file and what waits for it"
                run.answer(image=np.roll(noise, run.polls, axis=0))
                time.sleep(0.05)

    def test_too_many_are_turned_away(self, run, view, client, monkeypatch):
        import stream_ann.sinks.web.app as app

        monkeypatch.setattr(app, "MOST_STREAMS", 2)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                connection, answer = client.stream("/events")
                stack.callback(connection.close)
                next_event(answer)
            assert client.get("/events")[0] == 503
            assert client.get("/state")[0] == 200


class TestStrangers:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8080", "[::1]:80", "192.168.1.7"])
    def test_addresses_and_own_names_are_served(self, client, host):
        assert client.get("/state", Host=host)[0] == 200

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
    def test_a_name_that_was_made_to_point_here_is_not(self, client, host):
        status, _, body = client.get("/state", Host=host)
        assert status == 421
        assert b"camera" not in body

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
            {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
        ],
    )
    def test_other_pages_may_not_look(self, client, headers):
        assert client.get("/state", **headers)[0] == 403
        assert client.get("/sources/0/picture.jpg", **headers)[0] == 403

    def test_a_link_to_the_page_and_its_own_requests_work(self, view, client):
        assert client.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
        own = f"127.0.0.1:{view.port}"
        assert client.get("/state", Host=own, Origin=f"http://{own}", Sec_Fetch_Site="same-origin")[0] == 200

    def test_nothing_but_reading(self, view):
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/state", body=b"{}")
            assert connection.getresponse().status == 405


class TestToken:
    @pytest.fixture
    def guarded(self, run):
        with WebView(run.statuses, EXITS, access=Access(port=0, token="open-sesame")) as view:
            yield Client(view.port)

    @pytest.mark.parametrize("path", ["/", "/events", "/state", "/sources/0/picture.jpg", "/metrics", "/healthz"])
    def test_nothing_is_seen_without_it(self, guarded, path):
        status, _, body = guarded.get(path)
        assert status == 401
        assert b"camera" not in body
        assert guarded.get(path, Authorization="Bearer open-sesam")[0] == 401

    def test_it_is_taken_from_the_address_into_a_cookie(self, guarded):
        status, headers, _ = guarded.get("/?token=open-sesame")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite" in cookie
        assert guarded.get("/state", Cookie=cookie.split(";")[0])[0] == 200
        assert guarded.get("/?token=wrong")[0] == 401

    def test_programs_send_it_as_a_header(self, guarded):
        assert guarded.get("/metrics", Authorization="Bearer open-sesame")[0] == 200

    def test_other_addresses_than_the_own_have_one_always(self):
        access = Access("0.0.0.0", 0)
        assert access.made_up
        assert access.token is not None
        assert len(access.token) >= 20
        assert f"?token={access.token}" in access.url(80)
        chosen = Access("192.168.1.7", 0, "open-sesame")
        assert chosen.url(80) == "http://192.168.1.7:80/"
        assert Access("::1").url(80) == "http://[::1]:80/"
        assert Access("localhost").token is None

    @pytest.mark.parametrize("token", ["short", "", "käsekuchen", "two\nlines"])
    def test_a_poor_one_is_refused(self, token):
        with pytest.raises(UsageError, match="at least 8"):
            Access(token=token)


class TestMetrics:
    def read(self, client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        status, headers, body = client.get("/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        samples = [s for family in text_string_to_metric_families(body.decode()) for s in family.samples]
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}

    def test_prometheus_understands_them(self, run):
        metrics = Metrics(run.statuses, EXITS, lambda: {"out.mp4": 3})
        metrics.put_refresh(5)
        metrics.put_refresh(0)
        for reached in (2, 1, 2):
            metrics.put(run.answer(reached=reached))
        for state, attempt in (  # as a reader says them: the first attempt was the one that made the connection
            *(("connecting", 1), ("connecting", 2), ("live", 0)),
            *(("reconnecting", 2), ("reconnecting", 3), ("live", 0)),
            *(("stalled", 0), ("refused", 2), ("reconnecting", 3), ("live", 0)),
        ):
            metrics.put_state(run.state("camera", state, "", attempt))
        with MetricsServer(run.statuses, EXITS, access=Access(port=0), metrics=metrics) as server:
            found = self.read(Client(server.port))
            assert Client(server.port).get("/")[0] == 404
        camera = ("source", "camera")
        assert found["stream_ann_frames_in_total", (camera,)] == 3
        assert found["stream_ann_frames_total", (("outcome", "answered"), camera)] == 3
        assert found["stream_ann_frames_total", (("outcome", "replaced"), ("source", "door"))] == 0
        assert found["stream_ann_first_answer_seconds_count", (camera,)] == 3
        assert found["stream_ann_first_answer_seconds_bucket", (("le", "0.005"), camera)] == 3
        assert found["stream_ann_first_answer_seconds_bucket", (("le", "0.002"), camera)] == 0
        assert found["stream_ann_exits_reached_total", (("exit", "small"), camera)] == 3
        assert found["stream_ann_exits_reached_total", (("exit", "large"), camera)] == 2
        assert found["stream_ann_reconnects_total", (camera,)] == 2
        assert found["stream_ann_source_state", (camera, ("state", "live"))] == 1
        assert found["stream_ann_source_state", (camera, ("state", "stalled"))] == 0
        assert 0 <= found["stream_ann_frame_age_seconds", (camera,)] < 60
        assert ("stream_ann_frame_age_seconds", (("source", "door"),)) not in found
        assert found["stream_ann_output_dropped_total", (("output", "out.mp4"),)] == 3
        assert found["stream_ann_page_refreshes_total", (("outcome", "sent"),)] == 2
        assert found["stream_ann_page_refreshes_total", (("outcome", "skipped"),)] == 5

    def test_health_follows_the_states(self, run, client):
        run.state("camera", "live")
        run.state("door", "stalled")
        assert client.get("/healthz")[0] == 200
        status, _, body = client.get("/healthz?all")
        assert status == 503
        assert json.loads(body) == {"status": "not live", "sources": {"camera": "live", "door": "stalled"}}
        run.state("camera", "refused")
        assert client.get("/healthz")[0] == 503
        run.state("camera", "live")
        run.state("door", "live")
        assert client.get("/healthz?all")[0] == 200


class TestBeginningAndEnd:
    def test_it_ends_within_two_seconds_with_clients_of_every_kind(self, run):
        with contextlib.ExitStack() as stack:
            view = stack.enter_context(WebView(run.statuses, EXITS, access=Access(port=0)))
            run.answer(image=np.random.default_rng(0).integers(0, 255, (540, 960, 3)).astype(np.uint8))
            client = Client(view.port)
            for path in ("/events", "/sources/0/stream.mjpg", "/sources/1/stream.mjpg"):
                connection, answer = client.stream(path)
                stack.callback(connection.close)
                assert answer.status == 200
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", view.port)))
            slow.sendall(b"GET /sources/0/stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", view.port)))
            assert silent.fileno() >= 0
            time.sleep(0.3)
            begun_s = time.monotonic()
            view.close()
            assert time.monotonic() - begun_s < 2.0
            assert not [t for t in threading.enumerate() if t.name == "stream-ann web view"]

    def test_a_port_that_is_taken_is_named(self, run, view):
        with pytest.raises(OutputError, match=rf"cannot listen on 127\.0\.0\.1:{view.port}: address already in use"):
            WebView(run.statuses, EXITS, access=Access(port=view.port))

    def test_an_address_that_is_none_is_told_without_a_number(self, run):
        with pytest.raises(OutputError, match=r"cannot listen on no such host:0: [a-z]"):
            WebView(run.statuses, EXITS, access=Access(host="no such host", port=0, token="x" * 20))

    def test_where_the_usual_port_is_taken_another_one_is_used(self, run, monkeypatch):
        import stream_ann.sinks.web.view as module

        with WebView(run.statuses, EXITS, access=Access(port=0)) as first:
            monkeypatch.setattr(module, "DEFAULT_PORT", first.port)
            with WebView(run.statuses, EXITS, access=Access()) as second:
                assert second.port not in (0, first.port)
                assert Client(second.port).get("/")[0] == 200

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_a_port_that_is_none_is_refused(self, port):
        with pytest.raises(UsageError, match="0 to 65535"):
            Access(port=port)
