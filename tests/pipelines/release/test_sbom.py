"""The bill of materials is CycloneDX by its own schema, complete, and says what is unknown."""

import json
from importlib import metadata

import pytest

from pipelines.release import licences, sbom

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own imports

RECORD = {"name": "m", "weights_sha256": "a" * 64, "weights_files": {"model.safetensors": "a" * 64}}
SOURCES = licences.of_sources(["acdc", "clinic", "own", "phantom-kits"], {"clinic": "contract 2026/3, research only"})


@pytest.fixture(scope="module")
def bill() -> dict[str, object]:
    return sbom.make(RECORD, SOURCES)


def test_it_is_valid_by_the_schema_of_cyclonedx(bill: dict[str, object]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from jsonschema import Draft7Validator
    from rfc3986_validator import validate_rfc3986

    # Else unchecked: what jsonschema checks it with builds a parser for 2.7 s in whatever imports Prefect.
    Draft7Validator.FORMAT_CHECKER.checks("iri-reference")(lambda told: validate_rfc3986(told, "URI_reference"))
    published = licences.of_sources(licences._published(), {})  # every identifier that licences.yaml has
    for each in (bill, sbom.make(RECORD, published)):
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(each)) is None


def test_it_lists_what_is_needed_here_pinned_by_a_lock_and_no_tool_of_development(bill: dict[str, object]) -> None:
    packages = {each["name"]: each for each in bill["components"] if each["type"] == "library"}
    assert packages["numpy"]["version"] == metadata.version("numpy")
    assert {"torch", "dvc-s3", "mlflow", "medsegformer"} <= packages.keys()  # dvc-s3: of an extra
    assert not {"pytest", "monai", "cyclonedx-python-lib"} & packages.keys()
    unpinned = {name for name, each in packages.items() if each["properties"][0]["value"] == "false"}
    assert unpinned == {"medsegformer"}
    known = {f"package:{name}" for name in packages} | {"model", "python", *(f"data:{each.source}" for each in SOURCES)}
    for each in bill["dependencies"]:
        assert known >= {each["ref"], *each["dependsOn"]}


def test_it_is_the_same_for_the_same_environment(bill: dict[str, object]) -> None:
    assert sbom.make(RECORD, SOURCES) == bill
    assert sbom.make({**RECORD, "weights_sha256": "b" * 64}, SOURCES)["serialNumber"] != bill["serialNumber"]


def test_licences_of_training_data(bill: dict[str, object]) -> None:
    told = {each["name"]: each["licenses"][0]["license"] for each in bill["components"] if each["type"] == "data"}
    assert told == {
        "acdc": {"id": "CC-BY-NC-SA-4.0"},
        "clinic": {"name": "contract 2026/3, research only"},
        "own": {"name": "unknown"},
        "phantom-kits": {"id": "Apache-2.0"},
    }
    assert [each.source for each in SOURCES if each.forbids_commerce] == ["acdc"]
    assert [each.source for each in SOURCES if each.is_unknown] == ["own"]


def test_what_the_project_states_goes_before_what_is_published() -> None:
    (found,) = licences.of_sources(["acdc"], {"acdc": "bought, non-commercial"})
    assert (found.licence, found.told_by, found.forbids_commerce) == (
        "bought, non-commercial",
        "stated by this project",
        True,
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0", ("MIT OR Apache-2.0", True)),
        ("Classifier: License :: OSI Approved", ("unknown", False)),
        ("Classifier: License :: OSI Approved :: MIT License", ("MIT License", False)),
        ("License: BSD", ("BSD", False)),
        ("License: " + "all of its text " * 20, ("unknown", False)),
        ("Name: x", ("unknown", False)),
    ],
)  # fmt: skip
def test_licences_of_packages(lines: str, expected: tuple[str, bool]) -> None:
    from email import message_from_string
    from importlib.metadata._adapters import Message

    assert licences.of_package(Message(message_from_string(lines + "\n\n"))) == expected


def test_packages_by_licence(bill: dict[str, object]) -> None:
    found = sbom.packages_by_licence(bill)
    assert sum(map(len, found.values())) == sum(each["type"] == "library" for each in bill["components"])
    assert "numpy" in next(names for licence, names in found.items() if "Zlib" in licence)
