"""Fetch a public data set, as MONAI publishes it (address and checksum: monai.apps.DecathlonDataset)."""

import hashlib
import logging
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from pipelines.work.progress import track
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

DATASETS = {
    "hippocampus": (
        "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
        "9d24dba78a72977dbd1d2e110310f31b",
        "Task04_Hippocampus",
    )
}
CHUNK_BYTES = 1 << 20


def fetch(name: str, target: Path) -> Path:
    """Download and unpack below `target`; the data set's folder. Complete or absent.

    Raises ValueError for an unknown name, without a network, or when the checksum differs.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    url, md5, folder = DATASETS[name]
    if (target / folder / "dataset.json").is_file():
        log.info("fetch: %s is already there", target / folder)
        return target / folder
    with replacing(target / folder) as unpacked:
        unpacked.mkdir()
        archive = unpacked / "archive.tar"
        _download(url, archive)
        found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5:
            raise ValueError(f"{url}: md5 {found} is not the published {md5}; the download is damaged, try again")
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, members=_stripped(tar, folder), filter="data")
        archive.unlink()
    return target / folder


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, path.open("wb") as file:
            size = int(answer.headers.get("Content-Length", 0))
            chunks = iter(lambda: answer.read(CHUNK_BYTES), b"")
            for chunk in track(chunks, -(-size // CHUNK_BYTES), "download, MiB"):
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{url} cannot be reached ({reason}): no network here? Fetch it elsewhere, unpack it into a folder and use "
            "`medseg run --profile hippocampus --data FOLDER`"
        ) from None


def _stripped(tar: tarfile.TarFile, folder: str) -> list[tarfile.TarInfo]:
    """Members below `folder`, without it in their names; macOS's `._` companions left out."""
    kept = []
    for member in tar.getmembers():
        name = member.name.removeprefix("./").removeprefix(f"{folder}/")
        if name and name != folder and not Path(name).name.startswith("._"):
            kept.append(member.replace(name=name))
    return kept
