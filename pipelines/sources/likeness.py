"""Which layout a NIfTI file comes nearest to that no reader claims, and how its files are called there."""

import re

# By a name, the first that fits: how people's own exports and other programs' sets usually look.
_CLUES = (
    ("bids", r"(?:^|/)sub-", "sub-X/anat/sub-X_T1w.nii.gz, and sub-X_dseg.nii.gz beside it"),
    (
        "brats", r"brats|[-_](?:flair|t1|t1ce|t1c|t1n|t1w|t2|t2w|t2f)\.nii",
        "NAME/NAME_{flair,t1,t1ce,t2,seg}.nii.gz, or NAME/NAME-{t2f,t1n,t1c,t2w,seg}.nii.gz, in a folder of that name",
    ),
    ("lits", r"(?:^|/)(?:volume|segmentation)[-_]?\d+\.nii", "volume-0.nii, segmentation-0.nii"),
    (
        "totalsegmentator", r"(?:^|/)(?:ct|mri?)\.nii|/segmentations/",
        "s0001/ct.nii.gz or mri.nii.gz, and s0001/segmentations/NAME.nii.gz, a mask a structure",
    ),
    (
        "nnunet", r"_\d{4}\.nii|/images(?:Tr|Ts)/",
        "DatasetNNN_NAME/dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    ),
    ("kits", r"(?:^|/)(?:imaging|segmentation)\.nii", "case_00000/imaging.nii.gz, segmentation.nii.gz"),
    ("acdc", r"(?:^|/)patient\d+", "patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz"),
)  # fmt: skip
_ANYTHING = ("pairs", "images/CASE.nii.gz and, called the same, labels/CASE.nii.gz")


def nearest_layout(path: str) -> tuple[str, str]:
    """The layout's name, and how files are called in it."""
    for name, clue, called in _CLUES:
        if re.search(clue, path, re.IGNORECASE):
            return name, called
    return _ANYTHING
