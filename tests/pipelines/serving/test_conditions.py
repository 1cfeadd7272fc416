"""A version is served under the conditions of its evaluation, or refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.serving import conditions
from pipelines.serving.conditions import Conditions, precision_of
from pipelines.serving.segmenter import Segmenter
from pipelines.work import code
from tests.pipelines.serving.networks import write_weights


def test_conditions_through_json_are_themselves() -> None:
    here = Conditions.of_here(0.75, flips=(0, 2))
    assert Conditions.from_json(json.loads(json.dumps(here.to_json()))) == here
    assert here.checked() == here


def test_records_older_than_flips_have_none() -> None:
    here = Conditions.of_here(0.5)
    assert Conditions.from_json({key: value for key, value in here.to_json().items() if key != "flips"}) == here


@pytest.mark.parametrize("flips", [(0, 0), (3,), (-1,)])
def test_flips_that_are_no_axes_are_refused(flips: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not distinct axes of 0, 1, 2"):
        Conditions.from_json(Conditions.of_here(0.5, flips).to_json())


@pytest.mark.parametrize("record", [{}, {"overlap": "much", "precision": "float16", "code_sha256": ""}, {"overlap": 1}])
def test_a_record_that_is_none_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="evaluate and register it again"):
        Conditions.from_json(record)


def test_other_code_is_refused_with_the_remedy_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    earlier = replace(Conditions.of_here(0.5), code_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"evaluated with other code \(000000000000\).*--other-code"):
        earlier.checked()
    assert earlier.checked(other_code=True) == earlier
    assert "its Dice does not hold" in caplog.text


def test_another_kind_of_device_is_told_and_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    here = Conditions.of_here(0.5)
    with caplog.at_level(logging.WARNING):
        here.checked()
        assert not caplog.text
        replace(here, precision="float16").checked()
    assert "evaluated in float16" in caplog.text


def test_the_digest_is_of_all_between_a_file_and_a_label_map_and_of_nothing_else() -> None:
    counted = set(code.closure(conditions.ROOT, without=code.WITHOUT_INFLUENCE + conditions.BESIDE))
    assert counted >= {
        "model.network.medsegformer", "model.network.layers", "model.tasks.inference", "model.tasks.windows",
        "pipelines.cases.preparation", "pipelines.cases.resampling", "pipelines.scans.nifti", "pipelines.scans.volume",
        "pipelines.serving.regridding", "pipelines.serving.segmenter",
    }  # fmt: skip
    assert not counted & {
        "model.metrics.overlap",
        "model.weights",
        "model.weights_file",
        "pipelines.serving.conditions",
        "pipelines.serving.footprint",
        "pipelines.stages.evaluate",
    }
    assert not any(name.startswith(("model.engine.trainer", "pipelines.release", "flows")) for name in counted)


def test_a_segmenter_has_the_overlap_of_the_evaluation_and_the_precision_of_its_device(tmp_path: Path) -> None:
    segmenter = Segmenter.load(write_weights(tmp_path / "weights"), Conditions.of_here(0.9, flips=(2,)))
    assert (segmenter.overlap, segmenter.flips) == (0.9, (2,))
    assert segmenter.precision == precision_of(segmenter.device)
    assert precision_of(torch.device("cuda")) == torch.float16
