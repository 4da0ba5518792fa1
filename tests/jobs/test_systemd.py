"""Jobs as units of the user's systemd."""

from __future__ import annotations

import pytest

from sweeper.errors import SweeperError
from sweeper.jobs.schedulers import choose, installed_in
from sweeper.jobs.systemd import Systemd

UNITS = {"sweeper-nightly.service": "[Service]\n", "sweeper-nightly.timer": "[Timer]\n"}


def _calls(machine):
    return (machine / "systemctl.calls").read_text().splitlines()


def test_units_are_written_and_the_timer_started(machine, units):
    Systemd().install("nightly", UNITS)
    assert {path.name: path.read_text() for path in units.iterdir()} == UNITS
    assert _calls(machine) == [
        "--user daemon-reload",
        "--user enable sweeper-nightly.timer",
        "--user restart sweeper-nightly.timer",
    ]


def test_removing_stops_the_timer_and_deletes_the_units(machine, units):
    Systemd().install("nightly", UNITS)
    (machine / "systemctl.calls").unlink()
    Systemd().remove("nightly")
    assert list(units.iterdir()) == []
    assert _calls(machine) == [
        "--user disable --now sweeper-nightly.timer",
        "--user clean --what=state sweeper-nightly.timer",
        "--user daemon-reload",
    ]


def test_a_job_can_be_removed_where_no_manager_answers(machine, units):
    Systemd().install("nightly", UNITS)
    wants = units / "timers.target.wants"
    wants.mkdir()
    (wants / "sweeper-nightly.timer").symlink_to(units / "sweeper-nightly.timer")
    (machine / "offline").touch()
    assert len(Systemd().remove("nightly")) == 2
    assert list(units.iterdir()) == [wants]
    assert list(wants.iterdir()) == []


def test_a_user_who_may_have_no_crontab_still_has_timers(machine):
    Systemd().install("nightly", UNITS)
    (machine / "refuse").touch()
    assert list(installed_in()) == ["nightly"]


def test_units_of_others_stay(units):
    units.mkdir(parents=True)
    (units / "backup.timer").write_text("mine")
    Systemd().install("nightly", UNITS)
    Systemd().remove("nightly")
    assert [path.name for path in units.iterdir()] == ["backup.timer"]


def test_a_job_that_is_installed_twice_is_there_once(units):
    Systemd().install("nightly", UNITS)
    Systemd().install("nightly", {**UNITS, "sweeper-nightly.timer": "[Timer]\n# new\n"})
    assert Systemd().installed() == {"nightly": {**UNITS, "sweeper-nightly.timer": "[Timer]\n# new\n"}}
    assert len(list(units.iterdir())) == 2


def test_what_systemd_refuses_leaves_nothing_behind(machine, units):
    (machine / "refuse").touch()
    with pytest.raises(SweeperError, match=r"enable sweeper-nightly.timer` failed with exit code 1: Unit is masked"):
        Systemd().install("nightly", UNITS)
    assert list(units.iterdir()) == []


def test_what_systemd_refuses_leaves_the_units_before(machine):
    Systemd().install("nightly", UNITS)
    (machine / "refuse").touch()
    with pytest.raises(SweeperError):
        Systemd().install("nightly", dict.fromkeys(UNITS, "new"))
    assert Systemd().installed() == {"nightly": UNITS}


@pytest.mark.parametrize(
    ("answer", "scheduler"),
    [("running", "systemd"), ("degraded", "systemd"), ("starting", "systemd"), ("offline", "cron"), ("", "cron")],
)
def test_systemd_is_chosen_where_its_user_manager_answers_otherwise_cron(machine, answer, scheduler):
    (machine / "manager").write_text(answer + "\n")
    assert choose("auto").name == scheduler


def test_without_systemctl_cron_is_chosen(machine):
    (machine / "systemctl").unlink()
    assert choose("auto").name == "cron"


def test_without_any_scheduler_the_templates_are_named(machine, monkeypatch):
    monkeypatch.setenv("PATH", str(machine / "empty"))
    with pytest.raises(SweeperError, match=r"neither systemd nor cron is available .* use: sweeper jobs render"):
        choose("auto")


def test_a_scheduler_that_does_not_answer_cannot_be_forced(machine):
    (machine / "manager").write_text("offline\n")
    with pytest.raises(SweeperError, match="systemd is not available"):
        choose("systemd")


def test_a_misspelt_scheduler_is_an_error():
    with pytest.raises(SweeperError, match=r"--scheduler=sistemd: .* Did you mean 'systemd'\?"):
        choose("sistemd")
