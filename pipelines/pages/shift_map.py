"""A structure's surface unrolled: where one version's lies outside of (red) or inside (blue) the other's."""

import io

import numpy as np


def draw(shift_mm: np.ndarray, title: str) -> bytes:
    """PNG. `shift_mm`: (elevation, azimuth), from the feet up, from the left by the front and right; NaN: grey."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    bound = max(0.5, float(np.nanquantile(np.abs(shift_mm), 0.98))) if np.isfinite(shift_mm).any() else 0.5
    figure, axis = plt.subplots(figsize=(6, 2.9), layout="constrained")
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="#bbbbbb")
    shown = axis.imshow(shift_mm, origin="lower", cmap=colours, vmin=-bound, vmax=bound, extent=(0, 360, -90, 90))
    axis.set_xticks([0, 90, 180, 270, 360], ["left", "front", "right", "back", "left"])
    axis.set_yticks([-90, 0, 90], ["feet", "", "head"])
    axis.set_title(title, fontsize=10)
    figure.colorbar(shown, label="shift outwards, mm", shrink=0.9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
