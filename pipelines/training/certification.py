"""The launch certificate of a parameter file: can it run on so many GPUs of a kind, in which way, for how long?

Reads   params.yaml, or the profile of the preset that is asked for
Writes  .medseg/certificates/NAME.json and .html, for the train stage and for people; calibration-GPU.json beside them
Run     medseg certify --preset xl --gpus 32 --gpu a100-80gb      # one core, about a minute and a half, half a GB
        medseg certify --calibrate                                # on one GPU, at most a minute

The batch that costs most is certified: the largest patch, all channels that a source of the parameters can have, all
structures that they annotate.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch

from model.certificate import calibration
from model.certificate.calibrate import Bench, calibrate, versions_here
from model.certificate.calibration import Calibration
from model.certificate.host import host_memory
from model.certificate.launch_plan import LaunchPlan, SourceShare
from model.certificate.report import Cohort, certificate
from model.certificate.timing import PLANNED, Rates
from model.certificate.ways import Goal
from model.engine.hardware import GPUS, HERE, Gpu, described, find_gpu
from model.engine.ranks import Ranks, join_ranks
from model.network.config import ALIGNMENT, PRESETS
from pipelines import params
from pipelines.cases import preparation
from pipelines.pages import launch_certificate
from pipelines.params import bysource, profiles
from pipelines.params.recipe import Optimisation
from pipelines.scans import manifest, vocabulary
from pipelines.scans.contracts import CONTRACTS
from pipelines.scans.source_tables import by_source
from pipelines.training import certificates, configs
from pipelines.training.classes import classes_of
from pipelines.work import environment, project

CUDA = torch.device("cuda", 0)
LOADERS = 8  # a rank, unless MEDSEG_LOADERS says otherwise
CHOSEN = ("strategy", "micro_batch", "activation_checkpointing")  # by the search, among the parameters
SCANS = 15_000
WITHIN_DAYS = 28.0
# Of a scan of this source: 4 where it has or may have four contrasts; the others have one.
MOST_CHANNELS = {"brats": 4, "phantom": 4, "bids": 4, "nnunet": 4}
PUBLISHED_SCANS = {"brats": 1251, "kits": 489, "acdc": 300}  # of BraTS 2021, KiTS23 and ACDC, annotated
# What these annotate is known with the scans only. Before them as many classes are assumed as all public sets together
# had when the certificates were made; more need one of their own.
OWN_CONTRACTS, ASSUMED = {"phantom", "bids", "nnunet", "dicom"}, 27


def certify(
    preset: str | None,
    ranks: int,
    gpu: str,
    patch: int | None = None,
    strategy: str = "auto",
    network_gbit: float | None = None,
    steps: int | None = None,
    scans: int = SCANS,
    within_days: float = WITHIN_DAYS,
    stage: str = "train",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The certificate's content, written if the run fits. Raises ValueError for impossible wishes."""
    source, settings = parameters(preset)
    preset = preset or settings.model.preset
    recipe: Optimisation = settings.pretrain if stage == "pretrain" else settings.train
    if not (steps or recipe.steps):
        raise ValueError(f"pretrain.steps 0 in {source} skips pretraining: nothing to certify; set it, or give --steps")
    kind = gpu_named(gpu)
    if network_gbit is not None:
        kind = replace(kind, network_bytes_per_s=network_gbit * 1e9 / 8)
    wished = recipe.model_copy(update=_wishes(recipe, patch, steps))
    found, rates, told = rates_for(kind, wished.precision)
    goal = Goal(wished.steps, within_days, None if strategy == "auto" else strategy, rates)
    cohort = Cohort(scans, 1 - settings.data.test_fraction - settings.data.validation_fraction)
    torch.set_num_threads(1)
    plan = plan_of(settings, wished, preset, ranks)
    content = certificate(plan, kind, goal, cohort, tell)
    chosen = wished.model_copy(update={name: content[name] for name in CHOSEN})
    plan = replace(plan, **{name: content[name] for name in ("strategy", "group", "micro_batch")})
    loaders = environment.read().loaders
    content["time"] |= {"rates_from": told, "calibration": asdict(found) if found else None}
    content |= {
        "preset": preset,
        "host": host_memory(plan, configs.augment_config(recipe), LOADERS if loaders is None else loaders),
        "parameters_from": source,
        "to_set": _differences(recipe, chosen),
        "digest": certificates.digest(settings.model.model_copy(update={"preset": preset}), chosen),
    }
    if content["fits"]:
        content["file"] = str(launch_certificate.write(content, certificates.folder()))
    return content


