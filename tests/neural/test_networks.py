"""Both networks: functionals against autodiff of the energy, invariances, thermodynamic identities, protocols."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kernelfe import Frames, NeuralFreeEnergyRegressor, functionals
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.errors import DataError
from kernelfe.neural import MLP, MessagePassing, TemperatureInput, Training
from kernelfe.neural.message_passing import QUADRUPOLES, Edges, harmonics
from kernelfe.testing import check_model

SHORT = Training(epochs=3, batch=20, held_out=0.2, blocks=5)
SMALL = {"mlp": MLP(hidden=(8, 8)), "message": MessagePassing(cutoff=4.0, channels=3, basis=4, hidden=8)}
KINDS = ("A", "B", "A", "C", "B")
SCALAR = ("free_energy", "mean_energy", "entropy", "heat_capacity", "energy_variance")


def chain(n=40, seed=0, cell=None, beads=5):
    """Frames of a wobbling chain with smooth labels, some displacement fields, three temperatures."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.tile([[0.9, 0.9, 0.4], [0.9, -0.8, 0.3]], (3, 1))[:beads], 0) + 0.15 * rng.normal(
        size=(n, beads, 3)
    )
    t = np.repeat([300.0, 350.0, 400.0], [n // 3, n // 3, n - 2 * (n // 3)])
    force = 0.1 * rng.normal(size=x.shape)
    labels = {
        "mean_force": force,
        "mean_energy": -5.0 + 0.002 * t + 0.01 * rng.normal(size=n),
        "generalized_force": 0.1 * rng.normal(size=(n, 2)),
    }
    more = {"displacements": rng.normal(size=(n, 2, beads, 3)), "kinds": KINDS[:beads]}
    if cell is not None:
        more["cell"] = np.broadcast_to(cell, (n, 3, 3))
    return Frames.from_arrays(x, temperature=t, labels=labels, **more)


CELL = np.array([[7.0, 0.0, 0.0], [0.5, 6.5, 0.0], [0.2, -0.3, 7.2]])


@pytest.fixture(scope="module")
def fitted():
    """Short fits of both networks, with both thermal parts and members of an ensemble, with and without a cell."""

    def fit(network, **options):
        frames = chain(cell=options.pop("cell", None), beads=options.pop("beads", 5))
        model = NeuralFreeEnergyRegressor(network, training=SHORT, members=2, **options).fit(frames)
        rough(model)
        return SimpleNamespace(model=model, frames=frames)

    out = {name: fit(spec, baseline=False) for name, spec in SMALL.items()}
    out["mlp input"] = fit(SMALL["mlp"], thermal=TemperatureInput())
    out["message input"] = fit(SMALL["message"], thermal=TemperatureInput(), baseline=False)
    out["concave"] = fit(SMALL["mlp"], concave=True)
    out["periodic"] = fit(SMALL["message"], cell=CELL, beads=3, baseline=False)
    pairs = MLP(PairDistances(3.0), hidden=(8,))
    out["pairs"] = fit(pairs, cell=CELL, beads=3, baseline=False)
    return out


def rough(model):
    """Larger weights: three epochs leave an almost constant network, on which tests of derivatives prove little."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for member in model.model_.members:
            for p in member.network.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def by_autodiff(member, functional, frames):
    """A functional by nested automatic differentiation of the energy of one network, from its definition."""
    x = torch.tensor(frames.coordinates).requires_grad_()
    t = torch.tensor(frames.temperature).requires_grad_()
    cell = None if frames.cell is None else torch.tensor(frames.cell)
    y, box = x, cell
    if cell is not None:
        voigt = torch.zeros(len(x), 6, dtype=x.dtype, requires_grad=True)
        xx, yy, zz, yz, xz, xy = voigt.unbind(1)
        strain = torch.stack([xx, xy / 2, xz / 2, xy / 2, yy, yz / 2, xz / 2, yz / 2, zz], 1).reshape(
            -1, 3, 3
        ) + torch.eye(3, dtype=x.dtype)
        y, box = x @ strain, cell @ strain
    a = [member.energy(y, box, t, x.new_zeros(len(x), 0))]
    for _ in range(2):
        a.append(torch.autograd.grad(a[-1].sum(), t, create_graph=True)[0])
    total = sum(c * t**p * a[n] for read in functional.reads for c, p, n in read.thermal)
    if functional.spatial is functionals.Spatial.VALUE:
        return total[:, None]
    if functional.spatial.needs_cell:
        (slope,) = torch.autograd.grad(total.sum(), voigt)
        slope = slope if functional.spatial is functionals.Spatial.STRAIN else slope[:, :3].sum(1, keepdim=True) / 3
        return slope / torch.linalg.det(cell)[:, None]
    (slope,) = torch.autograd.grad(total.sum(), x)
    if functional.spatial is functionals.Spatial.GRADIENT:
        return slope.flatten(1)
    return torch.einsum("nkbx,nbx->nk", torch.tensor(frames.displacements), slope)


@pytest.mark.parametrize("name", ["mlp", "message", "mlp input", "message input", "concave", "periodic"])
def test_functionals_are_those_of_the_energy(fitted, name):
    """Values, gradients, displacement fields, strain and volume, times every thermal operator, to 1e-8."""
    model, frames = fitted[name].model.model_, fitted[name].frames[::9]
    keys = [k for k in functionals.OBSERVABLES if not k.startswith("parameter")]
    keys = keys if frames.cell is not None else [k for k in keys if not functionals.get(k).spatial.needs_cell]
    for key in keys:
        functional = functionals.get(key)
        states = model.states(frames)
        found = model.members[1].read(functional, states).detach()
        exact = by_autodiff(model.members[1], functional, frames).detach()
        assert found.shape == exact.shape
        assert torch.allclose(found, exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max())), key
        assert float(exact.abs().max()) > 0, key


@pytest.mark.parametrize("name", ["mlp", "message"])
def test_invariances(fitted, name):
    """Translation and rotation; permutation of like beads for message passing. To 1e-8 in float64."""
    model, frames = fitted[name].model, fitted[name].frames[:6]
    x = frames.positions
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    frozen = model.frozen()
    energy, forces = (v.numpy() for v in frozen.energy_and_forces(torch.tensor(x), 320.0))
    moved = torch.tensor(x @ q.T + [3.0, -1.0, 2.0])
    e2, f2 = (v.numpy() for v in frozen.energy_and_forces(moved, 320.0))
    assert np.allclose(e2, energy, rtol=0, atol=1e-8) and np.allclose(f2, forces @ q.T, rtol=0, atol=1e-8)
    if name == "message":
        order = [2, 4, 0, 3, 1]  # A and B swapped among themselves
        e3, f3 = frozen.energy_and_forces(torch.tensor(x[:, order]), 320.0)
        assert np.allclose(e3, energy, rtol=0, atol=1e-8) and np.allclose(f3, forces[:, order], rtol=0, atol=1e-8)


def test_periodic_images(fitted):
    """Wrapping beads, and doubling the cell, change nothing; neighbours at the cutoff come and go smoothly."""
    model, frames = fitted["periodic"].model, fitted["periodic"].frames[:2]
    x, frozen = torch.tensor(frames.positions), model.frozen()
    cell = torch.tensor(frames.cell)
    energy, forces, stress = frozen.energy_forces_stress(x, cell, 320.0)
    y = x.clone()
    y[:, 1] += cell[:, 0] - 2 * cell[:, 2]
    other = frozen.energy_forces_stress(y, cell, 320.0)
    for a, b in zip(other, (energy, forces, stress), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-8)


def test_edges_vanish_smoothly_at_the_cutoff():
    spec = MessagePassing(cutoff=3.0)
    r = torch.tensor([2.999], dtype=torch.float64, requires_grad=True)
    x = torch.stack([torch.zeros(3, dtype=torch.float64), torch.cat([r, r.new_zeros(2)])])[None]
    value = Edges(x, None, torch.ones(2, 1, dtype=torch.float64), spec).envelope[0]
    step = 0.001 / 3.0  # 1 − u: the envelope is 56 (1 − u)³ near its end
    for expected in (56 * step**3, -56 * step**2, 112 / 3 * step):
        assert float(value.detach()) == pytest.approx(expected, rel=0.02)
        (value,) = torch.autograd.grad(value, r, create_graph=True)


def test_harmonics():
    """Unit norm per degree, and the matrices of l = 2 give back the vector."""
    v = torch.randn(20, 3, dtype=torch.float64)
    unit = v / v.norm(dim=1, keepdim=True)
    first, second = harmonics(unit)
    assert torch.allclose((first**2).sum(1), torch.ones(20, dtype=torch.float64))
    assert torch.allclose((second**2).sum(1), torch.ones(20, dtype=torch.float64))
    matrix = torch.einsum("em,mxy->exy", second, torch.tensor(QUADRUPOLES, dtype=torch.float64))
    assert torch.allclose(matrix + torch.eye(3) / 3, unit[:, :, None] * unit[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "message", "mlp input", "periodic", "pairs"])
def test_contract_of_models(fitted, name):
    """The checks of protocols: of the frozen model, and of the estimator as a calculator uses it."""
    from kernelfe.calculators.fitted import FittedModel

    model, frames = fitted[name].model, fitted[name].frames
    if frames.cell is not None:
        check_model(model.frozen(), frames.positions[:2], 320.0, cell=CELL)
        return
    check_model(model.frozen(), frames.positions[:2], 320.0)
    check_model(FittedModel(model), frames.positions[:2], 320.0)


def test_descriptor_without_a_graph(fitted):
    """Own Jacobians serve where torch cannot differentiate; a second derivative by positions is then NaN, not wrong."""
    model = fitted["mlp"].model.model_.members[0]
    x = torch.tensor(fitted["mlp"].frames.positions[:3]).requires_grad_()
    t, none = torch.full((3,), 320.0, dtype=torch.float64), x.new_zeros(3, 0)
    assert model.network.native
    slopes, mixed = [], []
    weight = next(model.network.parameters())
    for model.network.native in (True, False):
        (slope,) = torch.autograd.grad(model.energy(x, None, t, none).sum(), x, create_graph=True)
        slopes.append(slope)
        mixed.append(torch.autograd.grad(slope.square().sum(), weight, retain_graph=True)[0])
    model.network.native = True
    assert torch.allclose(*slopes, rtol=1e-10) and torch.allclose(*mixed, rtol=1e-10)
    assert torch.isnan(torch.autograd.grad(slopes[1].sum(), x)[0]).all()


def test_concave_by_construction(fitted):
    c = fitted["concave"].model.predict(fitted["concave"].frames, "heat_capacity")
    assert (c > 0).all()
    with pytest.raises(DataError, match="SecondOrder"):
        NeuralFreeEnergyRegressor(concave=True, thermal=TemperatureInput(), training=SHORT).fit(chain(12))


def test_many_environments_per_frame(fitted):
    """Pairs in a cell: several environments per frame, with strain."""
    case = fitted["pairs"]
    stress = case.model.predict(case.frames[:3], "stress")
    pressure = case.model.predict(case.frames[:3], "excess_pressure")
    assert np.allclose(pressure, -stress[:, :3].sum(1) / 3)


def test_wrong_networks_are_refused():
    frames = chain(12)
    for network, message in ((Distances(), "MLP"), (MLP(PairDistances(3.0, ("Q", "Q"))), None)):
        with pytest.raises(DataError, match=message):
            NeuralFreeEnergyRegressor(network, training=SHORT).fit(frames)
    variables = Frames.from_arrays(variables=np.zeros((4, 2)), temperature=300.0, labels={"free_energy": np.zeros(4)})
    with pytest.raises(DataError, match="MLP"):
        NeuralFreeEnergyRegressor(MessagePassing(), training=SHORT).fit(variables)
    with pytest.raises(DataError, match="descriptor"):
        NeuralFreeEnergyRegressor(MLP(), training=SHORT).fit(chain(12, cell=CELL))
    with pytest.raises(DataError, match="members"):
        NeuralFreeEnergyRegressor(members=0, training=SHORT).fit(frames)
    with pytest.raises(DataError, match="one molecule"):
        NeuralFreeEnergyRegressor(training=SHORT).fit([frames, chain(12, beads=4)])
