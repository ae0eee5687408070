"""Products with the covariance of all labels, whose environments several processes divide.

Each process computes the values and gradients of an expansion at its own environments, in the blocks of
:class:`~kernelfe.kernels.products.PairProducts`, whose borders do not depend on who does which; what they have found
is put together in the order of the environments. With the same number of threads the product has the same bits for
any number of processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.products import PairProducts
from ..linalg.processes import Processes
from .jet_operator import JetGram, TermNodes


class SharedProducts:
    """A x, computed by several processes together.

    Parameters
    ----------
    gram
        A, the same one on every process.
    processes
        Who takes part.
    cache_bytes
        Bytes of kernel matrices that are kept between products, on each process.
    dtype
        Precision of the pairs.
    """

    def __init__(self, gram: JetGram, processes: Processes, cache_bytes: int, dtype: torch.dtype = torch.float64):
        self.gram, self.processes = gram, processes
        self.pairs = gram.products(0, dtype)
        for pairs in self.pairs:
            own = processes.share(self._blocks(pairs))
            count = len(pairs.z)
            pairs.rows = range(min(count, own.start * pairs.step), min(count, own.stop * pairs.step))
            pairs.cache_bytes = cache_bytes
            cache_bytes -= min(pairs.bytes, cache_bytes)

    def product(self, x: Tensor) -> Tensor:
        """A x for x of shape (N, k), the same x on every process."""
        return self.gram.product(x, self.pairs, self._gathered)

    @staticmethod
    def _blocks(pairs: PairProducts) -> int:
        return -(-len(pairs.z) // pairs.step)

    def _gathered(self, nodes: TermNodes, own: PairProducts, value, gradient) -> tuple[Tensor | None, Tensor | None]:
        count, step = len(nodes.targets), own.step
        blocks = [Processes(rank, self.processes.size).share(self._blocks(own)) for rank in range(self.processes.size)]
        counts = [len(range(count)[share.start * step : share.stop * step]) for share in blocks]
        gathered = [None if part is None else self.processes.gather_rows(part, counts) for part in (value, gradient)]
        return gathered[0], gathered[1]
