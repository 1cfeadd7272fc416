"""The tensors of weights on disk (model/weights_file.py): written by all ranks, loaded as a network.

A tensor at a time is whole in memory, and only on rank 0: 6.7 billion parameters never lie in one process.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.engine.dtensors import local_part, plain_name, shard_like, whole_of
from model.network.config import MODALITIES, NetworkConfig
from model.network.medsegformer import MedSegFormer
from model.network.unfilled import unfilled
from model.weights_file import (
    ENCODER,
    KEY,
    MODEL,
    Card,
    EncoderCard,
    card_record,
    files,
    index_name,
    read_card,
    read_header,
)

SHARD_BYTES = 4 * 2**30
PRETRAINED = ("embedding.", "encoder.")  # the tensors that fine-tuning starts from
_ROWS = "embedding.modality.weight"  # a row a modality: their number may differ
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def export(folder: Path | None, state: dict[str, Tensor], card: Card | EncoderCard, stem: str = MODEL) -> None:
    """Write `STEM.safetensors`, or shards of at most 4 GiB and their index, tensor by tensor.

    Every rank calls this with the same names; those without a `folder` only lend their parts. A tensor is whole in one
    process, on rank 0, for the moment of its writing.
    """
    names = sorted(state)
    groups = _groups({name: state[name].numel() * state[name].element_size() for name in names})
    parts = _file_names(stem, len(groups))
    for file, group in zip(parts, groups, strict=True):
        whole = (_whole(state[name]) for name in group)
        if folder is None:
            for _ in whole:
                pass
        else:
            _write(folder / file, {name: state[name] for name in group}, whole, card)
    if folder and len(parts) > 1:
        weight_map = {name: file for file, group in zip(parts, groups, strict=True) for name in group}
        total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / index_name(stem)).write_text(json.dumps(index, indent=1, sort_keys=True))


def _groups(sizes: dict[str, int]) -> list[list[str]]:
    """Names in order, cut where the next tensor would make a shard larger than SHARD_BYTES."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _file_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _whole(tensor: Tensor) -> Tensor:
    return whole_of(tensor).detach().cpu().contiguous()


def _write(path: Path, like: dict[str, Tensor], whole: Iterator[Tensor], card: Card | EncoderCard) -> None:
    """The safetensors format: the header's length, a JSON header, then the tensors' bytes one after another."""
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(vars(card), sort_keys=True)}}
    end = 0
    for name, tensor in like.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    with path.open("wb") as file:
        _write_header(file, header)
        for tensor in whole:
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def load(folder: Path) -> tuple[MedSegFormer, Card]:
    """The network with its weights, in evaluation mode. Raises ValueError if a tensor is missing or misshapen."""
    card = read_card(folder)
    with unfilled():
        network = MedSegFormer(NetworkConfig.of_record(card.network), num_classes=len(card.classes) + 1)
    try:
        network.load_state_dict(dict(_tensors(folder)), strict=True, assign=True)
    except (RuntimeError, SafetensorError) as error:
        detail = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder} was made by a different version of the network ({detail}); train again") from None
    return network.requires_grad_(False).eval(), card


@torch.no_grad()
def load_encoder(network: nn.Module, folder: Path) -> None:
    """Copy pretrained weights into a network's embedding and encoder, sharded or not; the rest stays as it is.

    A modality's row is taken by its name; that of one which the encoder does not know stays as it is, too. Strict
    otherwise: a tensor that is missing, left over or of another shape is named in a ValueError, and nothing is copied.
    """
    named = {plain_name(name): parameter for name, parameter in network.named_parameters()}
    started = {name: parameter for name, parameter in named.items() if name.startswith(PRETRAINED)}
    faults = _misfits(started, folder)
    if faults:
        shown = "; ".join(sorted(faults)[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise ValueError(
            f"the encoder in {folder} does not fit this network: {shown}. Pretrain with the preset that is trained, or "
            "set pretrain.steps to 0"
        )
    for name, tensor in _tensors(folder, ENCODER):
        whole = _rows_by_name(tensor, folder, started[name], network) if name == _ROWS else tensor
        local_part(started[name].data).copy_(local_part(shard_like(whole, started[name])))


def _rows_by_name(theirs: Tensor, folder: Path, parameter: Tensor, network: nn.Module) -> Tensor:
    """Every rank calls this: where the two know different modalities, the parameter is put together."""
    config: Any = network.config
    known = card_record(files(folder, ENCODER)[0])["network"].get("modalities", MODALITIES)[1:]
    wanted = config.modalities[1:]
    if tuple(known) == wanted:
        return theirs
    rows = _whole(parameter).clone()
    for row, name in enumerate(wanted):
        if name in known:
            rows[row] = theirs[known.index(name)]
    return rows


def _misfits(parameters: dict[str, nn.Parameter], folder: Path) -> list[str]:
    """What of a pretrained encoder does not fit these parameters, a line a tensor."""
    shapes: dict[str, list[int]] = {}
    for path in files(folder, ENCODER):
        header = read_header(path)
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return [
        *(f"{name} is missing" for name in parameters.keys() - shapes.keys()),
        *(f"{name} is unknown to this network" for name in shapes.keys() - parameters.keys()),
        *(
            f"{name} is {shapes[name]}, not {list(parameter.shape)}"
            for name, parameter in parameters.items()
            if name in shapes and _fixed(name, shapes[name]) != _fixed(name, list(parameter.shape))
        ),
    ]


def _fixed(name: str, shape: list[int]) -> list[int]:
    """What of a shape must agree."""
    return shape[1:] if name == _ROWS else shape


def _tensors(folder: Path, stem: str = MODEL) -> Iterator[tuple[str, Tensor]]:
    for path in files(folder, stem):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def _write_header(file: IO[bytes], header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
