"""Who is held out: a split for every scan, by patient."""

import logging
from dataclasses import replace

from pipelines import params
from pipelines.scans import manifest
from pipelines.scans.manifest import TEST, TRAIN, Row

log = logging.getLogger(__name__)


def assign_splits(rows: list[Row], settings: params.Data) -> list[Row]:
    """Give every usable row its split, by patient.

    A source so small that chance held nobody out gives its patient with the lowest draw, since a model that cannot be
    evaluated cannot be released. A source's only patient is trained on: who could have taught what it would be tested
    for? Only then may a split move when scans are added, and the log says so.
    """
    split = {
        row.patient: manifest.split_of(
            row.patient, settings.split_seed, settings.test_fraction, settings.validation_fraction
        )
        for row in rows
    }
    for source in sorted({row.source for row in manifest.usable(rows)}):
        patients = {row.patient for row in manifest.usable(rows) if row.source == source and row.annotated}
        by_draw = sorted(patients, key=lambda patient: manifest.split_draw(patient, settings.split_seed))
        chosen = {split[patient] for patient in patients}
        if len(patients) >= 2 and TEST not in chosen:
            split[by_draw[0]] = TEST
            log.warning("%s: too few patients for chance to hold one out; took the lowest draw", source)
        if patients and TRAIN not in {split[patient] for patient in patients}:
            split[by_draw[-1]] = TRAIN
            log.warning("%s: too few patients for chance to leave one to train on; took the highest draw", source)
    return [row if row.quarantined else replace(row, split=split[row.patient]) for row in rows]
