"""What is rendered, read by the tools that it is meant for: systemd, cron, Slurm, Kubernetes, hadolint, shellcheck."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from sweeper.config.time_windows import parse_windows
from sweeper.jobs.render import Resources, render
from sweeper.jobs.schedule_lines import calendar_lines
from sweeper.jobs.settings import load_job
from tests.doubles import wait_until

ROOT = Path(__file__).parents[2]
WINDOWS = ["22:00-07:00", "mon-fri 22:00-07:00; sat,sun 00:00-24:00", "fri 23:30-00:30; 12:00-13:00"]
SLURM_CONF = """ClusterName=test
SlurmctldHost=localhost
SlurmctldPort=1
MessageTimeout=1
AuthType=auth/none
CredType=cred/none
GresTypes=gpu
NodeName=localhost CPUs=1
PartitionName=main Nodes=ALL Default=YES
"""


def _tool(name, *places):
    """Find a program: in the environment of the tests first."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], *places]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.fixture(params=["plain", 'my 50% of $HOME\'s "best"', "50\\% ends in \\"])
def job(request, tmp_path):
    """A job in a folder with an ordinary name, and in one whose name has every special character of schedulers."""
    folder = tmp_path / request.param / "jobs"
    folder.mkdir(parents=True)
    python = folder.parent / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
    python.chmod(0o755)
    text = 'description: 100% of "it" in C:\\data\\\nvirtual_environment: env\n'
    text += 'window: "mon-fri 22:00-07:00; sat 12:00-24:00"\n'
    (folder / "mine.yaml").write_text(f"{text}time_zone: Europe/Berlin\noverrides: [dataset=trec]\n")
    return load_job(folder / "mine.yaml")


def _verify(folder, texts):
    for name, text in texts.items():
        (folder / name).write_text(text)
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    paths = [str(folder / name) for name in texts]
    return _run(_tool("systemd-analyze"), "--user", "verify", *paths, env=environment).stderr


def test_systemd_accepts_the_units(job, tmp_path):
    assert _verify(tmp_path, render(job, "systemd")) == ""


def test_systemd_would_reject_a_wrong_unit(job, tmp_path):
    texts = {name: text.replace("KillMode=mixed", "KillMode=mixt") for name, text in render(job, "systemd").items()}
    assert "mixt" in _verify(tmp_path, texts)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("zone", ["", "Asia/Kolkata"])
