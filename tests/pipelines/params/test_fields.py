"""The schema says of every setting what it is and why."""

import pytest

from pipelines import params
from pipelines.params import fields


def test_every_setting_has_a_description() -> None:
    assert [key for key, field in fields.settings() if not field.description] == []


def test_a_description_is_a_remark_and_no_sentence() -> None:
    """It stands in brackets behind errors and in a table."""
    for key, field in fields.settings():
        assert not (field.description or "").endswith("."), key


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("train", True),
        ("train.steps", True),
        ("register.name", True),
        ("train.augment.scale", True),
        ("train.patch_size.brats", True),
        ("register_.name", False),
        ("train.patch_size.brats.0", False),
        ("train.steps.more", False),
        ("trian", False),
    ],
)
def test_a_key_names_a_block_a_setting_or_an_entry_of_a_table(key: str, found: bool) -> None:
    assert (fields.find(key.split(".")) is not None) is found


def test_what_a_file_states_is_listed_by_whole_keys_with_tables_whole() -> None:
    content = {"train": {"steps": 3, "patch_size": {"default": "auto"}, "stepz": 1}, "trian": {"steps": 3}}
    assert dict(fields.stated(content)) == {
        "train.steps": 3,
        "train.patch_size": {"default": "auto"},
        "train.stepz": 1,
        "trian": {"steps": 3},
    }


def test_the_schema_knows_the_settings_of_a_whole_file() -> None:
    assert {key for key, _ in fields.settings()} >= {"data.sources", "ingest.quality.tiny_mm3", "register.name"}
    assert fields.known([]) == [field.alias or name for name, field in params.Params.model_fields.items()]
    assert fields.known(["train", "steps"]) == []
