"""Many products with the same kernel matrix of jets: expansions on nodes, evaluated at environments, again and again.

A solver multiplies by the same matrix hundreds of times. What does not change, the kernel and its slopes for every
pair, is kept where it fits; the rest is a few thin matrix products on blocks of pairs that stay in the cache. With
δ = z − z', q_ij = δ·w_j and radial_ij = κ' c_j − κ'' q_ij (:mod:`kernelfe.kernels.radial`),

    value = Σ_j κ c_j − κ' q_ij,    gradient = z Σ_j radial_ij − Σ_j radial_ij z_j − κ' w_j.

For every right-hand side that is one product of depth D + 1 for q, one or two elementwise passes, and one product
each with radial and κ': 6 (D + 1) operations per pair. Where κ' = −κ and κ'' = κ (the Gaussian kernel) value and slopes
share one matrix.

In few dimensions, where the elementwise passes take longer than the products, moments of the kernel
(:mod:`kernelfe.kernels.moments`) take their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from threading import Lock
from typing import ClassVar

import torch
from torch import Tensor

from ..runtime.threads import side_by_side
from .base import Kernel
from .moments import moment_factors, read_moments
from .radial import RadialKernel
from .scalars import half_squared_distances

#: (start, stop) → values and gradients of a block of environments, or None.
Block = Callable[[int, int], tuple[Tensor | None, Tensor | None]]


class PairProducts:
    """Products with the kernel between environments ``z`` and ``nodes``.

    Parameters
    ----------
    kernel
        The kernel, with its numbers.
    z, nodes
        Embedded environments, shapes (E, D) and (m, D).
    values, slopes
        Which of the two is wanted of the expansions.
    cache_bytes
        Bytes of kernel matrices that are kept between products: of the first blocks, as many as fit.
    dtype
        In which the pairs are kept and multiplied; float32 takes half the memory and time. Moments are in float64: sums
        of squared coordinates lose digits, and with float64 they are as fast as the other form with float32.
    rows
        The environments that this process is responsible for, a range of E; None: all.
    """

    #: Entries of a block of pairs, and its largest number of nodes: on a CPU, long thin products are twice as slow as
    #: square ones.
    BLOCK_ENTRIES: ClassVar[Mapping[str, int]] = {"cpu": 1 << 20, "cuda": 1 << 26}
    BLOCK_NODES: ClassVar[Mapping[str, int]] = {"cpu": 1 << 10, "cuda": 1 << 26}
    #: Nodes in a block if there are more and it is passed over several times: it then stays in the caches of the cores.
    CACHED_NODES: ClassVar[int] = 1 << 8
    #: Dimensions up to which moments are the faster form: in double precision they take half the time of thin products
    #: in single precision at two, and as long at four.
    MOMENT_DIMENSIONS: ClassVar[int] = 4
    #: Numbers in the moments of a block, and in the factors that the kernel is multiplied by; with more, products are
    #: thin.
    MOMENT_NUMBERS: ClassVar[Mapping[str, int]] = {"cpu": 1 << 22, "cuda": 1 << 26}
    #: Kernel values in single precision below which they are zero: times a coefficient they might be too small for the
    #: normal format, and such numbers make products ten times slower.
    VANISHING: ClassVar[float] = 1e-20
    #: Numbers in what the kernel is multiplied by for an expansion in values, at a time.
    VALUES_NUMBERS: ClassVar[int] = 1 << 20
    #: Entries of a block of pairs where the kernel has no fused product: its Gram has (1 + D) rows per environment.
    GENERAL_ENTRIES: ClassVar[int] = 1 << 20
    #: One thread at a time counts what is kept; of the class, since locks cannot be pickled.
    _keeping: ClassVar[Lock] = Lock()

    def __init__(
        self,
        kernel: Kernel,
        z: Tensor,
        nodes: Tensor,
        *,
        values: bool = True,
        slopes: bool = True,
        cache_bytes: int = 1 << 30,
        dtype: torch.dtype = torch.float64,
        rows: range | None = None,
    ):
        self.kernel, self.values, self.slopes = kernel, values, slopes
        self.fused = isinstance(kernel, RadialKernel)
        self.moments = self.fused and z.shape[1] <= self.MOMENT_DIMENSIONS
        self.dtype = dtype = torch.float64 if self.moments else dtype
        centre = nodes.mean(0) if self.fused and len(nodes) else z.new_zeros(z.shape[1])
        # a radial kernel depends on differences only: about the centre little cancels
        self.z, self.nodes = (z - centre), (nodes - centre)
        self.rows = range(len(z)) if rows is None else rows
        kind = "cuda" if z.is_cuda else "cpu"
        self.single = self.fused and getattr(kernel, "SLOPE", None) == -1.0
        self.cache_bytes = cache_bytes
        self._kept: dict[tuple[int, int, bool], tuple[Tensor, ...]] = {}
        self._kept_bytes = 0
        self._rooms: list[Tensor] = []
        if self.fused:
            self._nodes = self.nodes.to(dtype)
            ones = torch.ones(len(nodes), 1, dtype=dtype, device=z.device)
            self._nodes1 = _aligned(torch.cat([self._nodes, ones], 1))
            ones = torch.ones(len(z), 1, dtype=dtype, device=z.device)
            self._z1 = torch.cat([self.z.to(dtype), ones], 1)
        self.width, self.step = self._block_shape(kind)
        #: Right-hand sides up to which moments are taken.
        self._few = self.MOMENT_NUMBERS[kind] // ((1 + z.shape[1]) ** 2 * max(1, self.step, len(nodes)))

    def _block_shape(self, kind: str) -> tuple[int, int]:
        """Nodes and environments of a block."""
        count, entries = max(1, len(self.nodes)), self.BLOCK_ENTRIES[kind]
        if not self.fused:
            return count, max(1, self.GENERAL_ENTRIES // (1 + self.z.shape[1]) // count)
        width = min(count, self.BLOCK_NODES[kind])
        if width < count and not self.moments and kind == "cpu":
            entries, width = entries * min(width, self.CACHED_NODES) // width, min(width, self.CACHED_NODES)
        return width, max(1, entries // width)

    @property
    def bytes(self) -> int:
        """Size of all kernel matrices; 0 where nothing is kept."""
        matrices = 0 if not self.fused else 1 if self.single else 2 + int(self.values)
        return matrices * len(self.rows) * len(self.nodes) * torch.finfo(self.dtype).bits // 8

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the blocks of environments; their borders do not depend on who does which."""
        for start in range(self.rows.start, self.rows.stop, self.step):
            yield start, min(start + self.step, self.rows.stop)

    @torch.no_grad()
    def product(self, c: Tensor | None, w: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Values and gradients of expansions at this process's environments.

        Parameters
        ----------
        c, w
            Coefficients on the nodes, shapes (m, P) and (m, D, P), or None for zero.

        Returns
        -------
        Tensor or None, Tensor or None
            Shapes (rows, P) and (rows, D, P), float64; the gradient by embedded columns.
        """
        given = c if c is not None else w
        assert given is not None, "an expansion needs coefficients"
        size = given.shape[-1]
        if self.fused and w is None:
            block = self._values_block(given)
        elif self.moments and 0 < size <= self._few:
            block = self._moment_block(c, w, size)  # type: ignore[arg-type]
        elif self.fused:
            block = partial(self._in_room, self._prepared(c, w))  # type: ignore[arg-type]
        else:
            block = self._general_block(given.new_zeros(len(self.nodes), size) if c is None else c, w)
        # the queue of a GPU is one: threads would only wait for each other
        found = side_by_side(lambda part: block(*part), self.blocks(), 1 if self.z.is_cuda else None)
        return (
            self._joined([v for v, _ in found], size) if self.values else None,
            self._joined([g for _, g in found], self.z.shape[1], size) if self.slopes else None,
        )

    def _general_block(self, c: Tensor, w: Tensor | None) -> Block:
        """Values and gradients by the kernel's own product."""
        return lambda start, stop: self.kernel.jet_product(self.z[start:stop], self.nodes, c, w)

    def _in_room(
        self, prepared: tuple[Tensor, Tensor | None, Tensor], start: int, stop: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """A block with room for its pairs from an earlier one: touching new memory takes longer than using it."""
        try:
            room = self._rooms.pop()  # it belongs to one block at a time: blocks are computed in several threads
        except IndexError:
            room = torch.empty(min(self.step, len(self.rows)) * self.width, dtype=self.dtype, device=self.z.device)
        found = self._fused_block(room, *prepared, start, stop)
        if not room.is_cuda:  # the allocator of a GPU keeps memory by itself
            self._rooms.append(room)
        return found

    def _joined(self, parts: list[Tensor], *shape: int) -> Tensor:
        """Results of the blocks as one array."""
        if not parts:
            return self.z.new_zeros(0, *shape)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # ------------------------------------------------------------------ radial kernels

    def _prepared(self, c: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Per right-hand side what q is made of: (m, D + 1); the coefficients c, (m, P); all slopes w, (m, D·P)."""
        c, w = None if c is None else c.to(self.dtype), w.to(self.dtype)
        offset = -(self._nodes[:, :, None] * w).sum(1)
        if self.single and c is not None:  # κ (c + q): the coefficient goes with the constant of q
            offset = offset + c
        inner = torch.cat([w, offset[:, None, :]], 1).permute(2, 0, 1).contiguous()  # (P, m, D + 1)
        return inner, c, _aligned(w.flatten(1))

    def _pairs(self, start: int, stop: int, nodes: slice, alone: bool = False) -> tuple[Tensor, ...]:
        """(κ', κ'', κ) of a block, κ where it is needed; κ alone, or of the Gaussian kernel, (κ,)."""
        key = start, nodes.start, alone and not self.single
        if key in self._kept:
            return self._kept[key]
        s = half_squared_distances(self.z[start:stop], self.nodes[nodes])
        if self.single or alone:
            found: tuple[Tensor, ...] = (self.kernel.value_(s),)  # type: ignore[attr-defined]
        else:
            k0, k1, k2 = self.kernel.functions(s)  # type: ignore[attr-defined]
            found = (k1, k2, k0) if self.values else (k1, k2)
        out = found
        if self.dtype != torch.float64:
            out = tuple(torch.nn.functional.hardshrink(part.to(self.dtype), self.VANISHING) for part in found)
        size = sum(part.numel() * part.element_size() for part in out)
        with self._keeping:
            if size <= self.cache_bytes - self._kept_bytes:
                self._kept[key] = out
                self._kept_bytes += size
        return out

    def _moment_block(self, c: Tensor | None, w: Tensor, size: int) -> Block:
        """Values and gradients by moments."""
        c = None if c is None else c.to(self.dtype)
        factors = moment_factors(self._nodes, c, w.to(self.dtype), self.single, self.slopes)

        def block(start: int, stop: int) -> tuple[Tensor | None, Tensor | None]:
            z1 = self._z1[start:stop]
            sums = [None if f is None else z1.new_zeros(len(z1), f.shape[1]) for f in factors]
            for first in range(0, len(self.nodes), self.width):
                part = slice(first, min(first + self.width, len(self.nodes)))
                for total, pairs, factor in zip(sums, self._pairs(start, stop, part), factors, strict=False):
                    if total is not None and factor is not None:
                        total.addmm_(pairs, factor[part])
            value, gradient = read_moments(z1, sums, size, self.single, self.slopes)
            return value.to(torch.float64), None if gradient is None else gradient.to(torch.float64)

        return block

    def _values_block(self, c: Tensor) -> Block:
        """Of an expansion in values alone: value = Σ_j κ c_j, gradient = z Σ_j κ' c_j − Σ_j κ' c_j z_j."""
        c = c.to(self.dtype)
        size, width = c.shape[1], self.z.shape[1]
        columns = self._nodes1.shape[1]
        few = max(1, self.VALUES_NUMBERS // (columns * max(1, min(self.width, len(self.nodes)))))

        def block(start: int, stop: int) -> tuple[Tensor | None, Tensor | None]:
            z = self._z1[start:stop, :width]
            # the Gaussian kernel's values are among the sums for slopes
            value = z.new_zeros(len(z), size) if self.values and not (self.single and self.slopes) else None
            summed = z.new_zeros(len(z), size * columns) if self.slopes else None  # Σ_j κ' c_j z_j and Σ_j κ' c_j
            for first in range(0, len(self.nodes), self.width):
                part = slice(first, min(first + self.width, len(self.nodes)))
                pairs = self._pairs(start, stop, part, alone=not self.slopes)
                if value is not None:
                    value.addmm_(pairs[-1], c[part])
                if summed is None:
                    continue
                for p in range(0, size, few):
                    scaled = (c[part, p : p + few, None] * self._nodes1[part, None, :]).flatten(1)
                    summed[:, p * columns : p * columns + scaled.shape[1]].addmm_(pairs[0], scaled)
            gradient = None
            if summed is not None:
                found = summed.unflatten(1, (size, columns))
                total = found[:, :, width]
                gradient = (z[:, None, :] * total[:, :, None] - found[:, :, :width]).mT.to(torch.float64)
                if self.single:  # κ' = −κ
                    gradient, value = gradient.neg_(), total if self.values else None
            return None if value is None else value.to(torch.float64), gradient

        return block

    def _fused_block(
        self, room: Tensor, inner: Tensor, c, w, start: int, stop: int
    ) -> tuple[Tensor | None, Tensor | None]:
        z1 = self._z1[start:stop]
        z = z1[:, :-1]
        size, width = len(inner), z.shape[1]
        value = z.new_zeros(len(z), size) if self.values and not self.single else None
        summed = z.new_zeros(size, len(z), self._nodes1.shape[1])  # −Σ_j radial z_j, and −Σ_j radial
        spread = z.new_zeros(len(z), w.shape[1]) if self.slopes else None  # Σ_j κ' w_j
        for first in range(0, len(self.nodes), self.width):
            part = slice(first, min(first + self.width, len(self.nodes)))
            pairs = self._pairs(start, stop, part)
            buffer = room[: pairs[0].numel()].view(pairs[0].shape)
            for p in range(size):
                torch.mm(z1, inner[p, part].mT, out=buffer)  # q, for the Gaussian kernel with c
                self._radial(buffer, pairs, None if c is None else c[part, p], value, p)
                if self.single or self.slopes:
                    summed[p].addmm_(buffer, self._nodes1[part])
            if spread is not None:
                spread.addmm_(pairs[0], w[part])
        total = summed[:, :, width]
        if self.single:
            value = total.mT
        values = value.to(torch.float64) if value is not None and self.values else None
        if spread is None:
            return values, None
        gradient = torch.addcmul(summed[:, :, :width], z, total[:, :, None], value=-1.0).permute(1, 2, 0)
        more = spread[:, : width * size].reshape(len(z), width, size)  # − κ' w of all right-hand sides at once
        gradient = gradient + more if self.single else gradient - more
        return values, gradient.to(torch.float64)

    def _radial(self, buffer: Tensor, pairs, c: Tensor | None, value: Tensor | None, p: int) -> None:
        """From q in ``buffer`` to −radial, what multiplies δ; the values are added up."""
        if self.single:
            buffer.mul_(pairs[0])
            return
        first, second = pairs[:2]
        if value is not None:
            if c is not None:
                value[:, p].addmv_(pairs[2], c)
            value[:, p].sub_(torch.linalg.vecdot(first, buffer))
        if self.slopes:
            buffer.mul_(second)  # −radial = κ'' q − κ' c
            if c is not None:
                buffer.addcmul_(first, c, value=-1.0)


def _aligned(x: Tensor, columns: int = 8) -> Tensor:
    """Pad to a multiple of ``columns`` with zeros: thin products of eleven columns take as long as those of sixteen."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % columns))