def calibrate_here(preset: str | None, tell: Callable[[str], None] = lambda _: None) -> Calibration:
    """Time the parts of a preset's network on this machine's GPU, and write it for later certificates of that GPU.

    Under torchrun every rank has a GPU, and messages between them are timed, too; rank 0 writes. Raises ValueError
    without a GPU.
    """
    _, settings = parameters(preset)
    kind, ranks = _gpu_here(), join_ranks() if "LOCAL_RANK" in os.environ else Ranks(0, 1, CUDA)
    plan = plan_of(settings, settings.train, preset or settings.model.preset, 1)
    card = torch.cuda.get_device_name(ranks.device)
    found = calibrate(plan, kind, card, settings.train.compile, Bench(ranks.device), tell)
    if ranks.rank == 0:
        calibration.write(found, certificates.folder())
    return found


def gpu_named(gpu: str) -> Gpu:
    """Raises ValueError for an unknown one."""
    return _gpu_here() if gpu.lower() == HERE else find_gpu(gpu)


def rates_for(kind: Gpu, precision: str) -> tuple[Calibration | None, Rates, str]:
    """What to count with: the calibration of this GPU if there is a valid one, its rates or those assumed, and why."""
    versions = versions_here()
    if not (torch.cuda.is_available() and kind.family in torch.cuda.get_device_name(0)):
        versions = replace(versions, driver="")  # that of another GPU says nothing
    found, told = calibration.find(kind.key, precision, versions, certificates.folder())
    return found, found.applied() if found else PLANNED, told


def _gpu_here() -> Gpu:
    if not torch.cuda.is_available():
        raise ValueError(f"--gpu {HERE}: this machine has no GPU that PyTorch sees; name one: {', '.join(GPUS)}")
    return described(torch.cuda.get_device_properties(0))


def parameters(preset: str | None) -> tuple[str, params.Params]:
    """params.yaml if it is for this preset (None: it is), else the first profile that is, else params.yaml all the
    same."""
    own = params.load(project.root() / "params.yaml")
    if (preset := preset or own.model.preset) not in PRESETS:
        raise ValueError(f"no preset {preset!r}; known: {', '.join(PRESETS)}")
    for name in profiles.names() if own.model.preset != preset else ():
        settings = profiles.settings(name)
        if settings.model.preset == preset:
            return f"profile {name}", settings
    return "params.yaml", own


def plan_of(settings: params.Params, recipe: Optimisation, preset: str, ranks: int) -> LaunchPlan:
    patch, spacing_mm = _largest_patch(settings, recipe)
    return LaunchPlan(
        network=PRESETS[preset],
        classes=_classes(settings) + 1,
        channels=max(MOST_CHANNELS.get(each, 1) for each in settings.data.sources),
        patch=patch,
        ranks=ranks,
        group=ranks,
        strategy="fsdp",
        checkpointing=recipe.activation_checkpointing,
        micro_batch=recipe.micro_batch,
        global_batch=recipe.global_batch,
        precision=recipe.precision,
        optimizer=recipe.optimizer,
        averaged=recipe.average_decay > 0,
        spacing_mm=spacing_mm,
        stage=recipe.block,
        compile=recipe.compile,
        mix=_mix(settings, recipe),
    )


