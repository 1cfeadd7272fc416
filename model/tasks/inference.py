"""From one preprocessed scan to structure probabilities: a sliding window, blended, with what it needs and no more.

    for block in blocks(network, image, modality, spacing_mm, groups, window):    # finished voxels, each of them once
        label[block.box] = largest(block.probability)[1]

G groups of classes, B windows, D H W voxels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tasks.cast_weights import cast_once
from model.tasks.layout import Layout
from model.tasks.losses import merge
from model.tasks.windows import Blended, Sums

Window = tuple[int, int, int]


@dataclass
class Tally:
    """What happened on the way.

    `runs` of the network, one a window and view; `repeated`: those of them whose half-precision logits overflowed.
    `pairs` (P, G, G) float64, with flips: of the P pairs of views, how many voxels one gives to which group and the
    other to which. A voxel that several windows see counts in each with its share.
    """

    runs: int = 0
    repeated: int = 0
    pairs: Tensor | None = None


@torch.inference_mode()
def sliding_window(
    network: nn.Module,
    image_CDHW: Tensor,
    modality_C: Tensor,
    spacing_mm: tuple[float, float, float],
    groups: Sequence[Sequence[int]],
    window: Sequence[int],
    overlap: float = 0.5,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """All of `blocks` at once, (G, D, H, W): for small scans and for tests."""
    total = torch.empty(len(groups), *image_CDHW.shape[1:], device=modality_C.device)
    scan = (network, image_CDHW, modality_C, spacing_mm, groups, window)
    for block in blocks(*scan, overlap=overlap, precision=precision):
        total[(slice(None), *block.box)] = block.probability
    return total


@torch.inference_mode()
def blocks(
    network: nn.Module,
    image_CDHW: Tensor,
    modality_C: Tensor,
    spacing_mm: tuple[float, float, float],
    groups: Sequence[Sequence[int]],
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    precision: torch.dtype = torch.float32,
    batch: int = 1,
    threads: int = 1,
    flips: Sequence[int] = (),
    tally: Tally | None = None,
) -> Iterator[Blended]:
    """Probabilities, float32, of each of `groups` of classes; the first holds background.

    Every voxel comes once. Blocks are as long as the scan along one axis, and follow each other along the second and
    then the third (`Layout.order`, by the scan's size, window and overlap).

    Windows overlap by `overlap` of their size and are blended with a Gaussian of an eighth of the window (Isensee et
    al. 2021). A scan smaller than the window is padded with zeros, as in training. The network runs where `modality_C`
    is. `precision`: bfloat16 or float16 run under autocast. `batch`: windows at a time. `threads`: of a CPU, each at
    windows of its own, while the answer is put together here. `flips`: axes (0 to 2) that are mirrored in every
    combination, the mean of all views is the answer.
    Raises ValueError if logits are not finite in float32.
    """
    layout = Layout.of(image_CDHW.shape[1:], window, overlap)
    cast = cast_once(network, precision, modality_C.device)
    passes = _Passes(network, cast, image_CDHW, modality_C, spacing_mm, groups, layout, precision, tally or Tally())
    passes.views = [axes for count in range(len(flips) + 1) for axes in combinations(flips, count)]
    windows, last = layout.windows(), len(layout.lines[layout.order[2]].starts) - 1
    sums = Sums(layout, len(groups), modality_C.device)
    for several, answer in _answered(passes, iter(lambda: list(islice(windows, batch)), []), threads):
        for window_, part, share in zip(several, passes.taken(several, answer), passes.shares(several), strict=True):
            sums.add(window_, part, share)
            if window_[layout.order[2]] == last:
                yield from sums.finished(window_)


def _answered(passes: _Passes, windows: Iterator[list[Window]], threads: int) -> Iterator[tuple[list[Window], _Said]]:
    """In order. With several threads one more is asked for than they are, and they share the cores."""
    if threads == 1:
        yield from ((several, passes.answers(several)) for several in windows)
        return
    cores, running = torch.get_num_threads(), deque[tuple[list[Window], Future[_Said]]]()
    torch.set_num_threads(1)  # what waits for work beside this thread would take theirs
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(max(1, cores // threads),))
    try:
        for several in windows:
            running.append((several, pool.submit(passes.answers, several)))
            if len(running) > threads:
                first, answer = running.popleft()
                yield first, answer.result()
        yield from ((first, answer.result()) for first, answer in running)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def largest(probability_GDHW: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of the groups in every voxel, and which it is, the first of equals; uint8, or int16 for above 256.

    On CPU an arg-max over the first axis takes ten times as long.
    """
    groups = len(probability_GDHW)
    best = probability_GDHW.amax(0)
    which = torch.zeros(best.shape, dtype=torch.uint8 if groups <= 256 else torch.int16, device=best.device)
    reached = probability_GDHW.flatten(1).amax(1) >= best.min()  # the others are the largest nowhere
    for group in reversed(reached.nonzero().flatten().tolist()):
        which.masked_fill_(probability_GDHW[group] == best, group)
    return best, which


class _Said(NamedTuple):
    """Of windows: probabilities (B, G, reach), which group each view finds likeliest (V, B, reach) with flips, and how
    many windows were run again in float32."""

    probability: Tensor
    said: Tensor | None
    repeated: int


@dataclass
class _Passes:
    """The network, and `cast` to the precision, over windows of one scan. `answers` changes nothing here, so that
    threads may share it."""

    network: nn.Module
    cast: nn.Module
    image: Tensor
    modality: Tensor
    spacing_mm: tuple[float, float, float]
    groups: Sequence[Sequence[int]]
    layout: Layout
    precision: torch.dtype
    tally: Tally
    views: list[tuple[int, ...]] = field(default_factory=lambda: [()])

    def shares(self, windows: Sequence[Window]) -> list[Tensor]:
        return [
            torch.from_numpy(self.layout.share(window)).to(self.modality.device, non_blocking=True)
            for window in windows
        ]

    @torch.inference_mode()
    def answers(self, windows: Sequence[Window]) -> _Said:
        """The mean of all views, of the windows' voxels inside the scan."""
        patches = torch.stack([self._cut(self.layout.corner(window)) for window in windows])
        if len(self.views) == 1:
            probability, repeated = self._probability(patches)
            return _Said(self._inside(probability), None, repeated)
        total, said, all_repeated = torch.zeros(()), [], 0
        for axes in self.views:
            dims = [axis + 2 for axis in axes]
            probability, repeated = self._probability(patches.flip(dims))
            probability = self._inside(probability.flip(dims))
            said.append(torch.stack([largest(own)[1] for own in probability]))
            total = probability if not axes else total.add_(probability)
            all_repeated += repeated
        return _Said(total.div_(len(self.views)), torch.stack(said), all_repeated)

    def taken(self, windows: Sequence[Window], answer: _Said) -> Tensor:
        """The probabilities, once the tally knows of them."""
        self.tally.runs += len(windows) * len(self.views)
        self.tally.repeated += answer.repeated
        if answer.said is not None:
            self._compare(windows, answer.said)
        return answer.probability

    def _cut(self, corner: Window) -> Tensor:
        """A window's voxels, on the network's device, zeros around the scan."""
        lines = self.layout.lines
        box = [slice(at, at + line.reach) for at, line in zip(corner, lines, strict=True)]
        patch = self.image[(slice(None), *box)].to(self.modality.device, non_blocking=True)
        missing = [side for line in reversed(lines) for side in (line.before, line.window - line.reach - line.before)]
        return F.pad(patch, missing) if any(missing) else patch

    def _inside(self, values: Tensor) -> Tensor:
        d, h, w = (slice(line.before, line.before + line.reach) for line in self.layout.lines)
        return values[..., d, h, w]

    def _probability(self, patches_BCDHW: Tensor) -> tuple[Tensor, int]:
        logits, repeated = self._logits(patches_BCDHW)
        return merge(logits.float(), self.groups).softmax(1), repeated

    def _logits(self, patches: Tensor) -> tuple[Tensor, int]:
        """And how many of the patches were run again."""
        logits, repeated = self._run(patches, self.precision), 0
        broken = ~_finite(logits)
        if broken.any():
            again = logits[broken]
            if self.precision != torch.float32:
                repeated = len(again)
                again = self._run(patches[broken], torch.float32)
            if not _finite(again).all():
                raise ValueError("the network answers with numbers that are not finite, in float32 as well")
            logits = logits.float()
            logits[broken] = again
        return logits, repeated

    def _run(self, patches: Tensor, precision: torch.dtype) -> Tensor:
        modality_BC = self.modality.expand(len(patches), -1)
        if precision == torch.float32:
            exact: Tensor = self.network(patches, modality_BC, self.spacing_mm)
            return exact
        with torch.autocast(self.modality.device.type, precision):
            logits: Tensor = self.cast(patches, modality_BC, self.spacing_mm)
        return logits

    def _compare(self, windows: Sequence[Window], said_VB: Tensor) -> None:
        groups, pairs = len(self.groups), list(combinations(range(len(said_VB)), 2))
        if self.tally.pairs is None:
            self.tally.pairs = torch.zeros(len(pairs), groups, groups, dtype=torch.float64, device=said_VB.device)
        for said, share in zip(said_VB.transpose(0, 1), self.shares(windows), strict=True):
            weight = share.double().flatten()
            for number, (one, other) in enumerate(pairs):
                both = said[one].long() * groups + said[other]
                found = torch.bincount(both.flatten(), weight, groups * groups)
                self.tally.pairs[number] += found.view(groups, groups)


def _finite(logits: Tensor) -> Tensor:
    """Of each window, (B,) bool. A sum is infinite or NaN where one of its terms is; finite logits do not reach it."""
    return logits.sum(tuple(range(1, logits.ndim)), dtype=torch.float32).isfinite()
