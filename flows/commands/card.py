"""The model card of a version, and the signature of its weights."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flows.commands.common import Json, Version, enter_project, group, log_to_terminal, model_uri

SHOW = "show"


class CardCommand(TyperGroup):
    """`medseg card 3` is `medseg card show 3`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else [SHOW, *args])


app = group("The model card of a version: `medseg card 3`.", cls=CardCommand)


@app.command(SHOW)
def make_card(
    version: Version,
    json: Json = False,
    open_page: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
) -> None:
    """Make it anew, as the version stands now: for people, as CHAI's XML, MONAI's metadata and a bill of materials."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import show
    from pipelines.release import card, issuing, registry

    content = issuing.issue(registry.find(model_uri(version)))
    page = card.place(content["record_sha256"]) / card.PAGE
    if json:
        show.as_json({**content, "page": str(page)})
    else:
        print(f"{content['name']} version {content['standing']['version']}: {content['standing']['word']}")
        print("\n".join(f"- {sentence}" for sentence in content["limits"]))
        if content["unstated"]:
            print(f"Not stated in release/plan.yaml and release/card.yaml: {', '.join(content['unstated'])}")
        print(f"Card: {page}")
    if open_page:
        typer.launch(str(page))


@app.command("sign")
def sign_weights(
    version: Version,
    key: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, resolve_path=True, help="private key: ssh-keygen -t ecdsa")
    ],
) -> None:
    """Sign the weights in the OpenSSF's format (model.sig); others verify it with `model_signing verify key`."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from pipelines.release import issuing, registry

    print(issuing.sign(registry.find(model_uri(version)), key))


@app.command("verify")
def verify_weights(
    version: Version,
    key: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, resolve_path=True, help="public key; the ledger's signers unless told"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Are the weights what was signed, and by whom?"""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import show
    from pipelines.release import issuing, registry

    model = registry.find(model_uri(version))
    by = issuing.verify(model, key)
    if json:
        show.as_json({"name": model.name, "version": model.version, "signed_by": by})
    else:
        print(f"{model.name} version {model.version}: the weights are what {by} signed")
