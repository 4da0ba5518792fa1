"""Jobs in a crontab: everything else in it stays as it is, byte for byte."""

from __future__ import annotations

import pytest

from sweeper.errors import SweeperError
from sweeper.jobs.cron import Cron, with_block, without_block

LINES = {"crontab": "0 22 * * * sweep\n"}
TABLES = {
    "some lines": b"# mine\nMAILTO=me\n\n5 4 * * * backup\n",
    "no line break at the end": b"5 4 * * * backup",
    "open lines at the end": b"5 4 * * * backup\n\n\n",
    "no UTF-8": b"5 4 * * * echo \xff\xfe\n",
    "another job": b"# >>> sweeper job night\n0 1 * * * x\n# <<< sweeper job night\n",
    "a job with a longer name": b"# >>> sweeper job nightly-two\n0 1 * * * x\n# <<< sweeper job nightly-two\n",
    "carriage returns": b"5 4 * * * backup\r\n",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_removing_leaves_the_crontab_as_it_was(machine, table):
    (machine / "table").write_bytes(table)
    Cron().install("nightly", LINES)
    assert (machine / "table").read_bytes() != table
    assert Cron().remove("nightly")
    assert (machine / "table").read_bytes() == table


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_other_lines_stay_while_a_job_is_installed(machine, table):
    (machine / "table").write_bytes(table)
    Cron().install("nightly", LINES)
    assert (machine / "table").read_bytes().startswith(table)


def test_without_a_crontab_before_there_is_none_afterwards(machine):
    Cron().install("nightly", LINES)
    Cron().remove("nightly")
    assert not (machine / "table").exists()


def test_a_job_that_is_installed_twice_is_there_once_with_its_new_lines(machine):
    (machine / "table").write_text("5 4 * * * backup\n")
    Cron().install("nightly", LINES)
    Cron().install("other", LINES)
    Cron().install("nightly", {"crontab": "0 23 * * * sweep\n"})
    assert (machine / "table").read_text() == (
        "5 4 * * * backup\n"
        "# >>> sweeper job nightly\n0 23 * * * sweep\n# <<< sweeper job nightly\n"
        "# >>> sweeper job other\n0 22 * * * sweep\n# <<< sweeper job other\n"
    )


def test_jobs_can_be_removed_in_any_order(machine):
    (machine / "table").write_text("5 4 * * * backup")
    for name in ("one", "two", "three"):
        Cron().install(name, LINES)
    for name in ("two", "one", "three"):
        Cron().remove(name)
    assert (machine / "table").read_text() == "5 4 * * * backup"


def test_lines_added_after_an_open_line_are_never_joined_to_it():
    table = with_block("5 4 * * * backup", "one", "a\n") + "6 4 * * * mine\n"
    assert without_block(table, "one") == "5 4 * * * backup\n6 4 * * * mine\n"


@pytest.mark.usefixtures("machine")
def test_installed_jobs_are_known():
    Cron().install("nightly", LINES)
    assert Cron().installed() == {"nightly": LINES}


def test_a_crontab_that_cannot_be_read_is_never_written(machine):
    (machine / "table").write_text("5 4 * * * backup\n")
    (machine / "refuse").touch()
    with pytest.raises(SweeperError, match=r"the crontab cannot be read, so nothing was changed: .*may not use this"):
        Cron().install("nightly", LINES)
    assert (machine / "table").read_text() == "5 4 * * * backup\n"


def test_lines_between_marks_of_two_jobs_are_not_taken_for_one_block():
    table = with_block(with_block("", "one", "a\n") + "5 4 * * * backup\n", "two", "b\n")
    assert "backup" in without_block(without_block(table, "one"), "two")
