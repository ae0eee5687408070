"""Text files from elsewhere: compressed or not, whole or cut within the last number; warnings of their readers."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from .npz import MAX_BYTES

logger = logging.getLogger(__name__)

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: A number with a decimal point; in whole numbers and words nothing tells a part from the whole.
_NUMBER = re.compile(r"[+-]?\d*\.\d*(e[+-]\d+)?")
#: Longest line that is read, characters: a compressed file may unpack to one line of any length.
LONGEST_LINE = 10_000_000


def plain_suffix(path: str | os.PathLike[str]) -> str:
    """Suffix of a file name in lower case, without that of a compression (``x.XYZ.gz``: ``.xyz``)."""
    path = Path(path)
    return Path(path.stem if is_compressed(path) else path.name).suffix.lower()


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Return True if the suffix is that of gzip, bzip2 or xz."""
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


def next_lines(handle: TextIO, count: int) -> list[str]:
    """The next ``count`` lines; fewer at the end of the file.

    Raises
    ------
    ValueError
        If one is longer than any line of numbers, or all together than any frame: a compressed file may unpack to any
        length.
    """
    lines: list[str] = []
    size = 0
    while len(lines) < count and (line := next_line(handle)):
        lines.append(line)
        size += len(line)
        if size > MAX_BYTES:
            raise ValueError(f"a frame holds more than {MAX_BYTES} characters")
    return lines


def may_be_cut(last: str, others: Iterable[str]) -> bool:
    """Return True if the last line of a file, without a line end, may have lost the end of its last number.

    White space after the number shows that it is whole. So does, among at least three other numbers of its column, the
    common number of decimals of a fixed format, or else no fewer significant digits than any of the others. In doubt
    the number may be cut.

    Parameters
    ----------
    last
        The last line of the file.
    others
        Other lines of the same table.
    """
    if last.endswith("\n"):
        return False
    words, rows = last.split(), [line.split() for line in others]
    if last != last.rstrip():
        return len(words) < max(map(len, rows), default=0)
    column = [row[-1] for row in rows if len(row) == len(words)]
    if len(column) < 3 or any(_NUMBER.fullmatch(word) is None for word in (*words[-1:], *column)):
        return True
    word, ends = words[-1], {_end(number) for number in column}
    if len(ends) == 1 or any("e" in number for number in (word, *column)):
        if ends != {_end(word)}:
            return True
        # decimals that end in 0, and as many for numbers of any size, are those of a fixed format
        fixed = any(end.startswith(".") and "e" in end for end in ends)
        fixed = fixed or any(re.search(r"\.\d+0$", number) for number in column)
        if fixed or len({_digits(number) for number in column}) > 1:
            return False
    most = max(map(_digits, column))
    return _digits(word) < (17 if most > 12 else max(most, 6))  # doubles in full, or %g


def _end(number: str) -> str:
    """Part of a number from the point on, with each digit as 0 and the sign of an exponent as +."""
    return re.sub(r"\d", "0", number[number.index(".") :]).replace("-", "+")


def _digits(number: str) -> int:
    """Number of significant digits."""
    return len(number.lstrip("+-0.").replace(".", ""))


@contextmanager
def reader_warnings(name: str) -> Iterator[None]:
    """Log the warnings of another package's reader, once each, instead of printing them with its source lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        logger.info("%s: %s", name, message)
