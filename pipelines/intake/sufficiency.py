"""Whether what was found suffices to train and to evaluate, told before hours are spent on it.

A run that cannot end is stopped here; what only weakens it is a line in the log. Sources, structures and numbers are
told, no name of a file.
"""

from collections.abc import Iterator

from pipelines.scans.manifest import TEST, TRAIN, Row, usable

FEW_PATIENTS = 5  # of a source: one of them held out is a fifth of all, and its Dice one person's


def check(rows: list[Row]) -> list[str]:
    """What is weak, a sentence each. Raises ValueError if training or evaluation could not be done at all."""
    labelled = [row for row in usable(rows) if row.annotated]
    patients = {row.patient for row in labelled}
    if not labelled:
        return ["no usable scan has a label: an encoder can be pretrained on them, and no more"]
    if not {TRAIN, TEST} <= {row.split for row in labelled}:
        raise ValueError(
            f"{len(labelled)} usable scans of {len(patients)} patients have a label, {_in(labelled, TRAIN)} of them to "
            f"train on and {_in(labelled, TEST)} held out: a run needs a patient for each, and some 20 before its Dice "
            "says much; add scans, or mend the quarantined ones"
        )
    return [*_few(labelled), *_never_seen(labelled)]


def never_drawn(rows: list[Row]) -> set[str]:
    """Structures that a contract declares and no scan has a voxel of: nobody showed them, so nothing can be scored."""
    labelled = [row for row in usable(rows) if row.annotated]
    drawn = {name for row in labelled for name in row.drawn}
    declared = {name for row in labelled for name in row.annotated}
    return declared - drawn if drawn else set()  # a manifest older than this column says nothing


def _few(labelled: list[Row]) -> Iterator[str]:
    for source in _sources(labelled):
        patients = {row.patient for row in labelled if row.source == source}
        held_out = {row.patient for row in labelled if row.source == source and row.split == TEST}
        if not _in(labelled, TRAIN, source):
            yield f"{source}: {len(patients)} patients with a label, none to train on: evaluation will leave them out"
        elif not held_out:
            yield f"{source}: {len(patients)} patients with a label and none held out: it will have no Dice"
        elif len(patients) < FEW_PATIENTS:
            yield f"{source}: {len(patients)} patients with a label, {len(held_out)} held out: too few for its Dice"


def _never_seen(labelled: list[Row]) -> Iterator[str]:
    """Structures without a voxel in training, by source."""
    for source in _sources(labelled):
        own = [row for row in labelled if row.source == source]
        declared = dict.fromkeys(name for row in own for name in row.annotated)
        seen = {name for row in labelled if row.split == TRAIN for name in row.drawn}
        for name in declared:
            if name not in seen:
                count = sum(name in row.drawn for row in own)
                told = f"{count} other scans have it" if count else "no scan has it, and it is not scored"
                yield f"{source}: {name} is declared, and has no voxel in any training label; {told}"


def _in(labelled: list[Row], split: str, source: str | None = None) -> int:
    return sum(row.split == split and source in (None, row.source) for row in labelled)


def _sources(labelled: list[Row]) -> list[str]:
    return sorted({row.source for row in labelled})
