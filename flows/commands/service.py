"""`medseg serve`: the service, its configuration and its tokens. Thin, as `flows/commands/medseg.py` is."""

from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, group, log_to_terminal, model_uri

HELP = """The released model as a service: scans in by HTTP, DICOM or a watched folder, segmentations out.

  medseg serve token add NAME              prints a token, once
  medseg serve                             until Ctrl-C; http://127.0.0.1:8040
  curl -H "Authorization: Bearer TOKEN" --data-binary @scan.nii.gz "http://127.0.0.1:8040/segmentations?to=nifti,json"
  curl -H "Authorization: Bearer TOKEN" http://127.0.0.1:8040/segmentations/ID

`medseg serve config` shows serve.yaml, all that can be set. docs/service.md says more."""

serve_app = group(HELP, invoke_without_command=True)
serve_app.info.no_args_is_help = False
token_app = group("Who may use the service.")
serve_app.add_typer(token_app, name="token")


@serve_app.callback()
def serve(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="a registered version; the champion unless told")] = None,
    unreleased: Annotated[
        bool, typer.Option("--unreleased", help='a version that is not released; "not for clinical use" on everything')
    ] = False,
    host: Annotated[str | None, typer.Option(help="address to listen at; 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen at; 8040")] = None,
    workers: Annotated[int | None, typer.Option(help="processes with a network each; 1")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the first GPU if there is one")] = None,
    database: Annotated[str | None, typer.Option(help="postgresql+psycopg2://USER@HOST/NAME; else SQLite")] = None,
) -> None:
    if context.invoked_subcommand:
        return
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from pipelines.service import http_server, serve_settings

    told = {"host": host, "port": port, "workers": workers, "device": device, "database": database}
    changes = {**told, "model": model and model_uri(model), "unreleased": unreleased or None}
    http_server.serve(
        serve_settings.load(changes), lambda address: print(f"Serving at {address}; Ctrl-C ends it", flush=True)
    )


@serve_app.command("config")
def show_configuration() -> None:
    """A serve.yaml with every key, its default and what it means; `medseg serve config > serve.yaml` begins one."""
    from pipelines.service import serve_settings

    print(serve_settings.explained(), end="")


@token_app.command("add")
def add_token(
    name: str,
    limit: Annotated[int | None, typer.Option(help="jobs of it that may wait or run at once")] = None,
) -> None:
    """Make a token and print it, once: only a hash is kept."""
    print(_tokens().add(name, limit))


@token_app.command("remove")
def remove_token(name: str) -> None:
    """Nobody gets in by it any more; a running service notices."""
    _tokens().remove(name)


@token_app.command("list")
def list_tokens(json: Json = False) -> None:
    """Names and limits."""
    from dataclasses import asdict

    from flows import show

    found = [asdict(each) for each in _tokens().callers()]
    if json:
        show.as_json(found)
    else:
        print("\n".join(f"{each['name']}  {each['limit'] or ''}".rstrip() for each in found))


def _tokens():  # type: ignore[no-untyped-def]
    enter_project()
    from pipelines.service.access import tokens_of
    from pipelines.work import project

    return tokens_of(project.state_folder() / "serve")
