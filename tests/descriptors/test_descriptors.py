"""Every descriptor: Jacobians, products with Jᵀ, invariances, strain, degenerate geometries, specs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch.autograd.functional import jacobian

from kernelfe import specs
from kernelfe.descriptors import (
    DESCRIPTORS,
    Descriptor,
    Distances,
    Environments,
    InternalCoordinates,
    InverseDistances,
    PairDistances,
    Variables,
)
from kernelfe.errors import DataError
from kernelfe.geometry.topology import angles_of, dihedrals_of, impropers_of


def name(descriptor) -> str:
    given = [key for key, value in descriptor.get_params().items() if value not in (None, ())]
    return "-".join([type(descriptor).__name__, *given])


BONDS = ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))
INTERNAL = InternalCoordinates(BONDS, angles_of(BONDS), dihedrals_of(BONDS), impropers_of(BONDS))
MOLECULAR = [
    Distances(),
    Distances(((0, 3), (5, 1))),
    InverseDistances(),
    INTERNAL,
    InternalCoordinates(bonds=BONDS),
    InternalCoordinates(dihedrals=((0, 1, 2, 4),)),
]
SPATIAL = [*MOLECULAR, PairDistances(2.5)]
SKEWED = torch.tensor([[7.0, 0.0, 0.0], [1.5, 6.5, 0.0], [-1.0, 0.8, 7.5]], dtype=torch.float64)


def molecules(seed: int, n: int = 3, beads: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(n, beads, 3, generator=generator, dtype=torch.float64)


def rotation(seed: int) -> torch.Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.as_tensor(q * np.sign(np.linalg.det(q)))


def dense(environments: Environments, coordinates: torch.Tensor) -> torch.Tensor:
    """∂z/∂(all coordinates of all frames), (E, D, n, flat), from whatever sparse form the descriptor gave."""
    n, flat = len(coordinates), coordinates[0].numel()
    size, d = environments.z.shape
    out = torch.zeros(size, d, n, flat, dtype=torch.float64)
    jac = (
        torch.eye(d, dtype=torch.float64).expand(size, d, d) if environments.jacobian is None else environments.jacobian
    )
    for e in range(size):
        frame = e if environments.frame is None else int(environments.frame[e])
        for q in range(jac.shape[2]):
            column = q if environments.columns is None else int(environments.columns[e, q])
            out[e, :, frame, column] += jac[e, :, q]
    return out


def check_against_autograd(descriptor, x: torch.Tensor, cell: torch.Tensor | None = None) -> None:
    environments = descriptor.environments(x, cell)
    reference = jacobian(lambda y: descriptor.environments(y, cell).z, x).reshape(*environments.z.shape, len(x), -1)
    assert environments.z.shape[1] == descriptor.dimension(tuple(x.shape[1:]))
    scale = 1.0 + reference.abs().max() if reference.numel() else 1.0
    torch.testing.assert_close(dense(environments, x) / scale, reference / scale, rtol=0.0, atol=1e-10)
    z, frame, pullback = descriptor.values_and_pullback(x, cell)
    torch.testing.assert_close(z, environments.z, rtol=0.0, atol=0.0)
    assert (frame is None) == (environments.frame is None)
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.einsum("ednq,ed->nq", reference, g).reshape(x.shape)
    torch.testing.assert_close(pullback(g) / scale, wanted / scale, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(environments.pull(g, x) / scale, wanted / scale, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("descriptor", SPATIAL, ids=name)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_jacobian_and_pullback_match_automatic_differentiation(descriptor, seed):
    check_against_autograd(descriptor, molecules(seed))
    check_against_autograd(descriptor, molecules(seed), SKEWED)


@pytest.mark.parametrize("descriptor", MOLECULAR, ids=name)
def test_jacobian_matches_finite_differences(descriptor):
    # independent of automatic differentiation through the same formulas
    x, step = molecules(3, n=1), 1e-5
    jac = descriptor.environments(x).jacobian[0]
    for column in range(18):
        shift = torch.zeros(18, dtype=torch.float64)
        shift[column] = step
        shift = shift.reshape(1, 6, 3)
        difference = (descriptor.environments(x + shift).z - descriptor.environments(x - shift).z)[0] / (2 * step)
        torch.testing.assert_close(jac[:, column], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("descriptor", SPATIAL, ids=name)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_invariance_under_rotation_and_translation(descriptor, seed):
    x = molecules(seed)
    moved = x @ rotation(seed).T + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        descriptor.environments(moved).z, descriptor.environments(x).z, rtol=1e-10, atol=1e-10, msg=None
    )
    # forces of an invariant have neither net force nor net torque
    z, _, pullback = descriptor.values_and_pullback(x)
    force = pullback(torch.ones_like(z))
    scale = 1.0 + force.abs().max()
    assert (force.sum(1) / scale).abs().max() < 1e-10
    assert (torch.linalg.cross(x, force).sum(1) / scale).abs().max() < 1e-9


@pytest.mark.parametrize("descriptor", SPATIAL, ids=name)
@pytest.mark.parametrize("cell", [7.0 * torch.eye(3, dtype=torch.float64), SKEWED], ids=["cubic", "skewed"])
def test_lattice_translations_change_nothing(descriptor, cell):
    x = 0.5 * molecules(5)
    shifts = torch.randint(-2, 3, (3, 6, 3), generator=torch.Generator().manual_seed(1)).double()
    here, there = descriptor.environments(x, cell), descriptor.environments(x + shifts @ cell, cell)
    torch.testing.assert_close(there.z, here.z, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(there.strain, here.strain, rtol=0.0, atol=1e-9)


def test_minimum_image_is_the_nearest_image():
    x = 4.0 * molecules(9, n=4)
    cell = torch.diag(torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64))
    images = torch.cartesian_prod(*3 * [torch.arange(-6.0, 7.0, dtype=torch.float64)]) @ cell
    i, j = torch.triu_indices(6, 6, 1)
    nearest = (x[:, j] - x[:, i])[:, :, None].add(images).norm(dim=-1).amin(-1)
    torch.testing.assert_close(Distances().environments(x, cell).z, nearest, rtol=0.0, atol=1e-10)
    per_frame = cell.expand(4, 3, 3) * torch.tensor([1.0, 1.1, 1.2, 1.3], dtype=torch.float64)[:, None, None]
    separate = torch.cat([Distances().environments(x[k : k + 1], per_frame[k]).z for k in range(4)])
    torch.testing.assert_close(Distances().environments(x, per_frame).z, separate, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("descriptor", SPATIAL, ids=name)
def test_strain_matches_finite_differences(descriptor):
    x, step = 0.6 * molecules(11), 1e-5
    strain = descriptor.environments(x, SKEWED).strain
    voigt = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    for component, (a, b) in enumerate(voigt):
        deform = torch.zeros(3, 3, dtype=torch.float64)
        deform[a, b] += 0.5 * step
        deform[b, a] += 0.5 * step
        z = [
            descriptor.environments(
                x @ (torch.eye(3).double() + sign * deform), SKEWED @ (torch.eye(3).double() + sign * deform)
            ).z
            for sign in (1.0, -1.0)
        ]
        torch.testing.assert_close(strain[..., component], (z[0] - z[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_strain_is_absent_without_a_cell():
    for descriptor in SPATIAL:
        assert descriptor.environments(molecules(1)).strain is None


DEGENERATE = {
    "collinear": torch.tensor([[[float(k), 0.0, 0.0] for k in range(6)]], dtype=torch.float64),
    "almost collinear": torch.tensor([[[float(k), 1e-9 * k * k, 0.0] for k in range(6)]], dtype=torch.float64),
    "folded back": torch.tensor([[[float(k % 2), 0.0, 0.0] for k in range(6)]], dtype=torch.float64),
    "one point": torch.zeros(1, 6, 3, dtype=torch.float64),
}


@pytest.mark.parametrize("x", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("descriptor", SPATIAL, ids=name)
def test_degenerate_geometries_stay_finite(descriptor, x):
    environments = descriptor.environments(x, SKEWED)
    assert len(environments.z) > 0
    for tensor in (environments.z, environments.jacobian, environments.strain):
        assert tensor.isfinite().all()
    z, _, pullback = descriptor.values_and_pullback(x)
    assert pullback(torch.ones_like(z)).isfinite().all()


def test_known_internal_coordinates():
    # butane-like chain; IUPAC: looking along the middle bond, clockwise turns are positive
    angle = 0.7
    chain = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [np.cos(angle), np.sin(angle), 2.0]]
    x = torch.tensor([chain], dtype=torch.float64)
    z = InternalCoordinates(((1, 2),), ((0, 1, 2),), ((0, 1, 2, 3),)).environments(x).z[0]
    wanted = [2.0, np.pi / 2, np.sin(angle), np.cos(angle)]
    torch.testing.assert_close(z, torch.tensor(wanted, dtype=torch.float64), rtol=0.0, atol=1e-12)
    trans = x.clone()
    trans[0, 3, :2] *= -1.0 / torch.tensor([np.cos(angle), -np.sin(angle)])
    trans[0, 3, 1] = 0.0
    z = InternalCoordinates(dihedrals=((0, 1, 2, 3),)).environments(trans).z[0]
    torch.testing.assert_close(z, torch.tensor([0.0, -1.0], dtype=torch.float64), rtol=0.0, atol=1e-12)


def test_mirror_images_differ_in_torsions_only():
    x = molecules(2)
    mirror = x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(Distances().environments(mirror).z, Distances().environments(x).z, rtol=0.0, atol=1e-12)
    here, there = INTERNAL.environments(x).z, INTERNAL.environments(mirror).z
    first = len(BONDS) + len(INTERNAL.angles)
    torch.testing.assert_close(there[:, first::2], -here[:, first::2], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(there[:, first + 1 :: 2], here[:, first + 1 :: 2], rtol=0.0, atol=1e-10)


def test_large_molecules_take_the_indexed_path():
    # above the size limit of dense incidence matrices
    beads = 60
    chain = tuple((i, i + 1) for i in range(beads - 1))
    for descriptor in (Distances(), InternalCoordinates(chain, angles_of(chain), dihedrals_of(chain))):
        x = molecules(4, n=2, beads=beads)
        environments = descriptor.environments(x)
        z, _, pullback = descriptor.values_and_pullback(x)
        g = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        torch.testing.assert_close(pullback(g), environments.pull(g, x), rtol=1e-9, atol=1e-9)
    z = Distances().environments(x).z
    i, j = torch.triu_indices(beads, beads, 1)
    torch.testing.assert_close(z, (x[:, j] - x[:, i]).norm(dim=-1), rtol=1e-13, atol=1e-13)


def test_inference_mode_does_not_poison_later_gradients():
    x = molecules(6, beads=5)
    descriptor = InternalCoordinates(((0, 4), (4, 2)), ((0, 4, 2),), ((0, 4, 2, 1),))
    with torch.inference_mode():
        descriptor.values_and_pullback(x)
    y = x.clone().requires_grad_()
    descriptor.values_and_pullback(y)[0].sum().backward()
    assert y.grad.isfinite().all()


@dataclass(frozen=True)
class _FromOrigin(Descriptor):
    """A user's descriptor: only what the base class asks for."""

    def dimension(self, coordinate_shape):
        return coordinate_shape[0]

    def environments(self, coordinates, cell=None):
        n, beads, _ = coordinates.shape
        jacobian = torch.zeros(n, beads, beads, 3, dtype=coordinates.dtype)
        jacobian[:, range(beads), range(beads)] = 2.0 * coordinates
        return Environments(coordinates.square().sum(-1), jacobian.flatten(2))


