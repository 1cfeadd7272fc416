"""Pretrain the encoder on scans without looking at labels: masked-volume modelling (DVC stage `pretrain`).

Reads   data/cases/train, data/cases/validation, data/cases/preprocessing.json, params.yaml: model, pretrain
Writes  models/pretrain/: encoder.safetensors, history.csv; reports/pretrain/: index.html, metrics.json, a picture a
        modality; curves and pictures to MLflow; checkpoints under .medseg/checkpoints
Run     python -m pipelines pretrain       # as `train`: see pipelines/training/launcher.py

Every scan of a training patient is used, labelled or not. Validation patients are for the curve, and held-out ones are
not opened: they lie in a folder that this stage does not read. `pretrain.steps: 0` skips all this.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path

from model import weights, weights_file
from model.data.casefile import Case, open_cases
from model.data.dataset import SampleStream, StreamConfig
from model.engine.parallelize import reshard
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.network.unfilled import unfilled
from model.tasks.masked import MaskedAutoencoder, MaskedModelling
from model.tasks.probe import Probe
from model.weights_file import ENCODER, EncoderCard
from pipelines import params
from pipelines.cases import preparation
from pipelines.pages import reconstruction
from pipelines.release import run_identity
from pipelines.scans import vocabulary
from pipelines.scans.manifest import TRAIN, VALIDATION
from pipelines.training import configs, launcher
from pipelines.training.classes import classes_of
from pipelines.training.history import write_history
from pipelines.training.rank import Learning, LearningStage
from pipelines.work import project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

SKIPPED = "Pretraining was skipped: pretrain.steps is 0.\n"


def main() -> None:
    if params.load().pretrain.steps:
        launcher.main(LearningStage("pretrain", prepare, _save, project.PRETRAINING_REPORT))
    else:
        skip()


def skip() -> None:
    """Outputs that say so; training starts from random weights."""
    for path in (project.PRETRAINED, project.PRETRAINING_REPORT):
        with replacing(path) as folder:
            folder.mkdir()
            (folder / "skipped.txt").write_text(SKIPPED)
    log.info("pretrain: skipped, since pretrain.steps is 0")


def prepare(settings: params.Params, cases: Path = project.CASES) -> Learning:
    """Everything `fit` needs, from the training and validation folders alone; the same on every rank."""
    training = open_cases(cases / TRAIN, TRAIN, labelled=False)
    if not training:
        raise ValueError(f"{cases / TRAIN} holds no case; add scans, or lower data.test_fraction")
    sources = sorted({case.record.source for case in training})
    plan = preparation.load(cases / "preprocessing.json")
    validation = open_cases(cases / VALIDATION, VALIDATION, labelled=False)
    network_config = configs.network_config(settings.model, [*training, *validation])
    config = StreamConfig(
        classes=(),
        structures={},
        patch_size={source: configs.patch_size(source, settings.pretrain, plan) for source in sources},
        micro_batch=settings.pretrain.micro_batch,
        seed=settings.pretrain.seed,
        foreground_fraction=0.0,
        source_balance=settings.pretrain.source_balance,
        augment=configs.augment_config(settings.pretrain),
        modalities=network_config.modalities,
        source_block=configs.source_block(settings.pretrain),
    )
    with unfilled():
        network = MaskedAutoencoder(network_config)
    task = MaskedModelling(
        stream=config,
        mask_stride=settings.pretrain.mask_stride,
        mask_fraction=settings.pretrain.mask_fraction,
        probe=_probe(training, config),
    )
    for case in training:
        _check_cells(task, case.record.source, config.patch_size[case.record.source], case.record.spacing_mm)
    return Learning(
        network=network,
        task=task,
        stream=SampleStream(training, config),
        validation=[case for case in validation if case.record.source in config.patch_size],
        fit=configs.fit_config(settings.pretrain),
        parallel=configs.parallel_config(settings.pretrain),
        card=EncoderCard(
            preset=settings.model.preset,
            network=asdict(network_config),
            preprocessing=plan.to_json(),
            recipe=settings.pretrain.model_dump(mode="json"),
            modalities=tuple(sorted({name for case in training for name in case.record.modalities})),
            scans=dict(Counter(case.record.source for case in training)),
            identity={},
        ),
    )


def _check_cells(
    task: MaskedModelling, source: str, patch: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    """A patch must hold two cells: one to see, one to hide."""
    cell = task.cell(spacing_mm)
    if prod(n // edge for n, edge in zip(patch, cell, strict=True)) < 2:
        raise ValueError(
            f"pretrain.mask_stride {task.mask_stride}: a patch of {source}, {' x '.join(map(str, patch))} voxels, "
            f"holds fewer than two cells of {' x '.join(map(str, cell))}; lower mask_stride, or enlarge "
            f"pretrain.patch_size.{source}"
        )


def _probe(training: Sequence[Case], config: StreamConfig) -> Probe | None:
    """The labels are for the probe only: the encoder never sees them."""
    labelled = [case for case in training if case.record.annotated]
    annotated = {name for case in labelled for name in case.record.annotated}
    classes = classes_of(annotated, vocabulary.here())
    stream = replace(config, classes=classes.names, structures=classes.structures, covers=classes.covers)
    return Probe(stream, tuple(labelled)) if labelled else None


def _save(settings: params.Params, job: Learning, state: TrainState, ranks: Ranks) -> dict[str, str]:
    """A sharded tensor is put together from all ranks, one at a time; all ranks draw, since all have a part."""
    tensors = {name: each for name, each in state.final_weights().items() if name.startswith(weights.PRETRAINED)}
    pictures = _paint(job, state, ranks)
    if ranks.rank != 0:
        weights.export(None, tensors, job.card, ENCODER)
        return {}
    card = replace(job.card, identity=run_identity.of_stage("pretrain", settings.model, settings.pretrain))
    with replacing(project.PRETRAINED) as folder:
        folder.mkdir()
        weights.export(folder, tensors, card, ENCODER)
        write_history(folder / "history.csv", state.curve)
    reconstruction.write(project.PRETRAINING_REPORT, pictures, state.curve, card)
    log.info("pretrain: encoder in %s, pictures in %s", project.PRETRAINED, project.PRETRAINING_REPORT)
    return {"encoder_sha256": weights_file.digest(project.PRETRAINED, ENCODER), **run_identity.origin()}


def _paint(job: Learning, state: TrainState, ranks: Ranks) -> list[reconstruction.PaintedPatch]:
    """Some scans of each modality, of validation patients where there are any."""
    if state.average:
        state.average.swap()
    state.network.eval()
    pictures = []
    task: MaskedModelling = job.task  # type: ignore[assignment]
    training = [case for cases in job.stream.by_source.values() for case in cases]
    for case in reconstruction.choose([*job.validation, *training]):
        painted = task.painted(state.network, case, ranks.device, job.fit.precision)
        pictures.append(reconstruction.PaintedPatch(case.record, *painted))
    reshard(state.network)
    if state.average:
        state.average.swap()
    return pictures
