"""`--device`: what CUDA is left to see."""

import os

import pytest

from pipelines.work import devices


@pytest.mark.parametrize(("device", "left"), [(None, "7"), ("cuda", "7"), ("cpu", ""), ("cuda:1", "1")])
def test_a_device_is_chosen_by_what_is_left_visible(
    monkeypatch: pytest.MonkeyPatch, device: str | None, left: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    devices.choose(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="--device 'gpu' must be cpu, cuda or cuda:N"):
        devices.choose("gpu")