def test_systemd_reads_the_times_as_they_are_meant(window, zone):
    windows = parse_windows(window, zone)
    for line, meant in zip(calendar_lines(windows), windows, strict=True):
        done = _run(_tool("systemd-analyze"), "calendar", line, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr
        assert f" *-*-* {meant.start_text}:00{' ' if zone else ''}{zone}" in done.stdout.replace(": *-*-*", ":  *-*-*")


def test_cron_accepts_the_crontab(job, tmp_path):
    crontab = _tool("crontab")
    (tmp_path / "table").write_text(render(job, "cron")["crontab"])
    # Debian's checks a table with -n, cronie's with -T.
    check = "-n" if "(dry run" in _run(crontab, "-?").stderr else "-T"
    good = _run(crontab, check, str(tmp_path / "table"))
    assert good.returncode == 0, good.stderr
    (tmp_path / "table").write_text("0 25 * * * true\n")
    assert _run(crontab, check, str(tmp_path / "table")).returncode != 0


def test_what_cron_hands_to_the_shell_runs_the_job_and_keeps_a_log(job):
    line = render(job, "cron")["crontab"].splitlines()[0]
    command = line.split(maxsplit=5)[5].replace("\\%", "%")
    done = _run("/bin/sh", "-c", command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (job.folder / "outputs" / "jobs" / "mine.log").read_text()
    words = ["-P", "-m", "sweeper.cli", "jobs", "run", "mine", "--jobs-dir", str(job.file.parent)]
    assert log.splitlines() == [f"<{word}>" for word in words]


def test_shellcheck_accepts_the_script_for_slurm(job, tmp_path):
    script = tmp_path / "mine.sh"
    script.write_text(render(job, "slurm", resources=Resources(gpus=1))["mine.sh"])
    assert _run("bash", "-n", str(script)).returncode == 0
    # SC2016 suspects that a quoted $ was meant as a variable; the folder's name has one.
    done = _run(_tool("shellcheck"), "--exclude=SC2016", str(script))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("gpus", [0, 2])
def test_slurm_knows_every_option_of_the_script(job, tmp_path, gpus):
    text = render(job, "slurm", resources=Resources(gpus=gpus))["mine.sh"]
    assert "Unable to contact slurm controller" in _sbatch(tmp_path, text)
    assert "unrecognized option" in _sbatch(tmp_path, text.replace("--requeue", "--requeued"))


def test_slurm_knows_every_option_of_the_line_for_scrontab(job, tmp_path):
    options = [line for line in render(job, "scrontab")["scrontab"].splitlines() if line.startswith("#SCRON")]
    text = "#!/bin/sh\n" + "\n".join(options).replace("#SCRON", "#SBATCH") + "\ntrue\n"
    assert "Unable to contact slurm controller" in _sbatch(tmp_path, text)


def _sbatch(folder, text):
    """Return the messages of Slurm's parser; a script that it understands fails only because there is no controller."""
    (folder / "slurm.conf").write_text(SLURM_CONF)
    (folder / "script.sh").write_text(text)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    return _run(_tool("sbatch"), "--test-only", str(folder / "script.sh"), env=environment).stderr


@pytest.mark.parametrize(("end", "is_requeued"), [("exit 143", True), ("exit 0", False), ("exit 2", False)])
def test_a_stopped_slurm_job_saves_its_work_and_is_queued_again_if_it_is_not_done(job, tmp_path, end, is_requeued):
    began, calls = tmp_path / "began", tmp_path / "calls"
    trap = f"trap 'echo drained >> \"{calls}\"; {end}' TERM"
    job.python.write_text(f'#!/bin/sh\n{trap}\ntouch "{began}"\nwhile :; do sleep 0.05; done\n')
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$*" >> "{calls}"\n')
    scontrol.chmod(0o755)
    (tmp_path / "mine.sh").write_text(render(job, "slurm")["mine.sh"])
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    # A session of its own, so that nothing of it is left behind should it not end.
    command = ["/bin/bash", str(tmp_path / "mine.sh")]
    with subprocess.Popen(command, env=environment, start_new_session=True) as script:
        try:
            wait_until(began.exists, "the job's first act")
            script.terminate()
            code = script.wait(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
    assert calls.read_text().splitlines() == ["drained", *(["requeue 7"] if is_requeued else [])]
    assert code == (0 if is_requeued else int(end.split()[1]))


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("window", WINDOWS)
def test_kubernetes_accepts_every_manifest(job, window, gpus):
    job.file.write_text(f'overrides: [dataset=trec, "lora.r=choice(4,8)"]\nwindow: "{window}"\n')
    text = render(load_job(job.file), "kubernetes", resources=Resources(gpus=gpus))["mine.yaml"]
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    crons = [document for document in documents if document["kind"] == "CronJob"]
    assert len({document["metadata"]["name"] for document in crons}) == len(crons) == len(parse_windows(window).windows)


def test_kubernetes_would_refuse_a_wrong_manifest(job):
    text = render(job, "kubernetes")["mine.yaml"].replace("concurrencyPolicy: Forbid", "concurrencyPolicy: Never")
    cron = next(document for document in yaml.safe_load_all(text) if document["kind"] == "CronJob")
    kubernetes_validate.validate({**cron, "spec": {**cron["spec"], "concurrencyPolicy": "Forbid"}}, "1.37", strict=True)
    cron["spec"]["suspended"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(cron, "1.37", strict=True)


def test_the_job_in_a_manifest_is_the_same_job(job, tmp_path):
    documents = list(yaml.safe_load_all(render(job, "kubernetes", resources=Resources(cpus=3))["mine.yaml"]))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.yaml").write_text(documents[0]["data"]["mine.yaml"])
    inside = load_job(tmp_path / "jobs" / "mine.yaml")
    assert inside.overrides == ("dataset=trec", "cache=/sweeps/cache", "executor.workers=3")
    assert (inside.window, inside.time_zone, inside.report) == (job.window, job.time_zone, job.report)
    cron = documents[2]["spec"]
    assert (cron["timeZone"], cron["schedule"]) == ("Europe/Berlin", "0 22 * * 1-5")
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["jobs", "run", "mine"]


def test_time_to_stop_covers_what_a_chunk_may_take(job):
    text = "".join(render(job, "systemd", resources=Resources(shutdown_grace_s=100)).values())
    assert "TimeoutStopSec=180" in text
    pods = render(job, "kubernetes", resources=Resources(shutdown_grace_s=100))["mine.yaml"]
    assert "terminationGracePeriodSeconds: 180" in pods


def test_hadolint_accepts_the_image():
    done = _run(_tool("hadolint"), str(ROOT / "jobs" / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")
