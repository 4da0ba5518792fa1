"""The command line of ``sweeper jobs``: parses arguments and prints. The other modules of `jobs` do the work."""

from __future__ import annotations

import getpass
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.display.console import print_line
from sweeper.errors import ConfigError, SweeperError, did_you_mean

__all__ = ["app"]

app = typer.Typer(help="Scheduled searches. Each job is one YAML file.", no_args_is_help=True, add_completion=False)
Name = Annotated[str, typer.Argument(help="Name of the job: that of its YAML file, without .yaml.")]
JobsDir = Annotated[
    Path | None,
    typer.Option(
        help="The folder of jobs. The default is ./jobs, or else jobs/ of the checkout.", exists=True, file_okay=False
    ),
]
SchedulerName = Annotated[
    str, typer.Option("--scheduler", help="systemd, cron, or auto: systemd if it runs for your user, else cron.")
]


@app.command("list")
def list_jobs(jobs_dir: JobsDir = None) -> None:
    """List the jobs with their windows and overrides."""
    from sweeper.config.overrides import shown_override
    from sweeper.jobs.settings import find_jobs_dir, load_jobs

    folder = find_jobs_dir(jobs_dir)
    table = _table("Job", "Window", "Overrides", "Description")
    for job in load_jobs(folder):
        window = f"{job.window or 'none'} {job.time_zone}".strip()
        overrides = "\n".join(map(shown_override, job.overrides))
        table.add_row(*map(Text, (job.name, window, overrides, job.description)))
    _print(f"Jobs in {folder}")
    Console().print(table)


@app.command()
def run(
    name: Name,
    jobs_dir: JobsDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="Outside the window, wait until it opens.")] = False,
) -> None:
    """Run one session of a job now, if its window is open. The same command resumes it later."""
    from sweeper.jobs.runner import run_job
    from sweeper.jobs.settings import find_job, find_jobs_dir

    code = run_job(find_job(name, find_jobs_dir(jobs_dir)), console=Console(), wait=wait)
    if code:
        raise typer.Exit(code)


@app.command()
def install(
    name: Name,
    jobs_dir: JobsDir = None,
    scheduler: SchedulerName = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be written and run.")] = False,
) -> None:
    """Install a job in systemd or cron, and print exactly what was written and how to undo it."""
    from sweeper.jobs import schedulers
    from sweeper.jobs.render import Resources, render
    from sweeper.jobs.runner import plan_job
    from sweeper.jobs.settings import find_job, find_jobs_dir

    job = find_job(name, find_jobs_dir(jobs_dir))
    shutdown_grace_s = plan_job(job).config.settings.executor.shutdown_grace_s
    chosen = schedulers.choose(scheduler, must_be_present=not dry_run)
    texts = render(job, chosen.name, resources=Resources(shutdown_grace_s=shutdown_grace_s))
    moved = [] if dry_run else schedulers.install(chosen, job.name, texts)
    wrote, ran = ("Would write", "Would run") if dry_run else ("Wrote", "Ran")
    for path, text in chosen.files(job.name, texts).items():
        _print(f"{wrote} {path}:\n\n{textwrap.indent(text, '    ')}")
    _print(f"{ran}: {'; '.join(chosen.commands(job.name))}")
    for line in moved:
        _print(f"Removed from the other scheduler: {line}")
    if not dry_run:
        _print(f"To undo this: sweeper jobs remove {job.name}")
        if hint := chosen.hint(getpass.getuser()):
            _print(hint)


@app.command()
def remove(name: Name) -> None:
    """Remove a job from its scheduler. Its YAML file and its results are kept."""
    from sweeper.jobs import schedulers

    done = schedulers.remove(name)
    if not done:
        installed = schedulers.installed_in()
        known = f"Installed jobs: {', '.join(installed)}." if installed else "No job is installed."
        raise SweeperError(f"job '{name}' is not installed. {did_you_mean(name, installed)} {known}".replace("  ", " "))
    for line in done:
        _print(line)
    _print("A session that is running now continues until its window closes.")


@app.command()
def status(jobs_dir: JobsDir = None) -> None:
    """Show whether each job is installed, its next start, its last session and its log."""
    from sweeper.clock import utc_now
    from sweeper.jobs.settings import find_jobs_dir, load_jobs
    from sweeper.jobs.status import job_statuses

    table = _table("Job", "Installed", "Next start", "Last session", "Trials")
    statuses = job_statuses(load_jobs(find_jobs_dir(jobs_dir)), now=utc_now())
    for job in statuses:
        table.add_row(*map(Text, (job.name, job.scheduler or "no", job.next_start or "-", job.last, job.progress)))
    Console().print(table)
    for job in filter(lambda job: job.log, statuses):
        _print(f"Log of {job.name}: {job.log}")


@app.command()
def render(
    name: Name,
    target: Annotated[str, typer.Option("--for", help="The scheduler: slurm, scrontab, kubernetes, systemd or cron.")],
    *,
    jobs_dir: JobsDir = None,
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores to request (clusters only).")] = 4,
    memory: Annotated[int, typer.Option(min=1, help="Memory to request in GiB (clusters only).")] = 8,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to request (clusters only).")] = 0,
    storage: Annotated[int, typer.Option(min=1, help="GiB for results and downloaded files (Kubernetes only).")] = 20,
    image: Annotated[
        str, typer.Option(help="Container image, built with jobs/Dockerfile (Kubernetes only).")
    ] = "sweeper:latest",
) -> None:
    """Print what a scheduler needs to run a job, for you to install there."""
    from sweeper.jobs.render import TARGETS, Resources
    from sweeper.jobs.render import render as render_job
    from sweeper.jobs.runner import plan_job
    from sweeper.jobs.settings import find_job, find_jobs_dir

    if target not in TARGETS:
        remedy = f"{did_you_mean(target, TARGETS)} Choose one of {', '.join(TARGETS)}.".strip()
        raise ConfigError("--for", target, "there is no such scheduler", remedy)
    job = find_job(name, find_jobs_dir(jobs_dir))
    shutdown_grace_s = plan_job(job).config.settings.executor.shutdown_grace_s
    resources = Resources(
        cpus=cpus, memory_gib=memory, gpus=gpus, storage_gib=storage, image=image, shutdown_grace_s=shutdown_grace_s
    )
    texts = render_job(job, target, resources=resources)
    has_several = len(texts) > 1
    typer.echo("\n".join(f"# {name}\n{text}" if has_several else text for name, text in texts.items()), nl=False)


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
    for index, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=index == 0, style="bold" if index == 0 else None)
    return table


def _print(text: str) -> None:
    print_line(Console(), text)
