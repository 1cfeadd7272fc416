"""release/card.yaml: what a model card says that only people can know, from the users to who was asked.

It belongs to the project and not to a version: it may be filled in after a training, and every card made later has it.
The intended use stands in release/plan.yaml, which is fixed before one.
"""

import json
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.params import reading
from pipelines.params.block import Block
from pipelines.work import project
from pipelines.work.wording import did_you_mean

FILE = Path("release/card.yaml")
NOT_STATED = "Not stated"


class Statements(Block):
    """As the file has them; empty: not stated."""

    developer: str = ""
    contact: str = ""
    copyright: str = ""
    intended_users: str = ""
    how_to_use: str = ""
    population: str = ""
    biases: str = ""
    bias_mitigation: str = ""
    clinical_risk: str = ""
    availability: str = ""
    regulatory_approval: str = ""
    security: str = ""
    funding: str = ""
    third_parties: str = ""
    consulted: str = ""
    publications: str = ""
    consent: str = ""
    bibliography: str = ""
    keywords: tuple[str, ...] = ()
    licences: dict[str, str] = Field(default_factory=dict)

    def texts(self) -> dict[str, str]:
        """Name -> what is said."""
        return {name: value.strip() for name, value in self if isinstance(value, str)}

    def unstated(self) -> list[str]:
        return [name for name, value in self.texts().items() if not value]


def read(path: Path | None = None) -> Statements:
    """Nothing stated, if there is no file. Raises ValueError naming the key that is wrong."""
    file = path or project.root() / FILE
    if not file.is_file():
        return Statements()
    content = reading.parse_value(reading.text(file), str(FILE))
    if not isinstance(content or {}, dict):
        raise ValueError(f"{FILE}: must hold `name: text`; known names: {', '.join(Statements.model_fields)}")
    try:
        return Statements.model_validate_json(json.dumps(content or {}, default=str))
    except ValidationError as error:
        (detail, *_) = error.errors()
        key = ".".join(map(str, detail["loc"]))
        known = did_you_mean(key, Statements.model_fields) if detail["type"] == "extra_forbidden" else ""
        raise ValueError(f"{FILE}: {key}: {detail['msg'].lower()}{known}") from None
