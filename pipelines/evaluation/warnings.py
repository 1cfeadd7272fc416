"""Where a figure misleads: structures so small or thin that Dice says little, cut ones, cohorts too small.

After Metrics Reloaded (Maier-Hein et al. 2024): overlap of a structure of few voxels moves by tenths with a voxel, and
that of a thin one tells the spacing rather than the network.
"""

from collections.abc import Sequence
from statistics import median

from pipelines.evaluation.score import Score

SMALL_VOXELS = 500
THIN_SHARE = 0.6  # of a structure's voxels at its border: a ball of 500 voxels has 0.5


def of_structure(scores: Sequence[Score]) -> list[str]:
    """Sentences on one structure's scores."""
    drawn = [score for score in scores if score.reference_ml > 0]
    if not drawn:
        return ["No held-out scan has it: nothing is known of how well it is found."]
    found = []
    voxels = median(score.true_positives + score.false_negatives for score in drawn)
    share = median(score.border_share for score in drawn)
    if voxels < SMALL_VOXELS:
        found.append(
            f"Small: half of the references have fewer than {voxels:.0f} voxels. Dice moves much with few of them; "
            "read surface Dice and whether it is found at all."
        )
    elif share > THIN_SHARE:
        found.append(
            f"Thin: {share:.0%} of its voxels lie at its border. Dice tells the spacing as much as the network; read "
            "surface Dice."
        )
    if cut := sum(score.cut for score in drawn):
        found.append(
            f"Cut by the field of view in {cut} of {len(drawn)} scans: its volume there is that of the visible part."
        )
    return found
