"""Give a registered version away: as a MONAI bundle, or as ONNX with a runner that needs no torch.

    export("models:/medsegformer/3", "onnx", Path("out"))

What is written is whole or not there, and an audit line tells of it.
"""

from pathlib import Path

from pipelines.release import audit
from pipelines.serving import monai_bundle, onnx_export
from pipelines.serving.exportable import Exportable
from pipelines.work.writing import replacing

FORMATS = ("monai", "onnx")


def export(model: str, to: str, folder: Path, source: str | None = None, other_code: bool = False) -> None:
    """Write `folder`, which must not be there yet. `source`: a MONAI bundle is of one training source.

    Raises ValueError, before anything is written, if nothing may be.
    """
    if to not in FORMATS:
        raise ValueError(f"--to {to} is none of {', '.join(FORMATS)}")
    if folder.exists():
        raise ValueError(f"{folder} exists; remove it, or name another folder")
    version = Exportable.find(model, other_code)
    chosen = _source(list(version.plan.sources), source) if to == "monai" else ""
    if to == "onnx" and source is not None:
        raise ValueError(f"--source {source}: an ONNX export holds all training sources; leave it out")
    with replacing(folder) as temporary:
        if to == "monai":
            monai_bundle.write(temporary, version, chosen)
        else:
            onnx_export.write(temporary, version)
        audit.append("export", record_sha256=version.record_sha256, to=to)  # before anybody can use it


def _source(known: list[str], wanted: str | None) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        told = "was trained on several sources" if wanted is None else f"knows no source {wanted}"
        raise ValueError(f"the version {told}; choose one with --source: {', '.join(sorted(known))}")
    return wanted
