"""The peers' side of benchmarks/data.py and benchmarks/predict.py: nnU-Net, batchgeneratorsv2 and MONAI on the same
inputs, in their environment.

Run     .bench/bin/python benchmarks/peers.py {patch,augmentation,resampling,prediction} FOLDER
Reads   FOLDER: image.npy (1, D, H, W) float32, label.npy (D, H, W) uint8, boxes.npy, block.npy ...
Prints  JSON: milliseconds of CPU time, bytes

Imports nothing of this project, so that the two environments need not agree. nnU-Net stores and reads cases with its
own classes; its augmentations are its trainer's, with elastic deformation and every probability at 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PATCH = (128, 128, 128)
SEEDS = range(4)


def main() -> None:
    if sys.argv[1] != "prediction":
        torch.set_num_threads(1)
    tasks = {"patch": patch, "augmentation": augmentation, "resampling": resampling, "prediction": prediction}
    task = tasks[sys.argv[1]]
    with torch.no_grad():
        print(json.dumps(task(Path(sys.argv[2]))))


def patch(folder: Path) -> dict[str, float]:
    """As nnU-Net's preprocessor writes a case and its data loader crops it."""
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    image, label = np.load(folder / "image.npy"), np.load(folder / "label.npy")[None].astype(np.int8)
    sizes = {}
    for name, array in (("", image), ("_seg", label)):
        blocks, chunks = comp_blosc2_params(array.shape, PATCH, array.itemsize)
        sizes |= {f"blocks{name}": blocks, f"chunks{name}": chunks}
    nnUNetDatasetBlosc2.save_case(image, label, {"class_locations": {}}, str(folder / "nnunet"), **sizes)
    files = [folder / "nnunet.b2nd", folder / "nnunet_seg.b2nd"]
    dataset = nnUNetDatasetBlosc2(str(folder), ["nnunet"])

    def read(box: np.ndarray) -> None:
        stored, segmentation, _, _ = dataset.load_case("nnunet")
        torch.from_numpy(crop_and_pad_nd(stored, box.tolist(), 0)).float()
        torch.from_numpy(crop_and_pad_nd(segmentation, box.tolist(), -1, cast_cropped_to=np.int16)).to(torch.int16)

    boxes = np.load(folder / "boxes.npy")
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "warm": mean_of_fastest(read, boxes),
        "cold": cold(read, boxes, files),
    }


def augmentation(folder: Path) -> dict[str, float]:
    image, label = np.load(folder / "block.npy"), np.load(folder / "block_label.npy")[None]
    batchgenerators, monai = batchgenerators_chain(), monai_chain()

    def run_batchgenerators(seed: int) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        sample = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(label.astype(np.int16))}
        batchgenerators(**sample)

    def run_monai(seed: int) -> None:
        monai.set_random_state(seed)
        monai({"image": torch.from_numpy(image), "label": torch.from_numpy(label)})

    return {
        "batchgeneratorsv2": mean_of_fastest(run_batchgenerators, SEEDS),
        "MONAI": mean_of_fastest(run_monai, SEEDS),
    }


def batchgenerators_chain() -> Any:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    return ComposeTransforms(
        [
            SpatialTransform(
                PATCH,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=1,
                p_rotation=1,
                rotation=(-0.3, 0.3),
                p_scaling=1,
                scaling=(0.8, 1.25),
                p_synchronize_scaling_across_axes=1,
            ),
            GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1),
            GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_channel=1, benchmark=True),
            MultiplicativeBrightnessTransform((0.75, 1.25), synchronize_channels=False, p_per_channel=1),
            ContrastTransform((0.75, 1.25), preserve_range=True, synchronize_channels=False, p_per_channel=1),
            SimulateLowResolutionTransform((0.5, 1), False, True, None, None, p_per_channel=1),
            GammaTransform((0.7, 1.5), p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1),
        ]
    )


