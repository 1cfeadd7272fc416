"""Where networks run: the first GPU that is left visible, else the CPU. Decided before torch is loaded."""

import os
import re


def choose(device: str | None) -> None:
    """`cpu`, `cuda` or `cuda:N`, for this process and its children. Raises ValueError for anything else."""
    if device is None or device == "cuda":
        return
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif match := re.fullmatch(r"cuda:(\d+)", device):
        os.environ["CUDA_VISIBLE_DEVICES"] = match[1]
    else:
        raise ValueError(f"--device {device!r} must be cpu, cuda or cuda:N")
