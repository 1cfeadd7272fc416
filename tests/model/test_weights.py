"""What is refused of a weights file before a tensor of it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model import weights_file
from tests.pipelines.serving.networks import write_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights")


def with_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the card in the header, the tensors as they are."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    card = json.loads(header["__metadata__"]["medsegformer"])
    changed = change(card)
    header["__metadata__"]["medsegformer"] = changed if isinstance(changed, str) else json.dumps(card)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: card.update(colour="blue"), "its card is not of this version .*colour"),
        (lambda card: card.pop("classes") and None, "its card is not of this version .*classes"),
        (lambda card: card.update(patch_size=3), "its card is not of this version"),
        (lambda card: "[" * 100_000, "is not a MedSegFormer weights file"),
        (lambda card: "nonsense", "is not a MedSegFormer weights file"),
    ],
)
def test_a_card_that_is_none_is_refused_in_one_line(
    folder: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with_card(folder, change)
    with pytest.raises(ValueError, match=told):
        weights_file.read_card(folder)


def test_a_header_that_announces_too_much_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="is not a MedSegFormer weights file"):
        weights_file.read_card(folder)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", 3])
def test_an_index_names_files_beside_it_only(folder: Path, name: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="is no index of weights files beside it"):
        weights_file.files(folder)
