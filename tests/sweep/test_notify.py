"""The message reaches whoever answers, and nobody who does not answer holds anything up."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import time

import pytest

from sweeper.config.settings import NotifySettings
from sweeper.errors import ConfigError
from sweeper.sweep.notify import check_urls, send

FAST = {"attempts": 3, "pause_s": 0.01, "timeout_s": 20.0}


class Server:
    """A web server that answers with the given codes in turn, the last one for ever."""

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
    """The address of one that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"json://127.0.0.1:{listening.getsockname()[1]}/hunter2"


@pytest.fixture
def nobody():
    """An address at which nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"json://127.0.0.1:{port}/hunter2"


def told(*urls, **options):
    return send(NotifySettings(urls=list(urls)), "The title", "The text", **{**FAST, **options})


def test_title_and_text_arrive(serve):
    server = serve(200)
    assert told(server.url) == []
    assert [(body["title"], body["message"]) for body in server.bodies] == [("The title", "The text")]


def test_one_that_fails_twice_is_told_at_the_third_try_and_once(serve):
    server = serve(500, 503, 200)
    assert told(server.url) == []
    assert len(server.bodies) == 3


def test_one_that_fails_for_ever_is_given_up(serve):
    server = serve(500)
    assert told(server.url) == ["json://***: was refused or not reached, 3 times"]
    assert len(server.bodies) == 3


def test_one_that_is_not_there_is_given_up(nobody):
    assert told(nobody) == ["json://***: was refused or not reached, 3 times"]


def test_one_that_never_answers_is_waited_for_no_longer_than_agreed(silent):
    begin = time.monotonic()
    assert told(f"{silent}?rto=2", timeout_s=0.3) == ["json://***: no answer within 0.3 s"]
    assert time.monotonic() - begin < 1.5


def test_one_that_never_answers_does_not_keep_the_others_from_being_told(serve, silent, nobody):
    server = serve(200)
    assert len(told(f"{silent}?rto=2", nobody, server.url, timeout_s=1.0)) == 2
    assert len(server.bodies) == 1


def test_several_addresses_may_stand_in_one_variable(serve):
    one, other = serve(200), serve(200)
    assert told(f"{one.url} {other.url}") == []
    assert len(one.bodies) == len(other.bodies) == 1


def test_no_address_is_logged(serve, nobody, caplog):
    caplog.set_level(logging.DEBUG)
    told(serve(500).url, nobody)
    own = [record for record in caplog.records if record.name.startswith(("sweeper", "apprise"))]
    assert len(own) == 2
    assert all("hunter2" not in record.getMessage() for record in own)


@pytest.mark.parametrize("url", ["", " ", "hunter2", "nope://hunter2", "https//hunter2", "json://ok hunter2"])
def test_what_is_no_address_is_refused_without_repeating_it(url):
    with pytest.raises(
        ConfigError, match=r"notify.urls\[0\]=.*no notification service has addresses like this"
    ) as caught:
        check_urls(NotifySettings(urls=[url]))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["jsons://host/path", "mailtos://me:secret@example.org?to=you@example.org", "ntfy://topic"]
)
def test_addresses_of_services_are_taken(url):
    check_urls(NotifySettings(urls=[url]))
