"""``sweeper jobs`` as a user types it."""

from __future__ import annotations

import json
import os
import textwrap

import pytest
import yaml

from sweeper.clock import utc_now
from sweeper.disk.atomic import write_atomic
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore

BEGUN = "2026-11-21T21:00:00+00:00"


def test_jobs_are_listed_with_windows_and_overrides(sweeper):
    code, out, _ = sweeper("list")
    assert code == 0
    assert all(word in out for word in ("nightly", "22:00-07:00", "dataset=trec"))


def test_addresses_to_notify_are_never_listed(sweeper, jobs_dir):
    with (jobs_dir / "nightly.yaml").open("a") as file:
        file.write("notify: ['json://user:secret@host']\n")
    assert "secret" not in sweeper("list")[1]
    assert "secret" not in sweeper("status")[1]


def test_installing_prints_exactly_what_it_wrote_and_how_to_undo_it(sweeper, units):
    code, out, _ = sweeper("install", "nightly")
    assert code == 0
    for path in units.iterdir():
        assert f"Wrote {path}:" in out
        assert textwrap.indent(path.read_text(), "    ") in out
    assert "To undo this: sweeper jobs remove nightly" in out


def test_installing_in_a_crontab_prints_exactly_what_it_wrote(sweeper, machine):
    _, out, _ = sweeper("install", "nightly", "--scheduler", "cron")
    assert textwrap.indent((machine / "table").read_text(), "    ") in out


@pytest.mark.parametrize("scheduler", ["systemd", "cron"])
def test_a_dry_run_prints_the_same_and_writes_nothing(sweeper, machine, units, scheduler):
    _, dry, _ = sweeper("install", "nightly", "--dry-run", "--scheduler", scheduler)
    assert not units.exists()
    assert not (machine / "table").exists()
    calls = machine / "systemctl.calls"
    assert not calls.exists() or "enable" not in calls.read_text()
    _, real, _ = sweeper("install", "nightly", "--scheduler", scheduler)
    assert dry.replace("Would write", "Wrote").replace("Would run", "Ran") in real


def test_installing_elsewhere_moves_a_job(sweeper, machine, units):
    sweeper("install", "nightly", "--scheduler", "cron")
    _, out, _ = sweeper("install", "nightly", "--scheduler", "systemd")
    assert not (machine / "table").exists()
    assert len(list(units.iterdir())) == 2
    assert "Removed from the other scheduler: crontab -r" in out


@pytest.mark.parametrize("scheduler", ["systemd", "cron"])
def test_removing_undoes_installing(sweeper, machine, units, scheduler):
    sweeper("install", "nightly", "--scheduler", scheduler)
    code, _, _ = sweeper("remove", "nightly")
    assert code == 0
    assert not (machine / "table").exists()
    assert not units.exists() or not list(units.iterdir())


def test_a_job_can_be_removed_when_its_file_is_gone(sweeper, jobs_dir, units):
    sweeper("install", "nightly")
    (jobs_dir / "nightly.yaml").unlink()
    assert "its file is not in this folder" in " ".join(sweeper("status")[1].replace("│", " ").split())
    assert sweeper("remove", "nightly")[0] == 0
    assert list(units.iterdir()) == []


def test_removing_what_is_not_installed_lists_the_installed_jobs(sweeper):
    sweeper("install", "nightly")
    code, _, err = sweeper("remove", "nihgtly")
    assert code == 2
    assert "job 'nihgtly' is not installed. Did you mean 'nightly'? Installed jobs: nightly." in err


@pytest.mark.parametrize(
    "command", [["install", "nightly"], ["render", "nightly", "--for", "slurm"], ["run", "nightly"]]
)
def test_overrides_that_do_not_compose_are_reported_before_anything_happens(sweeper, units, jobs_dir, command):
    (jobs_dir / "nightly.yaml").write_text('overrides: [dataset=trek]\nwindow: "22:00-07:00"\n')
    code, _, err = sweeper(*command)
    assert code == 2
    assert "nightly.yaml: dataset=trek: there is no dataset 'trek'. Did you mean 'trec'?" in err
    assert not units.exists()


