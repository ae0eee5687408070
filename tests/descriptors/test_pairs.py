"""Pairs of a liquid: both searches, images, kinds, and ASE's stress."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from kernelfe.descriptors import Distances, PairDistances
from kernelfe.geometry.neighbours import all_pairs, cell_lists

SKEWED = torch.tensor([[7.0, 0.0, 0.0], [1.5, 6.5, 0.0], [-1.0, 0.8, 7.5]], dtype=torch.float64)


def liquid(seed: int, n: int, beads: int, cell: torch.Tensor) -> torch.Tensor:
    scaled = torch.rand(n, beads, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3.0 * scaled - 1.0) @ cell  # not wrapped


def canonical(found):
    frame, i, j, v = found
    rows = torch.cat((frame[:, None], i[:, None], j[:, None], v), 1).numpy()
    return rows[np.lexsort(np.round(rows.T[::-1], 9))]


@pytest.mark.parametrize(
    "cell", [None, 8.0 * torch.eye(3, dtype=torch.float64), SKEWED], ids=["free", "cubic", "skewed"]
)
def test_both_searches_find_the_same_pairs(cell):
    x = liquid(0, 3, 20, SKEWED if cell is not None else 0.4 * SKEWED)
    one, two = canonical(all_pairs(x, cell, 2.9)), canonical(cell_lists(x, cell, 2.9))
    assert len(one) > 20
    np.testing.assert_allclose(one, two, rtol=0.0, atol=1e-10)


def test_every_image_within_the_cutoff_counts():
    # cutoff longer than the cell: brute-force sum over lattice vectors
    x, cutoff = liquid(1, 2, 4, SKEWED), 9.0
    environments = PairDistances(cutoff).environments(x, SKEWED)
    images = torch.cartesian_prod(*3 * [torch.arange(-8.0, 9.0, dtype=torch.float64)]) @ SKEWED
    for frame in range(2):
        wanted = []
        for i in range(4):
            for j in range(i, 4):
                r = (x[frame, j] - x[frame, i] + images).norm(dim=1)
                r = r[(r < cutoff) & (r > 1e-9)].sort().values
                wanted.append(r if i < j else r[::2])  # ± images of a bead with itself are one pair
        found = environments.z[environments.frame == frame, 0]
        torch.testing.assert_close(found.sort().values, torch.cat(wanted).sort().values, rtol=0.0, atol=1e-10)
    assert (environments.frame.diff() >= 0).all()


def test_free_cluster_equals_distances():
    x = liquid(2, 2, 6, SKEWED)
    z = PairDistances(100.0).environments(x).z.reshape(2, -1)
    torch.testing.assert_close(z, Distances().environments(x).z, rtol=0.0, atol=1e-12)


def test_kinds_select_pairs():
    x, names = liquid(3, 2, 9, SKEWED), tuple("ABABBABCA")
    descriptor = PairDistances(3.0, ("A", "B")).bind(names)
    assert descriptor.bind(("C",) * 9) is descriptor and PairDistances(3.0).bind(names) == PairDistances(3.0)
    for cutoff in (3.0, 9.0):
        found = PairDistances(cutoff, ("A", "B"), names).environments(x, SKEWED)
        everything = PairDistances(cutoff).environments(x, SKEWED)
        i, j = everything.columns[:, 0] // 3, everything.columns[:, 3] // 3
        keep = [{names[a], names[b]} == {"A", "B"} for a, b in zip(i.tolist(), j.tolist(), strict=True)]
        assert 0 < sum(keep) < len(keep)
        torch.testing.assert_close(found.z, everything.z[torch.tensor(keep)], rtol=0.0, atol=1e-12)
    same = PairDistances(9.0, ("C", "C"), names).environments(x, SKEWED)
    assert len(same.z) > 0 and (same.columns[:, 0] == 21).all()


def test_an_empty_neighbourhood():
    x = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]], dtype=torch.float64)
    z, _, pullback = PairDistances(1.0).values_and_pullback(x, 8.0 * torch.eye(3, dtype=torch.float64))
    assert z.shape == (0, 1) and (pullback(z) == 0.0).all()


class _Through(Calculator):
    """Σ exp(−z) of a descriptor, with forces and stress through its derivatives."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, descriptor):
        super().__init__()
        self.descriptor = descriptor

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = torch.tensor(atoms.positions)[None]
        environments = self.descriptor.environments(x, torch.tensor(atoms.cell.array))
        g = -(-environments.z).exp()
        strain = torch.einsum("eav,ea->v", environments.strain, g)
        self.results = {
            "energy": float((-environments.z).exp().sum()),
            "free_energy": float((-environments.z).exp().sum()),
            "forces": -environments.pull(g, x)[0].numpy(),
            "stress": strain.numpy() / atoms.get_volume(),
        }


@pytest.mark.parametrize("descriptor", [PairDistances(11.0), Distances()], ids=str)
def test_stress_has_ases_sign_order_and_shear(descriptor):
    # 5 beads in a cell; the long cutoff takes several images, exp(−11) hides pairs that cross it
    positions = 0.4 * liquid(4, 1, 5, SKEWED)[0].numpy()
    atoms = Atoms("Ar5", positions=positions, cell=SKEWED.numpy(), pbc=True, calculator=_Through(descriptor))
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(numerical).max() > 1e-4
    np.testing.assert_allclose(atoms.get_stress(), numerical, rtol=0.0, atol=2e-7)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), rtol=0.0, atol=1e-5)