def _largest_patch(settings: params.Params, recipe: Optimisation) -> tuple[bysource.Voxels3, bysource.Spacing3]:
    """Voxels and spacing in mm; what params.yaml leaves to the plan (`auto`) is plan.json's. Refused if that is due."""
    stated = [(patch, by_source(settings.preprocess.spacing_mm, source)) for source, patch in recipe.patch_size.items()]
    whole = [(patch, spacing_mm) for patch, spacing_mm in stated if patch is not None and spacing_mm is not None]
    if len(whole) < len(stated):
        for record in preparation.load(project.root() / project.PLAN).sources.values():
            d, h, w = record.patch_size
            whole.append(((d, h, w), record.spacing_mm))
    return max(whole, key=lambda pair: prod(pair[0]))


def _mix(settings: params.Params, recipe: Optimisation) -> tuple[SourceShare, ...]:
    """Shares as the stream draws them, from the project's scans or, before there are any, what is published.

    Nothing where a source's number of scans, patch or spacing is not known yet.
    """
    path = project.root() / project.MANIFEST
    rows = manifest.usable(manifest.read(path)) if path.is_file() else []
    scans = Counter(row.source for row in rows) or PUBLISHED_SCANS
    shapes = {source: _shape(settings, recipe, source) for source in (scans if rows else settings.data.sources)}
    if not all(shapes.values()) or not all(scans.get(source) for source in shapes):
        return ()
    weights = {source: scans[source] ** (1 - recipe.source_balance) for source in shapes}
    return tuple(
        SourceShare(source, weight / sum(weights.values()), MOST_CHANNELS.get(source.partition("-")[0], 1), *shape)
        for source, weight in weights.items()
        if (shape := shapes[source])
    )


def _shape(
    settings: params.Params, recipe: Optimisation, source: str
) -> tuple[bysource.Voxels3, bysource.Spacing3] | None:
    """A source's patch in voxels and spacing in mm, of the parameters or else of plan.json."""
    patch = by_source(recipe.patch_size, source)
    spacing_mm = by_source(settings.preprocess.spacing_mm, source)
    if patch is not None and spacing_mm is not None:
        return patch, spacing_mm
    path = project.root() / project.PLAN
    planned = preparation.load(path).sources.get(source) if path.is_file() else None
    if planned is None:
        return None
    d, h, w = planned.patch_size
    return patch or (d, h, w), spacing_mm or planned.spacing_mm


def _classes(settings: params.Params) -> int:
    """Those of the project's scans, once they are known."""
    path = project.root() / project.MANIFEST
    rows = manifest.usable(manifest.read(path)) if path.is_file() else []
    if annotated := {name for row in rows for name in row.annotated}:
        return len(classes_of(annotated, vocabulary.here()).names)
    stated = {name for key, each in CONTRACTS.items() if _used(key, settings) for name in each.annotated}
    return max(len(stated), ASSUMED if OWN_CONTRACTS & set(settings.data.sources) else 0)


def _used(contract: str, settings: params.Params) -> bool:
    return contract.split("-")[0] in settings.data.sources


def _wishes(recipe: Optimisation, patch: int | None, steps: int | None) -> dict[str, Any]:
    wishes: dict[str, Any] = {"steps": steps} if steps else {}
    if patch is not None:
        if patch % ALIGNMENT:
            raise ValueError(
                f"--patch {patch} must be divisible by {ALIGNMENT}; nearest: {round(patch / ALIGNMENT) * ALIGNMENT}"
            )
        wishes["patch_size"] = {**recipe.patch_size, "default": (patch, patch, patch)}
    return wishes


def _differences(recipe: Optimisation, chosen: Optimisation) -> dict[str, Any]:
    """What must be set in the parameters for the certificate to hold for them."""
    names = (*CHOSEN, "steps", "patch_size")
    return {
        f"{recipe.block}.{name}": getattr(chosen, name)
        for name in names
        if getattr(chosen, name) != getattr(recipe, name)
    }
