"""Text files from elsewhere: compressed or not, and the question whether the last number of a file is whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: Longest line that is read, characters: a compressed file may unpack to one line of any length.
LONGEST_LINE = 10_000_000


def plain_suffix(path: str | os.PathLike[str]) -> str:
    """Suffix of a file name in lower case, without that of a compression (``x.XYZ.gz``: ``.xyz``)."""
    path = Path(path)
    return Path(path.stem if is_compressed(path) else path.name).suffix.lower()


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether the suffix is that of gzip, bzip2 or xz."""
    return Path(path).suffix.lower() in _OPENERS


def open_text(path: str | os.PathLike[str]) -> TextIO:
    """A text file opened for reading, unpacked on the way if it is compressed."""
    opener = _OPENERS.get(Path(path).suffix.lower(), open)
    return opener(path, "rt", encoding="utf-8")  # type: ignore[no-any-return]


def first_bytes(path: str | os.PathLike[str], count: int = 64) -> bytes:
    """The first bytes of a file, unpacked; empty if it cannot be unpacked."""
    opener = _OPENERS.get(Path(path).suffix.lower(), open)
    try:
        with opener(path, "rb") as handle:
            return bytes(handle.read(count))
    except (OSError, EOFError, lzma.LZMAError):
        return b""


def next_line(handle: TextIO) -> str:
    """The next line; empty at the end of the file.

    Raises
    ------
    ValueError
        If it is longer than any line of numbers.
    """
    line = handle.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE:
        raise ValueError("a line is too long")
    return line


def may_be_cut(last: str, others: Iterable[str]) -> bool:
    """Whether the last line of a file, without a line end, may have lost the end of its last number.

    It is whole if the number has the same digits after the point as all others of its column, or no fewer
    significant digits than any of them. White space after the number also shows that it is whole.

    Parameters
    ----------
    last
        The last line of the file.
    others
        Other lines of the same table.
    """
    if last.endswith("\n") or last != last.rstrip():
        return False
    words = last.split()
    column = [row[-1] for line in others if len(row := line.split()) == len(words)]
    if not words or not column:
        return True
    ends = {_end(word) for word in column}
    if ends == {_end(words[-1])}:
        return False
    if any(re.fullmatch(r"[+-]?\d*\.\d*", word) is None for word in (words[-1], *column)):
        return True  # whole numbers, exponents or text: nothing tells a part from the whole
    return _digits(words[-1]) < max(map(_digits, column))


def _end(number: str) -> str:
    """What follows the point, each digit as 0; without a point the whole word, or its length could not be known."""
    return re.sub(r"\d", "0", number[number.index(".") :] if "." in number else number)


def _digits(number: str) -> int:
    return len(number.lstrip("+-0.").replace(".", ""))
