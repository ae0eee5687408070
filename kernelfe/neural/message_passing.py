"""Equivariant message passing between beads within a cutoff.

Every bead i has invariants s_i, vectors V¹_i and quadrupoles V²_i, ``channels`` of each. In a round, with the radial
functions w(r; kinds) from a small perceptron, and harmonics Y_l of the unit vector from i to j,

    A⁰_i = Σ_j w₀ s_j,    A^l_i = Σ_j (w_l s_j Y_l(r̂_ij) + w'_l V^l_j)    (l = 1, 2),

    s_i ← s_i + P(s_i, A⁰, |A¹|², |A²|², A¹·Q(A²)·A¹),    V^l_i ← A^l_i mixed over channels.

P is a perceptron of invariants. Σ_i of a perceptron of s_i gives the heads. Radial functions and two of their
derivatives vanish at the cutoff. The outputs are invariant under translation, rotation, reflection and permutation of
beads of the same kind; mirror images are not told apart.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry.neighbours import neighbours
from ..gp.states import States
from .inputs import Inputs, slope
from .mlp import perceptron
from .specs import MessagePassing

#: Matrices Q_m with r̂ r̂ᵀ − 1/3 = Σ_m Y_2m(r̂) Q_m, (5, 3, 3).
_S = 1.0 / math.sqrt(3.0)
QUADRUPOLES = (
    ((0.0, _S, 0.0), (_S, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (0.0, 0.0, _S), (0.0, _S, 0.0)),
    ((-1.0 / 3.0, 0.0, 0.0), (0.0, -1.0 / 3.0, 0.0), (0.0, 0.0, 2.0 / 3.0)),
    ((0.0, 0.0, _S), (0.0, 0.0, 0.0), (_S, 0.0, 0.0)),
    ((_S, 0.0, 0.0), (0.0, -_S, 0.0), (0.0, 0.0, 0.0)),
)


def harmonics(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Real harmonics Y_1 (E, 3) and Y_2 (E, 5) of unit vectors (E, 3); Σ_m Y_lm² = 1, m from −l to l for l = 2.

    Y_1 is ordered (x, y, z), so that it rotates as the vector itself.
    """
    x, y, z = unit.unbind(1)
    root = math.sqrt(3.0)
    second = (root * x * y, root * y * z, 1.5 * z * z - 0.5, root * x * z, 0.5 * root * (x * x - y * y))
    return unit, torch.stack(second, 1)


