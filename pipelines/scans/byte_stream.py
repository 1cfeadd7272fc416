"""Bytes of a plain or gzip file, inflated as they are asked for."""

import zlib
from typing import IO

CHUNK_BYTES = 1 << 20  # read at a time


class VolumeError(ValueError):
    """A file that cannot be used as a volume; the message is the reason, fit for the manifest."""


class ByteStream:
    """Bytes of a plain or gzip file in order, never more of them in memory than were asked for."""

    def __init__(self, file: IO[bytes], compressed: bool, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.file, self.compressed, self.chunk_bytes = file, compressed, chunk_bytes
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if is_gzip != compressed:
            named = "named .gz, but not compressed by gzip" if compressed else "compressed by gzip, but not named .gz"
            raise VolumeError(f"not a readable NIfTI file: {named}; rename or copy it again")
        self.inflater = zlib.decompressobj(31) if compressed else None

    def read(self, most: int) -> bytes:
        """Up to `most` bytes; fewer only at the end."""
        content = bytearray()
        while len(content) < most and (part := self._some(most - len(content))):
            content += part
        return bytes(content)

    def skip(self, size: int) -> None:
        while size > 0 and (part := self._some(min(size, CHUNK_BYTES))):
            size -= len(part)

    def fill(self, size: int, beginning: bytes) -> bytearray:
        """`size` bytes, of which `beginning` was read before. Raises VolumeError if the file ends earlier."""
        content = bytearray(size)  # pages are real only once written
        at = min(len(beginning), size)
        content[:at] = beginning[:at]
        while at < size and (part := self._some(min(size - at, CHUNK_BYTES))):
            content[at : at + len(part)] = part
            at += len(part)
        if at < size:
            raise VolumeError(f"cannot be read to the end, truncated: {at} of {size} bytes of voxels are there")
        return content

    def goes_on(self) -> bool:
        """Is anything left? Asking lets zlib check the sum of all bytes, too: it lies at the end of a gzip stream."""
        if self._some(1):
            return True
        if self.inflater is not None and not self.inflater.eof:
            raise VolumeError(
                "truncated: the gzip stream has no end, so its sum cannot be checked; copy the file again"
            )
        return False

    def _some(self, most: int) -> bytes:
        """At least one byte, unless at the end."""
        if self.inflater is None:
            return self.file.read(most)
        while True:
            if self.inflater.eof:
                rest = self.inflater.unused_data or self.file.read(self.chunk_bytes)
                if not rest.startswith(b"\x1f\x8b"):  # the end, or padding after it
                    return b""
                self.inflater = zlib.decompressobj(31)
            else:
                rest = self.inflater.unconsumed_tail or self.file.read(self.chunk_bytes)
            part = self.inflater.decompress(rest, most)
            if part or (not rest and not self.inflater.eof):
                return part
