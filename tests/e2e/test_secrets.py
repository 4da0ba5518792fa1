"""No command prints a password or writes it to a file, whatever goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeper.cli import main
from tests.doubles import write_rows
from tests.e2e.conftest import overrides_of

PASSWORD = "s3ntinel"  # noqa: S105  the password that must not be seen
TRACKER = f"http://me:{PASSWORD}@127.0.0.1:9"
POSTGRES = f"postgresql://me:{PASSWORD}@127.0.0.1:9/db"
ADDRESS = f"json://127.0.0.1:9/{PASSWORD}"


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the command line in this process; return its exit code and everything that it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "500")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweeper", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        output = capfd.readouterr()
        return code, output.out + output.err

    return call


def _files_with_password(folder, *, own=()):
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in own and PASSWORD.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "override",
    [
        f"search.storage={POSTGRES}",
        f"tracker.uri={TRACKER}",
        f"notify.urls=[{ADDRESS}]",
        f"notify={{urls:['{ADDRESS}']}}",
        f"notify={{urls:{{a:'{ADDRESS}'}}}}",
        f"notify.url={ADDRESS}",
        f"notify.urls={{a:'{ADDRESS}'}}",
        f"'notify.urls=[{ADDRESS}",
        *(f"{key}={POSTGRES}" for key in ("budget.trials", "tracker.port", "search", "dataset", "lora.r", "foo.bar")),
        *(f"{key}={POSTGRES}" for key in ("name", "outputs", "+search.storage", "hydra.x", "train.micro_batch")),
        f"search.storage=[{POSTGRES}]",
        f"search={{storage:'{POSTGRES}',pruner:1}}",
        f"search={{storage:['{POSTGRES}']}}",
        f"lora.r=choice({POSTGRES})",
        f"search.storage=choice({POSTGRES},2)",
        f"'search.storage={POSTGRES}",
        f"search.storage=postgresql://me:{PASSWORD} x@h/db",
        f"search.storage=postgresql://me:{PASSWORD},=(x@h/db",
        f"search.storage=http://h/?token={PASSWORD}",
        f"space.dimensions={{lora.r:'choice({POSTGRES})'}}",
    ],
)
def test_a_configuration_and_its_errors_show_no_password(run, override):
    for words in (["config", override], ["config", "model.nope=1", override]):
        code, output = run(*words)
        assert PASSWORD not in output, output
        assert code in (0, 2), output


def test_an_error_in_a_file_shows_no_password(run, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for section in (
        f"search: {{storage: ['{POSTGRES}']}}",
        f"notify: {{urls: {{a: '{ADDRESS}'}}}}",
        f"x: '{POSTGRES}'",
    ):
        (tmp_path / "mine" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{section}\n")
        code, output = run("config", "--config-dir", "mine", "experiment=own")
        assert code == 2
        assert PASSWORD not in output, output


def test_an_unexpected_error_shows_its_traceback_without_the_password(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(f"cannot connect to {POSTGRES}")

    monkeypatch.setattr("sweeper.config.compose.compose", fail)
    code, output = run("config")
    assert code == 1
    assert "Traceback" in output
    assert "RuntimeError: cannot connect to postgresql://me:***@127.0.0.1:9/db" in output


JOB = """overrides: [{overrides}]
window: "00:00-24:00"
notify: ["${{oc.env:SWEEPER_ADDRESS}}"]
"""


@pytest.mark.slow
def test_no_command_prints_or_writes_a_password(run, tmp_path, monkeypatch, tiny_bert, tiny_cache):
    # sqlite ignores the parameters that it does not know; nothing listens at the other addresses.
    storage = f"sqlite:///file:{tmp_path}/study.db?uri=true&token={PASSWORD}"
    monkeypatch.setenv("SWEEPER_ADDRESS", ADDRESS)
    monkeypatch.setenv("SWEEPER_TRACKER", TRACKER)
    monkeypatch.setenv("SWEEPER_STORAGE", storage)
    rows = write_rows(tmp_path / "rows.jsonl")
    tiny = [word for word in overrides_of(tmp_path, rows, tiny_bert, tiny_cache) if not word.startswith("tracker")]
    secret = ["search.storage=${oc.env:SWEEPER_STORAGE}", "tracker.uri=${oc.env:SWEEPER_TRACKER}"]
    (tmp_path / "jobs").mkdir()
    listed = ", ".join(f'"{word}"' for word in [*tiny, *secret])
    (tmp_path / "jobs" / "mine.yaml").write_text(JOB.format(overrides=listed))
    unsafe = tmp_path / "jobs" / "unsafe.yaml"
    unsafe.write_text(JOB.format(overrides=f'"search.storage={POSTGRES}"'))
    kinds = ("systemd", "cron", "slurm", "scrontab", "kubernetes")
    commands = {
        0: [
            ["run", *tiny, f"search.storage='{storage}'", f"tracker.uri={TRACKER}", f"notify.urls=[{ADDRESS}]"],
            ["run", *tiny, *secret, "budget.trials=6"],
            ["status", "tiny"],
            ["report", "tiny"],
            ["reproduce", "tiny/tiny-tinybert-lora/0"],
            ["ui", f"tracker.uri={TRACKER}"],
            ["jobs", "run", "mine"],
            ["jobs", "list"],
            ["jobs", "status"],
            ["jobs", "install", "mine", "--dry-run", "--scheduler", "systemd"],
            *(["jobs", "render", "mine", "--for", kind] for kind in kinds),
            *(["jobs", "render", "unsafe", "--for", kind] for kind in kinds[:-1]),
        ],
        2: [
            ["run", *tiny, "name=away", f"search.storage={POSTGRES}"],
            ["reconcile", *tiny, *secret, "--dry-run"],
            ["confirm", "tiny", "confirm.seeds=1"],
            ["jobs", "render", "unsafe", "--for", "kubernetes"],
        ],
    }  # fmt: skip
    for expected, words in [(code, words) for code, group in commands.items() for words in group]:
        code, output = run(*words)
        assert PASSWORD not in output, f"{words}\n{output}"
        assert code == expected, f"{words}\n{output}"
    assert _files_with_password(tmp_path, own=(unsafe,)) == []
    assert "token=***" in Path("outputs/tiny/sweep.json").read_text()
