"""Train the segmentation network (DVC stage `train`).

Reads   data/cases/train, data/cases/validation, data/cases/preprocessing.json, models/pretrain, params.yaml: model,
        train
Writes  models/train/: model.safetensors, history.csv; curves to MLflow; checkpoints under .medseg/checkpoints
Run     python -m pipelines train       # MEDSEG_RANKS=2 asks for two ranks; see pipelines/training/launcher.py
"""

import logging
from dataclasses import asdict, replace
from pathlib import Path

from model import weights, weights_file
from model.data.casefile import open_cases
from model.data.dataset import SampleStream, StreamConfig
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.network.config import NetworkConfig
from model.network.medsegformer import MedSegFormer
from model.network.unfilled import unfilled
from model.tasks.segmentation import Segmentation
from model.weights_file import Card
from pipelines import params
from pipelines.cases import preparation
from pipelines.cases.preparation import Preprocessing
from pipelines.release import run_identity
from pipelines.scans import vocabulary
from pipelines.scans.manifest import TRAIN, VALIDATION
from pipelines.training import configs, launcher
from pipelines.training.classes import Classes, classes_of
from pipelines.training.history import write_history
from pipelines.training.rank import Learning, LearningStage
from pipelines.work import project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)


def main() -> None:
    launcher.main(LearningStage("train", prepare, _save))


def prepare(settings: params.Params, cases: Path = project.CASES) -> Learning:
    """Everything `fit` needs, from the training and validation folders alone; the same on every rank."""
    training = open_cases(cases / TRAIN, TRAIN)
    if not training:
        raise ValueError(f"{cases / TRAIN} holds no labelled case; add scans, or lower data.test_fraction")
    annotated = {name for case in training for name in case.record.annotated}
    classes = classes_of(annotated, vocabulary.here(), settings.train.regions)
    sources = sorted({case.record.source for case in training})
    plan = preparation.load(cases / "preprocessing.json")
    patch_size = {source: configs.patch_size(source, settings.train, plan) for source in sources}
    validation = [
        case for case in open_cases(cases / VALIDATION, VALIDATION) if set(case.record.annotated) <= annotated
    ]
    network_config = configs.network_config(settings.model, [*training, *validation])
    config = StreamConfig(
        classes=classes.names,
        structures=classes.structures,
        covers=classes.covers,
        regions=settings.train.regions,
        patch_size=patch_size,
        micro_batch=settings.train.micro_batch,
        seed=settings.train.seed,
        foreground_fraction=settings.train.foreground_fraction,
        source_balance=settings.train.source_balance,
        augment=configs.augment_config(settings.train),
        modalities=network_config.modalities,
        source_block=configs.source_block(settings.train),
    )
    for record in {case.record.annotated: case.record for case in training}.values():
        config.meaning(record)  # structures that overlap are refused before the first step
    with unfilled():
        network = MedSegFormer(network_config, num_classes=len(classes.names) + 1)
    if settings.train.freeze_encoder:
        network.embedding.requires_grad_(False)
        network.encoder.requires_grad_(False)
    return Learning(
        network=network,
        task=Segmentation(config),
        stream=SampleStream(training, config),
        validation=[case for case in validation if case.record.source in patch_size],
        fit=configs.fit_config(settings.train),
        parallel=configs.parallel_config(settings.train),
        card=_card(settings, network_config, classes, patch_size, plan),
        encoder=project.PRETRAINED if settings.pretrain.steps else None,
    )


def _card(
    settings: params.Params,
    network: NetworkConfig,
    classes: Classes,
    patch_size: dict[str, tuple[int, int, int]],
    plan: Preprocessing,
) -> Card:
    return Card(
        preset=settings.model.preset,
        network=asdict(network),
        classes=classes.names,
        structures={name: classes.structures[name] for name in classes.names},
        patch_size=patch_size,
        preprocessing=plan.to_json(),
        identity={},
        vocabulary=vocabulary.here().records(classes.structures),
    )


def _save(settings: params.Params, job: Learning, state: TrainState, ranks: Ranks) -> dict[str, str]:
    """A sharded tensor is put together from all ranks, one at a time."""
    if ranks.rank != 0:
        weights.export(None, state.final_weights(), job.card)
        return {}
    card = replace(job.card, identity=run_identity.of_stage("train", settings.model, settings.train))
    with replacing(project.TRAINED) as folder:
        folder.mkdir()
        weights.export(folder, state.final_weights(), card)
        write_history(folder / "history.csv", state.curve)
    log.info("train: weights in %s", project.TRAINED)
    return {"weights_sha256": weights_file.digest(project.TRAINED), **run_identity.origin()}
