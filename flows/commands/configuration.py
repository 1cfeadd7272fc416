"""`medseg params` and `medseg profile`. Thin, as `flows/commands/medseg.py` is."""

from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, group

params_app = group("params.yaml: validate and explain it.")
profile_app = group("Profiles: what a kind of run has otherwise; list them, put one in place of params.yaml.")


@params_app.command("check")
def params_check() -> None:
    """Validate params.yaml."""
    enter_project()
    from pipelines import params

    params.load()
    print("params.yaml is valid")


@params_app.command("show")
def params_show(
    key: Annotated[str, typer.Argument(help="a block or a setting, such as train or train.steps; all")] = "",
    json: Json = False,
) -> None:
    """What each setting is, where its value comes from, its bounds and why."""
    enter_project()
    from flows import show
    from pipelines.params import explanation

    (show.as_json if json else show.settings)(explanation.explain(key))


@profile_app.command("use")
def profile_use(name: str) -> None:
    """Put a profile in place of params.yaml."""
    enter_project()
    from flows import lock
    from pipelines.params import profiles

    with lock.held(doing="profile"):
        kept = profiles.use(name)
    print(f"params.yaml is now profile {name}" + (f"; your own is kept in {kept}" if kept else ""))


@profile_app.command("ls")
def profile_ls(json: Json = False) -> None:
    """The profiles; the one in use has a star."""
    enter_project()
    from flows import show
    from pipelines.params import profiles

    names, used = profiles.names(), profiles.in_use()
    if json:
        show.as_json({"profiles": names, "in_use": used})
    else:
        print("\n".join(f"{'*' if name == used else ' '} {name}" for name in names))
