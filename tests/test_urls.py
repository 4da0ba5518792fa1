"""URLs that are printed or stored contain no password and no token."""

from __future__ import annotations

import time

import pytest

from sweeper.urls import mask_url, redact_urls


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:pa55@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@s/s:w?rd#@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg2://me:pa ss@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("postgresql://me@org:pa55@host/db", "postgresql://***@host/db"),
        ("https://:token@host/", "https://:***@host/"),
        ("https://me:@host/", "https://me:***@host/"),
        ("HTTPS://Me:pa55@host/", "HTTPS://Me:***@host/"),
    ],
)
def test_passwords_are_hidden(url, expected):
    assert redact_urls(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://token@host", "https://***@host"),
        ("https://token@host:8080/simple", "https://***@host:8080/simple"),
        ("https://to@ken@host/simple", "https://***@host/simple"),
        ("https://token@host/a@b", "https://***@host/a@b"),
        ("https://token@host/a:b@c", "https://***@host/a:b@c"),
        ("git+https://token@github.com/me/it@v1", "git+https://***@github.com/me/it@v1"),
    ],
)
def test_tokens_without_a_colon_are_hidden(url, expected):
    assert redact_urls(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/x?token=abc&y=1", "https://host/x?token=***&y=1"),
        ("https://host/x?y=1&API_KEY=abc", "https://host/x?y=1&API_KEY=***"),
        ("https://host/x?token=a:b: is away", "https://host/x?token=***: is away"),
        ("('https://host/x?token=abc').", "('https://host/x?token=***')."),
        ("https://host/x?access_token=a@b", "https://host/x?access_token=***"),
        ("https://host/x?X-Amz-Signature=abc and more", "https://host/x?X-Amz-Signature=*** and more"),
        ("postgresql://me:pa55@host/db?sslpassword=abc", "postgresql://me:***@host/db?sslpassword=***"),
    ],
)
def test_secrets_of_a_query_are_hidden(url, expected):
    assert redact_urls(url) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no URL at all, but bob@example.org: 1",
        "sqlite:////data/optuna.db",
        "https://host/path@version",
        "https://host/a@b:c",
        "http://host:5000",
        "postgresql+psycopg2://me@host/db",
        "http://host:5000/path is away, ask bob@example.org",
        "http://host:5000 refused, ask bob@example.org",
        "https://host/x?page=3",
    ],
)
def test_text_that_is_not_secret_stays(text):
    assert redact_urls(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://bob:p@ss:w/rd@db/mlflow is away", "postgresql://bob:***@db/mlflow is away"),
        ("http://a:b@h1 and https://c@h2, d@e", "http://a:***@h1 and https://***@h2, d@e"),
        ("urls=[json://a:b@h1,slack://c/d@e]", "urls=[json://a:***@h1,slack://c/d@e]"),
        ("'http://a:b@h1','http://c:d@h2'", "'http://a:***@h1','http://c:***@h2'"),
        ("Looking in indexes: https://token@h/simple\n  (https://me:x@h)", None),
        ("http://a:b@h1 http://host:5000/x http://c:d@h2", "http://a:***@h1 http://host:5000/x http://c:***@h2"),
    ],
)
def test_every_url_of_a_text_is_redacted(text, expected):
    assert redact_urls(text) == (expected or "Looking in indexes: https://***@h/simple\n  (https://me:***@h)")


def test_a_possible_password_with_a_slash_is_hidden():
    assert redact_urls("http://host:5000/a@b") == "http://host:***@b"


@pytest.mark.parametrize(
    ("url", "expected"),
    [("slack://tokenA/tokenB", "slack://***"), ("token", "***"), ("a b://token", "***"), ("", "***")],
)
def test_a_masked_url_keeps_only_its_scheme(url, expected):
    assert mask_url(url) == expected


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "?" * 200_000, "http://" * 30_000, "http://h" + "(" * 200_000, "http://h?token=" + "." * 200_000,
     "?password" * 20_000, "x://:" * 40_000, "http://a:b@" * 20_000],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_the_time_grows_linearly_with_the_length_of_a_text(text):
    began = time.process_time()
    redact_urls(text)
    assert time.process_time() - began < 5
