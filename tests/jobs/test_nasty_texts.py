"""No text of a job can end its line, or be read as another line, by any scheduler."""

from __future__ import annotations

import re
import shlex
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.errors import ConfigError
from sweeper.jobs.render import TARGETS, Resources, log_path, render, run_command
from sweeper.jobs.settings import Job, load_job

BRIEF = settings(max_examples=20, deadline=None)
PLAIN = "plain"
_LETTERS = "ab \\%$\"'`#;|<>{}[]()&*!?~=:,-ü€😀"
texts = st.text(_LETTERS, min_size=1, max_size=12)
characters = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
lines = st.text(characters, max_size=30)
paths = texts.map(lambda text: Path("/srv") / text.replace("/", "_"))


def _job(description=PLAIN, folder=Path("/srv/x"), overrides=("dataset=trec",)):
    return Job(
        name="mine",
        description=description,
        overrides=overrides,
        window="22:00-07:00",
        time_zone="",
        report=True,
        notify=(),
        folder=folder,
        python=folder / "env" / "bin" / "python",
        file=folder / "jobs" / "mine.yaml",
    )


def _unit(text):
    """Read a unit file as systemd does: a line that ends in an unescaped backslash goes on in the next one."""
    lines, pending = [], ""
    for line in text.splitlines():
        if not pending and (not line or line.startswith(("#", ";"))):
            continue
        pending += line
        trailing = len(line) - len(line.rstrip("\\"))
        if trailing % 2:
            pending = pending[:-1] + " "
        else:
            lines.append(pending)
            pending = ""
    assert not pending
    return [line.partition("=")[::2] for line in lines]


def _value(unit, key):
    (found,) = [value for name, value in unit if name == key]
    assert not re.search(r"(?<!%)(?:%%)*%(?!%)", found), "an open specifier"
    return found.replace("%%", "%")


def _words(command):
    """Split a command as systemd does: double quotes, backslashes within them, doubled dollars."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', command)
    words = [re.sub(r"\\(.)", r"\1", quoted) if quoted else plain for quoted, plain in words]
    return [words[0], *(word.replace("$$", "$") for word in words[1:])]


_KEYS = {name: [key for key, _ in _unit(text)] for name, text in render(_job(), "systemd").items()}


@BRIEF
@given(description=texts, folder=paths)
@example(description="C:\\data\\", folder=Path("/srv/a\\"))
@example(description="ends in \\\\\\", folder=Path("/srv/ends in space "))
def test_a_unit_has_the_same_keys_whatever_its_texts_are(description, folder):
    description = " ".join(description.split())
    job = _job(description, folder)
    for name, text in render(job, "systemd").items():
        unit = _unit(text)
        assert [key for key, _ in unit] == _KEYS[name]
        if name.endswith(".service"):
            shown = _value(unit, "Description").removeprefix("sweeper job mine").removeprefix(": ")
            assert shown in (description, description + "\\")
            assert Path(_value(unit, "WorkingDirectory").strip()) == folder
            words = _words(_value(unit, "ExecStart"))
            assert (words[1:] if words[0] == "/usr/bin/env" else words) == run_command(job)


def _handed_to_the_shell(command):
    """Return what cron runs: up to the first % without a backslash before it; an escaped one loses its backslash."""
    shown, is_escaped = "", False
    for letter in command:
        if is_escaped:
            is_escaped = False
            if letter == "%":
                shown = shown[:-1]
        elif letter == "\\":
            is_escaped = True
        elif letter == "%":
            break
        shown += letter
    return shown


@BRIEF
@given(folder=paths)
@example(folder=Path("/srv/a\\%b"))
@example(folder=Path("/srv/a\\\\%\\%%"))
def test_cron_runs_the_command_whatever_its_folder_is_called(folder):
    job = _job(folder=folder)
    lines = render(job, "cron")["crontab"].splitlines()
    assert all(re.match(r"(\S+ ){5}mkdir ", line) for line in lines)
    for line in lines:
        words = shlex.split(_handed_to_the_shell(line.split(maxsplit=5)[5]))
        log = log_path(job)
        assert words == [
            "mkdir",
            "-p",
            str(log.parent),
            "&&",
            "nice",
            "-n",
            "10",
            *run_command(job),
            ">>",
            str(log),
            "2>&1",
        ]


@BRIEF
@given(folder=paths)
def test_slurm_reads_folder_and_command_whatever_they_are_called(folder):
    job = _job(folder=folder)
    lines = render(job, "slurm")["mine.sh"].splitlines()
    assert all(line.startswith("#") for line in lines[: lines.index("set -u")])
    (chdir,) = [line for line in lines if line.startswith("#SBATCH --chdir=")]
    assert shlex.split(chdir.removeprefix("#SBATCH --chdir=")) == [str(folder)]
    (command,) = [line for line in lines if line.endswith(" &")]
    assert shlex.split(command.removesuffix(" &")) == run_command(job)


@BRIEF
@given(
    description=lines,
    override=st.text(st.one_of(characters, st.sampled_from("\n\t")), max_size=30),
    image=st.text(string.printable[:94]),
)
@example(description="a: b # c", override="a=\n\tb: c\n- d", image='a"b')
@example(description="---", override="%TAG", image="x")
def test_a_manifest_contains_the_same_texts(description, override, image):
    job = _job(description, overrides=(override,))
    documents = list(yaml.safe_load_all(render(job, "kubernetes", resources=Resources(image=image))["mine.yaml"]))
    inside = yaml.safe_load(documents[0]["data"]["mine.yaml"])
    assert (inside["description"], inside["overrides"][0]) == (description, override)
    containers = documents[2]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert [container["image"] for container in containers] == [image]
    assert len(documents) == 3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("letter", ["\n", "\r", "\x00", "\x1b", "\x85", "\u2028", "\udc80"])
def test_a_path_with_a_line_break_is_refused(target, letter):
    with pytest.raises(ConfigError, match=r"mine.yaml: folder=.*: no scheduler can read a line break"):
        render(_job(folder=Path(f"/srv/a{letter}ExecStart=b")), target)


@pytest.mark.parametrize("key", ["description", "folder", "time_zone", "window"])
def test_a_control_character_in_a_job_is_refused(jobs_dir, key):
    (jobs_dir / "mine.yaml").write_text(f'{key}: "a\\0b"\n')
    with pytest.raises(ConfigError, match=rf"mine.yaml: {key}=.*control character"):
        load_job(jobs_dir / "mine.yaml")


def test_a_control_character_in_an_override_is_refused(jobs_dir):
    (jobs_dir / "mine.yaml").write_text('overrides: ["dataset=trec", "name=a\\eb"]\n')
    with pytest.raises(ConfigError, match=r"mine.yaml: overrides=.*control character"):
        load_job(jobs_dir / "mine.yaml")


@pytest.mark.parametrize("secret", ["search.storage=postgresql://me:hunter2@db/x", "notify.urls=[slack://hunter2/b]"])
def test_a_manifest_with_a_password_is_refused(secret):
    with pytest.raises(ConfigError, match=r"mine.yaml: overrides=\*\*\*: a manifest is not secret") as caught:
        render(_job(overrides=("dataset=trec", secret)), "kubernetes")
    assert "hunter2" not in str(caught.value)