def test_a_job_without_a_window_cannot_be_installed(sweeper, jobs_dir):
    (jobs_dir / "nightly.yaml").write_text("overrides: [dataset=trec]\n")
    code, _, err = sweeper("install", "nightly")
    assert code == 2
    assert "nightly.yaml: window=: a scheduled job needs a window, which sets when it starts" in err


@pytest.mark.parametrize("scheduler", ["systemd", "cron"])
def test_the_status_shows_an_installed_job(sweeper, scheduler):
    sweeper("install", "nightly", "--scheduler", scheduler)
    _, out, _ = sweeper("status")
    assert f"{scheduler} " in out
    assert "22:00" in out
    assert "never run" in out
    assert "has changed" not in out
    log = "journalctl --user --unit sweeper-nightly.service" if scheduler == "systemd" else "outputs/jobs/nightly.log"
    assert log in out


def test_the_status_shows_when_a_job_has_changed_since_it_was_installed(sweeper, jobs_dir):
    sweeper("install", "nightly")
    (jobs_dir / "nightly.yaml").write_text('overrides: [dataset=trec]\nwindow: "20:00-07:00"\n')
    assert "the job has changed: install it" in " ".join(sweeper("status")[1].split())


OWN, NOBODY = "own", "nobody's"  # process numbers differ between the processes that run tests


@pytest.mark.parametrize(
    ("end", "pid", "text"),
    [
        ({}, OWN, "running: Session 1 started"),
        ({}, NOBODY, "interrupted: Session 1 started"),
        ({"ended_at": BEGUN, "reason": "the window closed"}, None, "Session 1 ended"),
        ({"ended_at": BEGUN, "reason": "no disk", "has_failed": True}, None, "Session 1 failed"),
    ],
)
def test_the_status_describes_the_last_session(sweeper, jobs_dir, end, pid, text):
    (jobs_dir / "nightly.yaml").write_text("overrides: [dataset=trec, name=mine]\n")
    store = TrialStore(jobs_dir.parent / "outputs" / "mine")
    session = SessionRecord(number=1, begun_at=BEGUN, saved_at=BEGUN, **end)
    write_atomic(SessionLog(store.root).path(1), to_bytes(session))
    if pid is not None:
        holder = {
            "pid": os.getpid() if pid == OWN else 2**22 + 1,
            "host": os.uname().nodename,
            "since": utc_now().isoformat(timespec="seconds"),
        }
        store.paths.holder.write_text(json.dumps(holder))
    assert text in " ".join(sweeper("status")[1].split())


def test_addresses_come_from_the_environment_file_and_are_in_no_unit(sweeper, jobs_dir, machine, units):
    with (jobs_dir / "nightly.yaml").open("a") as file:
        file.write('notify: ["${oc.env:SWEEPER_TEST_URL}"]\n')
    code, _, err = sweeper("install", "nightly")
    assert code == 2
    assert "SWEEPER_TEST_URL" in err
    environment = machine / "config" / "sweeper" / "environment"
    environment.parent.mkdir(parents=True)
    environment.write_text("SWEEPER_TEST_URL=json://user:secret@host\n")
    code, out, err = sweeper("install", "nightly")
    os.environ.pop("SWEEPER_TEST_URL")
    assert (code, err) == (0, "")
    assert not any("secret" in text for text in (out, *(path.read_text() for path in units.iterdir())))


def test_what_is_rendered_can_be_piped_into_a_file(sweeper):
    _, out, _ = sweeper("render", "nightly", "--for", "kubernetes", "--gpus", "1")
    kinds = [document["kind"] for document in yaml.safe_load_all(out)]
    assert kinds == ["ConfigMap", "PersistentVolumeClaim", "CronJob"]


def test_an_unknown_target_is_an_error(sweeper):
    code, _, err = sweeper("render", "nightly", "--for", "kubernets")
    assert code == 2
    assert "Did you mean 'kubernetes'?" in err
