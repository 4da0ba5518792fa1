"""A database that a loss of power damaged costs nothing; and the suite notices if it does."""

from __future__ import annotations

import pytest

from chaos import wal_prefixes
from chaos.wal_prefixes import Suite
from sweeper.errors import StoreError
from sweeper.search.study_database import _PARAMS, StudyDatabase


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # the copies are made without a loss of power
    return Suite(tmp_path, moments=(9,), every=120)


@pytest.mark.slow
def test_some_points_of_each_kind_pass(suite):
    suite.run()
    assert suite.complaints == []
    assert len(suite.points) == 12
    assert "overwritten page: moved aside and rebuilt" in suite.outcomes


def only(monkeypatch, *kinds):
    real = wal_prefixes._points

    def points(folder, earlier):
        return [point for point in real(folder, earlier) if point.kind in kinds]

    monkeypatch.setattr(wal_prefixes, "_points", points)


def rules(suite):
    suite.run()
    return {complaint.split(":")[0] for complaint in suite.complaints}


def test_a_start_that_refuses_half_written_rows_is_noticed(suite, monkeypatch):
    def is_stale(self, stored, trial):
        if dict(stored.numbers[_PARAMS]) != self._shown(trial):
            raise StoreError("the database belongs to another sweep")
        return False

    monkeypatch.setattr(StudyDatabase, "_is_stale", is_stale)
    only(monkeypatch, "row without parameters")
    assert rules(suite) == {"starts"}


def test_a_database_that_is_not_brought_up_to_date_is_noticed(suite, monkeypatch):
    monkeypatch.setattr(StudyDatabase, "_is_stale", lambda *_: False)
    only(monkeypatch, "row with some parameters")
    assert rules(suite) == {"views-agree"}


def test_a_damaged_database_that_stays_is_noticed(suite, monkeypatch):
    monkeypatch.setattr("sweeper.sweep.factory.sqlite_damage", lambda _: "")
    monkeypatch.setattr("sweeper.search.storage.RETRIES.sleep", lambda _: None)
    only(monkeypatch, "overwritten page")
    assert "starts" in rules(suite)
