"""A job's file: its keys, its defaults, and the messages about mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sweeper.errors import ConfigError, SweeperError
from sweeper.jobs.settings import find_job, find_jobs_dir, load_job, load_jobs, override_text

ROOT = Path(__file__).parents[2]


def _job(folder, text, name="mine"):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_name_folder_and_python_are_found(jobs_dir):
    job = load_job(_job(jobs_dir, 'window: "22:00-07:00"'))
    assert (job.name, job.folder, job.python) == ("mine", jobs_dir.parent, Path(sys.executable))


def test_folder_and_virtual_environment_can_be_set(jobs_dir):
    python = jobs_dir.parent / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    job = load_job(_job(jobs_dir, "folder: jobs\nvirtual_environment: env"))
    assert (job.folder, job.python) == (jobs_dir, python)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widow: 22:00-07:00", "mine.yaml: widow=22:00-07:00: jobs have no such key. Did you mean 'window'? Keys: "),
        ("window: 22-7", "mine.yaml: window=22-7: a window is HH:MM-HH:MM"),
        ("window: 22:00", "mine.yaml: window=1320: the value must be a text such as '22:00-07:00'. Put texts"),
        ("time_zone: Europe/Berln\nwindow: 22:00-07:00", "Europe/Berln: there is no time zone of this name"),
        ("overrides: dataset=trec", "mine.yaml: overrides=dataset=trec: the value must be a list of Hydra overrides"),
        ("overrides: [{dataset: trec}]", "the value must be a list of Hydra overrides"),
        ("report: maybe", "mine.yaml: report=maybe: the value must be true or false"),
        ("name: Mine!", "mine.yaml: name=Mine!: a job's name is 1 to 40 lowercase letters"),
        ("folder: nowhere", "mine.yaml: folder=nowhere: there is no folder"),
        ("virtual_environment: env", "env/bin/python does not exist. Remove the key"),
        ("- dataset=trec", "a job must be a YAML mapping of keys to values. Keys: name"),
        ("window: [", "it cannot be read"),
        ("folder: |\n  jobs\n  tests", "mine.yaml: folder="),
        (
            "window: 22:00-07:00\noverrides: [\"budget.window='20:00-21:00'\"]",
            "the job already sets this with its key window. Remove one of them.",
        ),
    ],
)
def test_a_mistake_is_reported_with_key_value_rule_and_remedy(jobs_dir, text, message):
    with pytest.raises(ConfigError) as caught:
        load_job(_job(jobs_dir, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "value", ["22:00-07:00", "mon-fri 22:00-07:00; sat,sun 00:00-24:00", "it's", "C:\\x\\", "a\\'b", "json://h/?a=b,c"]
)
def test_texts_pass_through_hydras_grammar_unchanged(value):
    assert OverridesParser.create().parse_override(f"key={override_text(value)}").value() == value


def test_window_zone_and_addresses_become_overrides(jobs_dir):
    text = 'overrides: [dataset=trec]\nwindow: "22:00-07:00"\ntime_zone: Europe/Berlin\nnotify: ["json://one", "json://two"]'
    assert load_job(_job(jobs_dir, text)).all_overrides == [
        "dataset=trec",
        "budget.window='22:00-07:00'",
        "budget.time_zone='Europe/Berlin'",
        "notify.urls=['json://one','json://two']",
    ]


def test_two_jobs_of_one_name_are_refused(jobs_dir):
    _job(jobs_dir, "name: nightly")
    with pytest.raises(ConfigError, match=r"nightly.yaml: name=nightly: mine.yaml already has this name"):
        load_jobs(jobs_dir)


def test_a_job_is_found_though_another_file_is_wrong(jobs_dir):
    _job(jobs_dir, "window: 22-7")
    assert find_job("nightly", jobs_dir).name == "nightly"


def test_a_job_is_found_by_the_name_in_its_file(jobs_dir):
    _job(jobs_dir, "name: other")
    assert find_job("other", jobs_dir).file.name == "mine.yaml"


def test_an_unknown_job_is_reported_with_the_most_similar_name(jobs_dir):
    with pytest.raises(SweeperError, match=r"there is no job 'nihgtly'. Did you mean 'nightly'\? Known jobs: nightly"):
        find_job("nihgtly", jobs_dir)


def test_jobs_are_looked_for_in_the_working_directory_first(jobs_dir, monkeypatch):
    monkeypatch.chdir(jobs_dir.parent)
    assert find_jobs_dir() == jobs_dir


def test_without_a_folder_here_the_jobs_of_the_checkout_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_jobs_dir() == ROOT / "jobs"


def test_the_job_in_the_documentation_is_valid(tmp_path):
    text = (ROOT / "docs/scheduled.md").read_text().partition("```yaml\n# jobs/mine.yaml")[2].partition("```")[0]
    (tmp_path / "jobs").mkdir()
    job = load_job(_job(tmp_path / "jobs", "# jobs/mine.yaml" + text))
    assert (len(job.windows), job.time_zone) == (2, "Europe/Berlin")


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_job_has_a_window_and_a_description(path):
    job = load_job(path)
    assert job.windows
    assert job.description
