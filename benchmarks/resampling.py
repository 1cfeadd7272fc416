"""Resampling against SimpleITK and scipy: one core, one volume, the same run.

Run     python -m benchmarks.resampling [--shape 256 256 200] [--factor 1.25]        half a minute on one core
Prints  CPU seconds of both orders, the minimum of repeats; SimpleITK's linear and cubic, and scipy's cubic spline; the
        ratios; the largest difference from scipy. nnU-Net's default takes 7.4 s for this volume (measured once,
        skimage's resize of order 3); `benchmarks/data.py` compares with it in its own environment.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from scipy.ndimage import zoom

from pipelines.cases.resampling import resample

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 200))
    parser.add_argument("--factor", type=float, default=1.25)
    arguments = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    array = np.random.default_rng(0).random(arguments.shape, dtype=np.float32)
    d, h, w = (round(size * arguments.factor) for size in arguments.shape)
    target = (d, h, w)
    image = sitk.GetImageFromArray(array)
    linear, _ = fastest(lambda: resample(array, target, 1))
    cubic, ours = fastest(lambda: resample(array, target, 3))
    their_linear, _ = fastest(lambda: by_simpleitk(image, target, sitk.sitkLinear))
    their_cubic, _ = fastest(lambda: by_simpleitk(image, target, sitk.sitkBSpline), repeats=1)
    factors = [new / old for new, old in zip(target, arguments.shape, strict=True)]
    scipys, reference = fastest(lambda: zoom(array, factors, order=3, mode="nearest", grid_mode=True), repeats=1)
    print(f"{'x'.join(map(str, arguments.shape))} to {'x'.join(map(str, target))}, one core, CPU seconds")
    print(f"order 1  ours {linear:.3f}  SimpleITK {their_linear:.3f}  ratio {linear / their_linear:.2f}")
    print(f"order 3  ours {cubic:.3f}  SimpleITK {their_cubic:.3f}  ratio {cubic / their_cubic:.2f}")
    print(f"order 3  ours {cubic:.3f}  scipy {scipys:.3f}  ratio {cubic / scipys:.3f}")
    print(f"largest difference from scipy (mode nearest, grid_mode): {float(np.abs(ours - reference).max()):.1e}")


def fastest(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, np.ndarray]:
    """CPU seconds of the quickest of `repeats`, and what it gave."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), np.asarray(result if isinstance(result, np.ndarray) else sitk.GetArrayViewFromImage(result))


def by_simpleitk(image: sitk.Image, shape: tuple[int, int, int], interpolator: int) -> sitk.Image:
    """On the grid of `resample`: voxel centres spread over the same extent."""
    size = image.GetSize()
    spacing = [old / new for old, new in zip(size, reversed(shape), strict=True)]
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(value) for value in reversed(shape)])
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputOrigin([(step - 1) / 2 for step in spacing])
    resampler.SetInterpolator(interpolator)
    return resampler.Execute(image)


if __name__ == "__main__":
    main()
