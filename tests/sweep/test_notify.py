"""Notifications: retries, time limits, and URLs that are not logged."""

from __future__ import annotations

import http.server
import json
import logging
import logging.config
import socket
import threading
import time

import pytest

from sweeper.config.settings import NotifySettings
from sweeper.errors import ConfigError
from sweeper.sweep.notify import check_urls, send

FAST = {"attempts": 3, "pause_s": 0.01, "timeout_s": 20.0}


class Server:
    """A web server that answers with the given codes in turn, the last one for all later requests."""

    def __init__(self, *codes):
        self.bodies, codes_left = [], list(codes)
        bodies = self.bodies

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(codes_left.pop(0) if len(codes_left) > 1 else codes_left[0])
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"json://127.0.0.1:{self.server.server_port}/hunter2"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve():
    servers = []

    def make(*codes):
        servers.append(Server(*codes))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def silent():
    """The URL of a server that accepts connections and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"json://127.0.0.1:{listening.getsockname()[1]}/hunter2"


@pytest.fixture
def nobody():
    """A URL at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"json://127.0.0.1:{port}/hunter2"


def deliver(*urls, **options):
    return send(NotifySettings(urls=list(urls)), "The title", "The text", **{**FAST, **options})


def test_title_and_text_arrive(serve):
    server = serve(200)
    assert deliver(server.url) == []
    assert [(body["title"], body["message"]) for body in server.bodies] == [("The title", "The text")]


def test_a_server_that_fails_twice_gets_the_message_once_at_the_third_attempt(serve):
    server = serve(500, 503, 200)
    assert deliver(server.url) == []
    assert len(server.bodies) == 3


def test_a_server_that_always_fails_is_given_up(serve):
    server = serve(500)
    assert deliver(server.url) == ["json://***: was refused or not reached, 3 times"]
    assert len(server.bodies) == 3


def test_a_missing_server_is_given_up(nobody):
    assert deliver(nobody) == ["json://***: was refused or not reached, 3 times"]


def test_a_server_that_never_replies_is_given_up_after_the_time_limit(silent):
    start = time.monotonic()
    assert deliver(f"{silent}?rto=2", timeout_s=0.3) == ["json://***: no answer within 0.3 s"]
    assert time.monotonic() - start < 1.5


def test_one_that_never_answers_does_not_keep_the_others_from_being_deliver(serve, silent, nobody):
    server = serve(200)
    assert len(deliver(f"{silent}?rto=2", nobody, server.url, timeout_s=1.0)) == 2
    assert len(server.bodies) == 1


def test_one_entry_may_contain_several_urls(serve):
    one, other = serve(200), serve(200)
    assert deliver(f"{one.url} {other.url}") == []
    assert len(one.bodies) == len(other.bodies) == 1


def test_no_url_is_logged(serve, nobody, caplog):
    caplog.set_level(logging.DEBUG)
    check_urls(NotifySettings(urls=["json://localhost"]))
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # enables loggers that were disabled
    deliver(serve(500).url, nobody)
    own = [record for record in caplog.records if record.name.startswith(("sweeper", "apprise"))]
    assert len(own) == 2
    assert all("hunter2" not in record.getMessage() for record in own)


@pytest.mark.parametrize("url", ["", " ", "hunter2", "nope://hunter2", "https//hunter2", "json://ok hunter2"])
def test_an_invalid_url_is_rejected_without_quoting_it(url):
    with pytest.raises(
        ConfigError, match=r"notify.urls\[0\]=.*this is not the URL of a known notification service"
    ) as caught:
        check_urls(NotifySettings(urls=[url]))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["jsons://host/path", "mailtos://me:secret@example.org?to=you@example.org", "ntfy://topic"]
)
def test_urls_of_services_are_accepted(url):
    check_urls(NotifySettings(urls=[url]))