class Round(nn.Module):
    """One round of messages; the first one has no vectors to pass on."""

    def __init__(self, spec: MessagePassing, kinds: int, first: bool):
        super().__init__()
        c = spec.channels
        self.first, self.channels, self.paths = first, c, 3 if first else 5
        self.radial = perceptron([spec.basis + 2 * kinds, spec.hidden, self.paths * c], "silu", 1.0)
        self.update = perceptron([5 * c, spec.hidden, c], "silu", 0.3)
        self.mix1 = nn.Parameter(torch.randn(c, c, dtype=torch.float64) / math.sqrt(c))
        self.mix2 = nn.Parameter(torch.randn(c, c, dtype=torch.float64) / math.sqrt(c))

    def forward(self, s: Tensor, v1: Tensor, v2: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, c), (N, 3, c), (N, 5, c) after the round."""
        w = (self.radial(edges.basis) * edges.envelope[:, None]).unflatten(1, (self.paths, self.channels))
        sent = s[edges.source]
        m0 = w[:, 0] * sent
        m1 = (w[:, 1] * sent)[:, None] * edges.first[:, :, None]
        m2 = (w[:, 2] * sent)[:, None] * edges.second[:, :, None]
        if not self.first:
            m1 = m1 + w[:, 3, None] * v1[edges.source]
            m2 = m2 + w[:, 4, None] * v2[edges.source]
        a0, a1, a2 = (s.new_zeros(len(s), *m.shape[1:]).index_add(0, edges.target, m) for m in (m0, m1, m2))
        turned = torch.einsum("mxy,nmc,nyc->nxc", s.new_tensor(QUADRUPOLES), a2, a1)
        invariants = torch.cat([s, a0, (a1 * a1).sum(1), (a2 * a2).sum(1), (a1 * turned).sum(1)], 1)
        return s + self.update(invariants), a1 @ self.mix1, a2 @ self.mix2


class Edges:
    """Directed pairs of neighbours, with all that messages read of them.

    Parameters
    ----------
    x, cell
        Positions (n, beads, 3) and cells (n, 3, 3) or None, whose graph the vectors carry.
    kinds
        One-hot kinds of the beads, (beads, kinds).
    spec
        Cutoff and basis.
    """

    def __init__(self, x: Tensor, cell: Tensor | None, kinds: Tensor, spec: MessagePassing):
        beads = x.shape[1]
        found = neighbours(x, cell, spec.cutoff)
        i, j = found.frame * beads + found.i, found.frame * beads + found.j
        self.target, self.source = torch.cat([i, j]), torch.cat([j, i])
        v = torch.cat([found.v, -found.v])
        # beads at the same place: some unit vector of length zero, and finite derivatives
        r = (v * v).sum(1).clamp_min(1e-20).sqrt()
        self.first, self.second = harmonics(v / r[:, None])
        u = r / spec.cutoff
        centres = torch.linspace(0.0, 1.0, spec.basis, dtype=x.dtype)
        radial = torch.exp(-0.5 * ((u[:, None] - centres) * spec.basis) ** 2)
        own = kinds.repeat(len(x), 1)
        self.basis = torch.cat([radial, own[self.target], own[self.source]], 1)
        # 1 − 28 u⁶ + 48 u⁷ − 21 u⁸: value and two derivatives vanish at u = 1
        self.envelope = 1.0 + u**6 * (-28.0 + u * (48.0 - 21.0 * u))


class MessageNetwork(nn.Module):
    """Message passing as a network of a free energy.

    Parameters
    ----------
    spec
        Sizes.
    kinds
        Kinds of the beads; None: each bead is of its own kind.
    beads
        Number of beads.
    extras
        Number of extra inputs per frame (temperature, parameters).
    heads
        Outputs K.
    """

    kinds: Tensor

    def __init__(self, spec: MessagePassing, kinds: tuple[str, ...] | None, beads: int, extras: int, heads: int):
        super().__init__()
        names = tuple(map(str, range(beads))) if kinds is None else kinds
        every = sorted(set(names))
        one_hot = torch.tensor([[float(name == kind) for kind in every] for name in names], dtype=torch.float64)
        self.spec, self.beads = spec, beads
        self.register_buffer("kinds", one_hot, persistent=False)
        self.embedding = nn.Parameter(torch.randn(len(every), spec.channels, dtype=torch.float64))
        self.rounds = nn.ModuleList([Round(spec, len(every), k == 0) for k in range(spec.layers)])
        self.readout = perceptron([spec.channels + extras, spec.hidden, heads], "silu")

    def start(self, states: States) -> None:
        """Nothing is read from the data: features are of order one."""

    def store(self, states: States) -> GraphStore:
        """Inputs of a training set; neighbours are searched batch by batch."""
        return GraphStore(states)

    def inputs(self, states: States) -> GraphInputs:
        """Inputs of a batch."""
        return GraphInputs(states)

    def forward(self, inputs: GraphInputs, extras: Tensor) -> Tensor:
        """Outputs (n, K) of a batch."""
        return self.at(inputs.x, inputs.cell, extras)

    def at(self, x: Tensor, cell: Tensor | None, extras: Tensor) -> Tensor:
        """Outputs (n, K) of positions, differentiable by them as often as needed."""
        edges, n = Edges(x, cell, self.kinds, self.spec), len(x) * self.beads
        c = self.spec.channels
        s = (self.kinds @ self.embedding).repeat(len(x), 1)
        v1, v2 = x.new_zeros(n, 3, c), x.new_zeros(n, 5, c)
        for one in self.rounds:
            s, v1, v2 = one(s, v1, v2, edges)
        out = self.readout(torch.cat([s, extras.repeat_interleave(self.beads, 0)], 1))
        # positions that are not finite have no neighbours: zero times them keeps their energy from being a number
        lost = (0.0 * x.detach()).sum((1, 2))
        return out.unflatten(0, (len(x), self.beads)).sum(1) + lost[:, None]

    def leaf(self, x: Tensor, cell: Tensor | None) -> PositionLeaf:
        """Positions as a leaf, for gradients of the outputs."""
        return PositionLeaf(x, cell)


class PositionLeaf:
    """Positions that several networks read."""

    def __init__(self, x: Tensor, cell: Tensor | None):
        self.x, self.cell = x.detach().clone().requires_grad_(), cell

    def heads(self, network: MessageNetwork, extras: Tensor) -> Tensor:
        """Outputs (n, K) of a network."""
        return network.at(self.x, self.cell, extras)

    def gradient(self, value: Tensor) -> Tensor:
        """∂(Σ value)/∂positions."""
        return slope(value, self.x, False).detach()


class GraphInputs(Inputs):
    """Positions and cells as inputs; the leaves are the positions and, with a cell, the strain."""

    def __init__(self, states: States):
        self.states = states
        self.leaf = states.coordinates.detach().clone().requires_grad_()
        self.x, self.cell = self.leaf, states.cell
        if states.cell is not None:
            self.voigt = self.leaf.new_zeros(len(states), 6).requires_grad_()
            deformation = torch.eye(3, dtype=self.leaf.dtype) + _symmetric(self.voigt)
            self.x, self.cell = self.leaf @ deformation, states.cell @ deformation

    def gradient(self, value: Tensor, graph: bool) -> Tensor:
        return slope(value, self.leaf, graph).flatten(1)

    def strain(self, value: Tensor, graph: bool) -> Tensor:
        return slope(value, self.voigt, graph)


class GraphStore:
    """States of a training set."""

    def __init__(self, states: States):
        self.states = states

    def take(self, index: Tensor) -> GraphInputs:
        """Inputs of some frames, in the order given."""
        return GraphInputs(self.states[index])


def _symmetric(voigt: Tensor) -> Tensor:
    """Strain matrices (n, 3, 3) of engineering strains (n, 6) in Voigt order."""
    xx, yy, zz, yz, xz, xy = voigt.unbind(1)
    rows: Any = ((xx, xy / 2, xz / 2), (xy / 2, yy, yz / 2), (xz / 2, yz / 2, zz))
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
