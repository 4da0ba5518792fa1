"""``sweeper jobs``: list, run, install, status, remove, render. Reads arguments and prints, decides nothing."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.errors import ConfigError, SweeperError, did_you_mean

__all__ = ["app"]

app = typer.Typer(help="Searches that a clock starts: one YAML a job.", no_args_is_help=True, add_completion=False)
Name = Annotated[str, typer.Argument(help="The job: the name of its YAML file.")]
JobsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of jobs; ./jobs or that of the checkout if left out.", exists=True, file_okay=False),
]
SchedulerName = Annotated[
    str, typer.Option("--scheduler", help="systemd, cron, or auto: systemd where the user has one.")
]


@app.command("list")
def list_jobs(jobs_dir: JobsDir = None) -> None:
    """List jobs with their windows and overrides."""
    from sweeper.jobs.settings import find_jobs_dir, load_jobs

    folder = find_jobs_dir(jobs_dir)
    table = _table("Job", "Window", "Overrides", "What for")
    for job in load_jobs(folder):
        window = f"{job.window or 'none'} {job.time_zone}".strip()
        table.add_row(job.name, window, "\n".join(job.overrides), job.description)
    _print(f"Jobs in {folder}")
    Console().print(table)


@app.command()
def run(
    name: Name,
    jobs_dir: JobsDir = None,
    wait: Annotated[bool, typer.Option("--wait", help="Outside its window: wait until it opens.")] = False,
) -> None:
    """Run one session of a job now, if its window is open; the same command again goes on with it."""
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be written.")] = False,
) -> None:
    """Hand a job to systemd or cron; prints exactly what was written, and how to undo it."""
    from sweeper.jobs import schedulers
    from sweeper.jobs.render import Resources, render
    from sweeper.jobs.runner import plan_job
    from sweeper.jobs.settings import find_job, find_jobs_dir

    job = find_job(name, find_jobs_dir(jobs_dir))
    shutdown_grace_s = plan_job(job).config.settings.executor.shutdown_grace_s
    chosen = schedulers.choose(scheduler, must_be_present=not dry_run)
    texts = render(job, chosen.name, resources=Resources(shutdown_grace_s=shutdown_grace_s))
    done = [] if dry_run else schedulers.install(chosen, job.name, texts)
    verb = "Would write" if dry_run else "Wrote"
    for path, text in chosen.files(job.name, texts).items():
        _print(f"{verb} {path}:\n\n{_indented(text)}")
    _print(f"{'Would run' if dry_run else 'Ran'}: {'; '.join(chosen.commands(job.name))}")
    for line in done:
        _print(f"It was installed elsewhere before: {line}")
    if not dry_run:
        _print(f"Undo it with: sweeper jobs remove {job.name}")
        _print(chosen.hint(getpass.getuser()))


@app.command()
def remove(name: Name) -> None:
    """Undo `install`; the YAML, and what was searched, stay."""
    from sweeper.jobs import schedulers

    done = schedulers.remove(name)
    if not done:
        installed = schedulers.installed_in()
        known = f"Installed are: {', '.join(installed)}." if installed else "No job is."
        raise SweeperError(f"job '{name}' is not installed. {did_you_mean(name, installed)} {known}".replace("  ", " "))
    for line in done:
        _print(line)
    _print("A session that runs now goes on to the end of its window.")


@app.command()
def status(jobs_dir: JobsDir = None) -> None:
    """Show for every job whether it is installed, its next start, its last session and its log."""
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
    target: Annotated[str, typer.Option("--for", help="slurm, scrontab, kubernetes, systemd or cron.")],
    *,
    jobs_dir: JobsDir = None,
    cpus: Annotated[int, typer.Option(min=1, help="Clusters: CPU cores.")] = 4,
    memory: Annotated[int, typer.Option(min=1, help="Clusters: memory in GiB.")] = 8,
    gpus: Annotated[int, typer.Option(min=0, help="Clusters: GPUs.")] = 0,
    storage: Annotated[int, typer.Option(min=1, help="Kubernetes: GiB for results and fetched files.")] = 20,
    image: Annotated[str, typer.Option(help="Kubernetes: the image made by jobs/Dockerfile.")] = "sweeper:latest",
) -> None:
    """Print a job for a scheduler, to be put there by hand."""
    from sweeper.jobs.render import TARGETS, Resources
    from sweeper.jobs.render import render as render_job
    from sweeper.jobs.runner import plan_job
    from sweeper.jobs.settings import find_job, find_jobs_dir

    if target not in TARGETS:
        remedy = f"{did_you_mean(target, TARGETS)} Choose one of {', '.join(TARGETS)}.".strip()
        raise ConfigError("--for", target, "there is no template for this scheduler", remedy)
    job = find_job(name, find_jobs_dir(jobs_dir))
    shutdown_grace_s = plan_job(job).config.settings.executor.shutdown_grace_s
    asked = Resources(
        cpus=cpus, memory_gib=memory, gpus=gpus, storage_gib=storage, image=image, shutdown_grace_s=shutdown_grace_s
    )
    typer.echo(_joined(render_job(job, target, resources=asked)), nl=False)


def _joined(texts: Mapping[str, str]) -> str:
    """Return one text as it is, several with their names above."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"# {name}\n{text}" for name, text in texts.items())


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
    for place, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=place == 0, style="bold" if place == 0 else None)
    return table


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _print(text: str) -> None:
    if text:
        Console().print(Text(text), soft_wrap=True)