def test_a_descriptor_needs_only_dimension_and_environments():
    check_against_autograd(_FromOrigin(), molecules(7))
    with pytest.raises(NotImplementedError, match="must define environments"):
        Descriptor().environments(molecules(7))


def test_no_frames():
    empty = torch.zeros(0, 6, 3, dtype=torch.float64)
    for descriptor in SPATIAL:
        z, _, pullback = descriptor.values_and_pullback(empty)
        assert z.shape == (0, descriptor.dimension((6, 3)))
        assert pullback(z).shape == (0, 6, 3)


@pytest.mark.parametrize(
    "descriptor",
    [*SPATIAL, Variables(), Variables((0, 2), (None, 360.0)), PairDistances(3.0, ("A", "B"), ("A", "B"))],
    ids=name,
)
def test_specs_survive_json_and_scikit_learn(descriptor):
    copy = specs.from_dict(json.loads(json.dumps(descriptor.to_dict())), DESCRIPTORS)
    assert copy == descriptor and hash(copy) == hash(descriptor) and repr(copy) == repr(descriptor)
    assert clone(descriptor) == descriptor


def test_specs_accept_lists_and_arrays():
    assert Distances(np.array([[0, 1], [2, 3]])) == Distances(((0, 1), (2, 3)))
    assert hash(Distances([[0, 1]])) == hash(Distances(((0, 1),)))
    assert Variables([1], [6.0]) == Variables((1,), (6.0,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Distances(((0, 0),)), "different bead"),
        (lambda: Distances(((0, 1, 2),)), "2 different"),
        (lambda: Distances(((0, -1),)), "counted from 0"),
        (lambda: Distances(((0, 9),)).environments(molecules(0)), "names bead 9"),
        (lambda: Distances().environments(molecules(0, beads=1)), "no pair"),
        (lambda: Distances().environments(torch.zeros(3, 6)), "Variables"),
        (lambda: Distances().environments(molecules(0), torch.zeros(3, 3).double()), "no volume"),
        (lambda: Distances().environments(molecules(0), torch.eye(3).double().expand(2, 3, 3)), "one per frame"),
        (lambda: InternalCoordinates(), "names no coordinate"),
        (lambda: InternalCoordinates(angles=((0, 1),)), "3 different"),
        (lambda: InternalCoordinates(bonds=((0.7, 1.9),)), "2 different"),
        (lambda: InternalCoordinates(bonds=5), "bonds=5 must be.*2 different"),
        (lambda: PairDistances(0.0), "cutoff=0.0 must be positive"),
        (lambda: PairDistances(3.0, "AB"), "kinds='AB' must be a tuple of 2"),
        (lambda: PairDistances(3.0, ("A", "B")).environments(molecules(0)), "knows no bead kinds"),
        (lambda: PairDistances(3.0, ("A", "B"), ("A",) * 6).environments(molecules(0)), "no bead is of kind"),
        (lambda: Variables().environments(molecules(0)), "Distances"),
        (lambda: Variables((3,)).environments(torch.zeros(2, 3)), "column 3 of 3"),
        (lambda: Variables(periodic=(1.0,)).environments(torch.zeros(2, 3)), "1 periods for 3"),
        (lambda: Variables(periodic=(0.0,)), "positive and finite"),
        (lambda: Variables((1, 1)), "columns=.* different"),
        (lambda: Environments(torch.zeros(4, 2), torch.zeros(4, 3, 2)), "jacobian"),
    ],
)
def test_errors_name_the_culprit(call, words):
    with pytest.raises(DataError, match=words):
        call()
