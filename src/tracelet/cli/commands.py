"""The group of commands, and their options. What they do is in a module each."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

__all__ = ["tracelet"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from tracelet import __version__

        click.echo(f"tracelet {__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def tracelet() -> None:
    """Look at runs that are on disk, and deliver what is left of them."""


@tracelet.command()
@click.argument("folder", metavar="[DIR]", required=False, type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(folder: Optional[Path], as_json: bool) -> None:
    """
    Show what was recorded and what became of it.

    DIR is a spool folder or the folder of one run; without it, every folder that runs of this user
    were spooled to is looked at.
    """
    from tracelet.cli import status as command

    command.show(folder, as_json=as_json)


@tracelet.command()
@click.argument("targets", metavar="[DIR] [RUN]...", nargs=-1)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Give up on a run after so long; by default after 30 s in which nothing was delivered.",
)
@click.option("--backend", metavar="NAME", help="Send the named runs to this backend, too.")
@click.option("--backend-url", metavar="URL", help="Its address.")
@click.option("--project", metavar="NAME", help="What the runs belong to there.")
@click.option(
    "--new-run",
    is_flag=True,
    help="Where the tracker has deleted its run, begin another one there.",
)
@click.option("--rejected", is_flag=True, help="Send once more what a tracker had refused.")
@click.pass_context
def sync(
    context: click.Context,
    targets: tuple[str, ...],
    timeout: Optional[float],
    backend: Optional[str],
    backend_url: Optional[str],
    project: Optional[str],
    new_run: bool,
    rejected: bool,
) -> None:
    """
    Deliver what is left in the spool.

    DIR is a spool folder or the folder of one run, RUN the id of a run or its beginning. Without
    them, every folder that runs of this user were spooled to is looked at. One line per run; the
    exit code is 1 when anything remains.
    """
    from tracelet.cli import sync as command

    wanted = command.Wanted(backend, backend_url, project, new_run=new_run, rejected=rejected)
    context.exit(command.deliver(targets, timeout=timeout, wanted=wanted))


@tracelet.command()
@click.argument("targets", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    type=click.Choice(["parquet", "jsonl"]),
    default="parquet",
    show_default=True,
    help="parquet: tables for pandas, Polars, DuckDB. jsonl: a readable file.",
)
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default="tracelet-export",
    show_default=True,
    help="The folder; each run gets one of its own below it, by project and name.",
)
@click.pass_context
def export(context: click.Context, targets: tuple[str, ...], kind: str, output: Path) -> None:
    """
    Write runs that are in the spool as files.

    RUN is the id of a run or its beginning, the folder of one, or a spool folder. It may still be
    recorded: then it is exported as far as it is. The spool stays as it is, and the same export
    again gives the same files. The exit code is 1 when something of a run could not be exported.
    """
    from tracelet.cli import export as command

    context.exit(command.export(targets, kind=kind, folder=output))


@tracelet.command()
@click.argument("folder", metavar="[DIR]", required=False, type=_FOLDER)
@click.option(
    "--older-than",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    help="Only what was not changed for so many days.",
)
@click.option(
    "--undelivered", is_flag=True, help="Also runs that were never delivered; needs --older-than."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@click.option("--yes", is_flag=True, help="Do not ask before what was not delivered is removed.")
@click.pass_context
def gc(
    context: click.Context,
    folder: Optional[Path],
    older_than: Optional[float],
    undelivered: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """
    Remove what nobody needs any more.

    Delivered runs that are not kept, what is left of runs that were removed, refused records after
    30 days, and folders from the index that are gone. Nothing that is being recorded or delivered,
    and without --undelivered nothing that was not delivered. The exit code is 1 when something
    could not be removed.
    """
    from tracelet.cli import gc as command

    context.exit(
        command.collect(
            folder, older_than=older_than, undelivered=undelivered, dry_run=dry_run, yes=yes
        )
    )


@tracelet.command()
@click.option(
    "--backend", metavar="NAME", multiple=True, help="Look at this one; may be given repeatedly."
)
@click.option("--backend-url", metavar="URL", help="Its address.")
@click.option("--project", metavar="NAME", help="What a run would belong to.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="How long it may take in all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(
    context: click.Context,
    backend: tuple[str, ...],
    backend_url: Optional[str],
    project: Optional[str],
    timeout: float,
    as_json: bool,
) -> None:
    """
    Look at everything a run would use, and say what is wrong.

    Settings are those that start_logging would have here: options, TRACELET_ variables, the
    backend's own, defaults. Nothing is changed. It takes less than 2 s, whatever hangs; the exit
    code is 1 when there is a problem.
    """
    from tracelet.cli import doctor as command

    context.exit(
        command.examine(
            backend=backend,
            backend_url=backend_url,
            project=project,
            timeout=timeout,
            as_json=as_json,
        )
    )
