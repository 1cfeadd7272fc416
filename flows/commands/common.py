"""What all groups of `medseg`'s commands share: how errors are told, the project's folder, common options."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Version = Annotated[str, typer.Argument(help="a number, an alias, or models:/NAME/3")]


class Command(TyperGroup):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("medseg: interrupted; nothing is left running, the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `medseg ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            from pipelines.work import environment, faults, preemption

            if environment.debugging() or (line := faults.told(error)) is None:
                raise
            print(f"medseg: {line}", file=sys.stderr)
            raise typer.Exit(preemption.EXIT_CODE if isinstance(error, preemption.PreemptedError) else 1) from None


def group(help_text: str, **settings: Any) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        **settings,
    )


def enter_project(needs_mlflow: bool = False) -> None:
    """Stages and their helpers use paths relative to the root; arguments were made absolute before.

    `needs_mlflow`: raise ValueError at once if it does not answer, before anything slow is imported.
    """
    from pipelines.work import environment, project

    environment.warn_of_unknown()
    os.chdir(project.root())
    if needs_mlflow:
        from pipelines.release import tracking

        tracking.require_answer()


def model_uri(version: str) -> str:
    """Of what people call a version: of the model `register.name`, where they do not name another."""
    from pipelines import params

    if version.startswith("models:/"):
        return version
    name = params.load().register_.name
    return f"models:/{name}/{version}" if version.isdigit() else f"models:/{name}@{version.removeprefix('@')}"


def log_to_terminal() -> None:
    """Our own log, and of other programs' what is a warning."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("flows", "pipelines", "model"):
        logging.getLogger(package).setLevel(logging.INFO)
