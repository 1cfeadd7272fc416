"""The model card of a version, with its bill of materials.

    .medseg/cards/RECORD_SHA256/
        card.html         for people
        card.xml          CHAI's Applied Model Card 0.2
        metadata.json     as a MONAI bundle has it
        sbom.cdx.json     weights, data, packages and their licences, CycloneDX
        LICENSE           of the program
        model.sig         the weights' signature, once somebody signed them (pipelines/release/weights_signature.py)

Unlike the dossier that it is made of, a card changes: with the standing of its version, and with what people state in
release/card.yaml. So it lies beside the dossier, and whoever hands one out makes it anew.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.pages import model_card
from pipelines.release import card_content, card_metadata, card_statements, card_xml, licences, run_identity, sbom
from pipelines.work import project
from pipelines.work.writing import replacing, write_json

XML, PAGE, METADATA, LICENSE = "card.xml", "card.html", "metadata.json", "LICENSE"


def place(record_sha256: str) -> Path:
    """The folder of this machine's card of a version."""
    return project.state_folder() / "cards" / record_sha256


def write(folder: Path, dossier: Path, standing: Mapping[str, Any]) -> dict[str, Any]:
    """All but the signature, which stays if it is there. The card's content, as `card_content.gather` gives it.

    `standing`: as `issuing.standing_of` gives it. Raises ValueError if the dossier or release/card.yaml cannot be used.
    """
    statements = card_statements.read()
    content = card_content.gather(dossier, standing, statements)
    bill = sbom.make(content, licences.of_sources([each["source"] for each in content["data"]], statements.licences))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / sbom.FILE, bill)
    write_json(folder / METADATA, card_metadata.of_card(content, dossier))
    write_text(folder / XML, card_xml.text(content))
    write_text(folder / PAGE, model_card.page(content, sbom.packages_by_licence(bill)))
    write_text(folder / LICENSE, _license())
    return content


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _license() -> str:
    """In the checkout, or as the installed package has it."""
    ours = run_identity.HERE / LICENSE
    if ours.is_file():
        return ours.read_text()
    for file in metadata.files("medsegformer") or ():
        if file.name == LICENSE:
            return Path(file.locate()).read_text()
    raise ValueError(f"{LICENSE} was not installed with medsegformer; install it anew")