def monai_chain() -> Any:
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )
    from monai.transforms.spatial.dictionary import Rand3DElasticd, RandSimulateLowResolutiond

    return Compose(
        [
            Rand3DElasticd(
                ["image", "label"],
                sigma_range=(5, 7),
                magnitude_range=(50, 150),
                spatial_size=PATCH,
                prob=1,
                rotate_range=(0.3,) * 3,
                scale_range=(0.25,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=1),
            RandSimulateLowResolutiond("image", prob=1, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd("image", prob=1, gamma=(0.7, 1.5)),
            RandScaleIntensityd("image", 0.25, prob=1),
            RandShiftIntensityd("image", 0.2, prob=1),
            RandGaussianNoised("image", prob=1, std=0.1),
        ]
    )


def resampling(folder: Path) -> dict[str, float]:
    """nnU-Net's default order 3, SimpleITK's linear interpolation: 256x256x200 by 1.25 per axis."""
    import SimpleITK as sitk  # noqa: N813
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    volume = np.load(folder / "volume.npy")
    shape = [round(1.25 * n) for n in volume.shape]
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = sitk.GetImageFromArray(volume)
    reference = sitk.Image(shape[::-1], sitk.sitkFloat32)
    reference.SetSpacing([0.8] * 3)
    reference.SetOrigin([-0.1] * 3)

    def cubic(_: int) -> None:
        resample_data_or_seg_to_shape(volume[None], shape, (1.0,) * 3, (0.8,) * 3, order=3)

    def linear(_: int) -> None:
        sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear))

    return {"nnU-Net": mean_of_fastest(cubic, [0], 2), "SimpleITK": mean_of_fastest(linear, [0], 5)}


def prediction(folder: Path) -> dict[str, Any]:
    """FOLDER/*_0000.nii.gz by the predictor, with the network of a default plan, random weights."""
    plans, dataset = planned(folder, *json.loads((folder / "grid.json").read_text()))
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        len(dataset["labels"]),
        allow_init=True,
        deep_supervision=False,
    ).eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    parameters = [network.state_dict()]
    predictor.manual_initialization(network, manager, configuration, parameters, dataset, "nnUNetTrainer", None)
    (folder / "out").mkdir()
    predictor.predict_from_files_sequential(str(folder), str(folder / "out"))
    return {"patch": "x".join(map(str, configuration.patch_size))}


def planned(folder: Path, grid_mm: float, classes: int, slices: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans and dataset of nnU-Net's own planner for a cohort of such scans, of so many `slices`, at `grid_mm`."""
    import nibabel as nib

    (file,) = folder.glob("*_0000.nii.gz")
    scan = nib.load(file)
    spacing_mm = [float(mm) for mm in scan.header.get_zooms()][::-1]
    size = (slices, *scan.shape[1::-1])
    shape = [round(n * mm / grid_mm) for n, mm in zip(size, spacing_mm, strict=True)]
    places = {name: folder / "nnunet" / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    os.environ.update({name: str(place) for name, place in places.items()})
    name = "Dataset001_Benchmark"
    raw, preprocessed = places["nnUNet_raw"] / name, places["nnUNet_preprocessed"] / name
    for each in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        each.mkdir(parents=True)
    (raw / "imagesTr" / "a_0000.nii.gz").symlink_to(file)
    (raw / "labelsTr" / "a.nii.gz").symlink_to(file)  # it is not read
    labels = {"background": 0, **{f"organ{number}": number for number in range(1, classes)}}
    told = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 50, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(told))
    values = {"max": 1000.0, "mean": 40.0, "median": 40.0, "min": -1000.0, "std": 80.0}
    values |= {"percentile_00_5": -160.0, "percentile_99_5": 240.0}
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": values},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [shape] * 50,
        "spacings": [[grid_mm] * 3] * 50,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    return dict(ExperimentPlanner(1).plan_experiment()), told


def mean_of_fastest(function: Callable[[Any], object], arguments: Iterable[Any], repeats: int = 4) -> float:
    """Milliseconds of CPU time: for each argument the fastest of the repeats, and of these the mean."""
    fastest = []
    for argument in arguments:
        function(argument)
        fastest.append(min(cpu_ms(function, argument) for _ in range(repeats)))
    return float(np.mean(fastest))


def cold(function: Callable[[Any], object], arguments: Iterable[Any], files: Iterable[Path]) -> float:
    """Mean milliseconds of CPU time when nothing of the files is in the page cache."""
    times = []
    for argument in arguments:
        for file in files:
            forget(file)
        times.append(cpu_ms(function, argument))
    return float(np.mean(times))


def cpu_ms(function: Callable[[Any], object], argument: Any) -> float:
    start = time.process_time()
    function(argument)
    return 1e3 * (time.process_time() - start)


def forget(file: Path) -> None:
    """Drop a file from the page cache; only pages that are on disk can be dropped."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


if __name__ == "__main__":
    main()
