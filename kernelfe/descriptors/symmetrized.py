"""A descriptor seen from every permutation of like beads: terms that are exactly symmetric in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError, require
from ..specs import Bound, Each, Whole
from .base import Descriptor, Environments, Pullback
from .like_beads import MAX_PERMUTATIONS, Permutations, is_group


@dataclass(frozen=True)
class Symmetrized(Descriptor):
    """z(pR) for all permutations p of a group: P environments per frame, and a term that is their average.

        f(R) = (1/P) Σ_p g(z(pR)),   g ~ GP(0, a² κ)

    f is the projection of g on functions that are symmetric in like beads. The factor is 1/P (``weight``), not 1/√P:
    a g that is symmetric already is left as it is, so the scale a keeps its meaning, the prior standard deviation of
    the term. It is reached where all copies coincide and nearly so where κ between copies is close to one; copies that
    are far apart on the length scale have a/√P. With this factor conditioning f on labels of noise σ gives the same
    mean as conditioning g on those labels at all P copies of every configuration with noise σ√P, provided that κ does
    not tell the copies apart.

    Parameters
    ----------
    descriptor
        A descriptor with one environment per frame: :class:`Distances`, :class:`InverseDistances`,
        :class:`InternalCoordinates`, :class:`Variables`. (:class:`PairDistances` by kinds is symmetric by itself.)
    permutations
        A group of permutations of all beads, or of the variables; see
        :func:`~kernelfe.descriptors.permutations` and :func:`~kernelfe.descriptors.automorphisms`.

    Raises
    ------
    DataError
        If the permutations are not a group, are too many, or do not fit the frames; if they exchange beads of different
        kinds; if the descriptor has another number of environments than one per frame.
    """

    descriptor: Any
    permutations: Permutations

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"permutations": Each(Each(Whole(least=0)))}

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.permutations
        require(
            len(given) <= MAX_PERMUTATIONS, f"Symmetrized: {len(given)} permutations are more than {MAX_PERMUTATIONS}"
        )
        require(
            all(sorted(p) == list(range(len(given[0]))) for p in given),
            "Symmetrized: every permutation must name each bead once, counted from 0, and all as many",
        )
        require(
            is_group(given),
            f"Symmetrized: these {len(given)} permutations are not a group (the identity, and with any two their "
            "product): make them by kernelfe.descriptors.permutations or automorphisms",
        )

    @property
    def weight(self) -> float:
        """1/P, times that of the descriptor."""
        return self.descriptor.weight / len(self.permutations)

    @property
    def copies(self) -> int:
        """P: the environments of a frame are images of one another."""
        return len(self.permutations)

    def dimension(self, coordinate_shape: tuple[int, ...]) -> int:
        """Columns of the descriptor."""
        size = len(self.permutations[0])
        if coordinate_shape[0] != size:
            raise DataError(
                f"Symmetrized holds permutations of {size} beads or variables, the frames have {coordinate_shape[0]}"
            )
        return self.descriptor.dimension(coordinate_shape)

    def environments(self, coordinates: Tensor, cell: Tensor | None = None) -> Environments:
        """See :meth:`Descriptor.environments`; environments are listed frame by frame, the identity's first."""
        inner = self.descriptor.environments(self._permuted(coordinates), cell=self._repeated(cell))
        if inner.frame is not None:
            raise self._refusal()
        frames, copies, flat = len(coordinates), len(self.permutations), coordinates[0].numel()
        table = _columns(self.permutations, flat, coordinates.device).repeat(frames, 1)
        columns = table if inner.columns is None else torch.gather(table, 1, inner.columns)
        jacobian = inner.jacobian
        if jacobian is None:  # the identity
            jacobian = torch.eye(inner.z.shape[1], dtype=inner.z.dtype, device=inner.z.device).repeat(len(table), 1, 1)
        return Environments(inner.z, jacobian, columns, self._frame(frames, copies, coordinates), inner.strain)

    def values_and_pullback(self, coordinates: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor, Pullback]:
        """See :meth:`Descriptor.values_and_pullback`."""
        z, frame, inner = self.descriptor.values_and_pullback(self._permuted(coordinates), cell=self._repeated(cell))
        if frame is not None:
            raise self._refusal()
        frames, copies = len(coordinates), len(self.permutations)

        def pullback(g: Tensor) -> Tensor:
            w = inner(g).reshape(frames, copies, *coordinates.shape[1:])
            at, inverse = _inverse(self.permutations, w.device)
            return w[:, at, inverse].sum(1)

        return z, self._frame(frames, copies, coordinates), pullback

    def bind(self, kinds: Sequence[str] | None) -> Symmetrized:
        """This descriptor with the inner one bound, after checking that only beads of one kind are exchanged."""
        if kinds is not None and len(kinds) == len(self.permutations[0]):
            for p in self.permutations:
                for bead, read in enumerate(p):
                    if kinds[bead] != kinds[read]:
                        raise DataError(
                            f"Symmetrized exchanges bead {bead} ({kinds[bead]}) and bead {read} ({kinds[read]}): only "
                            "beads of one kind are alike"
                        )
        inner = self.descriptor.bind(kinds)
        return self if inner is self.descriptor else replace(self, descriptor=inner)

    def for_molecule(self, kinds, bonds) -> Symmetrized:
        """See :meth:`Descriptor.for_molecule`."""
        out = self.bind(kinds)
        return replace(out, descriptor=out.descriptor.for_molecule(kinds, bonds))

    def _permuted(self, x: Tensor) -> Tensor:
        self.dimension(tuple(x.shape[1:]))
        index = torch.tensor(self.permutations, device=x.device)
        return x[:, index].flatten(0, 1)

    def _repeated(self, cell: Tensor | None) -> Tensor | None:
        return cell if cell is None or cell.ndim == 2 else cell.repeat_interleave(len(self.permutations), 0)

    def _refusal(self) -> DataError:
        return DataError(
            f"Symmetrized averages descriptors with one environment per frame; {type(self.descriptor).__name__} has "
            "others. A sum over pairs or bonds by kinds is symmetric in like beads by itself"
        )

    @staticmethod
    def _frame(frames: int, copies: int, like: Tensor) -> Tensor:
        return torch.arange(frames, device=like.device).repeat_interleave(copies)


@lru_cache(maxsize=32)  # memos of pure functions: samplers call at every step
def _columns(given: Permutations, flat: int, device: torch.device) -> Tensor:
    """Flat coordinate of the frame that each flat coordinate of a permuted copy is, shape (P, flat)."""
    with torch.inference_mode(False):
        index = torch.tensor(given, device=device)
        each = flat // index.shape[1]
        return (each * index[:, :, None] + torch.arange(each, device=device)).flatten(1)


@lru_cache(maxsize=32)
def _inverse(given: Permutations, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices (copy, bead of the copy) at which each bead of the frame appears, both (P, beads) when broadcast."""
    with torch.inference_mode(False):
        index = torch.tensor(given, device=device)
        return torch.arange(len(given), device=device)[:, None], torch.argsort(index, 1)
