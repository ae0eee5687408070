"""Estimating correlated noise from the residuals of a fit, and alternating the two.

The covariance of the residuals r of the training labels is C − V with V the posterior covariance of what the labels
read: the fit takes part of the noise with it. Mean r rᵀ + V is therefore an unbiased estimate, and the update of an
expectation–maximisation of the evidence (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1 (1977)). It is shrunk
toward the diagonal by as much as gives left-out frames the largest likelihood. (The formula of Ledoit and Wolf, J.
Multivar. Anal. 88, 365 (2004), minimises the error of the covariance itself; among forces with correlations of 0.95 it
doubles the small eigenvalues, and these are what whitening divides by.) The size of the noise is learned again by the
evidence of the whitened labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.model_selection import GridSearchCV
from torch import Tensor

from ...errors import DataError
from ...functionals import GeneralizedForce, Spatial, get
from ...geometry.axes import choose_arms
from ...linalg.autocorrelation import autocovariance, integrated_time
from ..observations.labels import WHITENED, LabelSet
from ..observations.levels import NoiseLevels
from ..observations.noise import CorrelatedNoise
from ..posterior import predict_mean
from ..prior.rows import frame_chunks
from .model import FittedNoise, Layout, Together, is_energy, is_force, together


@torch.no_grad()
def residuals(posterior, label: LabelSet, at_once: int = 1024) -> Tensor:
    """y − posterior mean, shape (n, m), of ``at_once`` frames at a time."""
    parts = []
    for start, stop in frame_chunks(len(label.y), at_once):
        index = slice(start, stop)
        rows = label.rows(posterior.prior, index)
        parts.append(label.y[index] - predict_mean(posterior, rows).reshape(-1, label.y.shape[1]))
    return torch.cat(parts)


def estimate(
    spec: CorrelatedNoise, labels: list[LabelSet], posterior, noise: NoiseLevels, previous: FittedNoise | None
) -> FittedNoise:
    """The noise of ``labels``, given a posterior that was fitted with the levels ``noise`` on top of ``previous``.

    Raises
    ------
    DataError
        If there are too few frames to estimate the covariance of their forces.
    """
    forces = [label for label in labels if is_force(label)]
    if not forces or not (spec.within_frame or spec.force_energy):
        return FittedNoise(spec, None, torch.zeros(0, 0, dtype=torch.float64), (), noise.reference, {})
    exponents, values = {}, noise.values()
    groups = together(forces)
    whitened = values.get(WHITENED + groups[0].name, (1.0, 0.0))[1]
    for label in forces:
        own = values[label.kind][1] if label.kind in values else whitened
        if previous is not None and label.kind not in values:
            own += previous.exponents[int(previous.layout.columns([label.kind])[0])]  # type: ignore[union-attr]
        exponents[label.kind] = own
    if not spec.within_frame:
        layout = Layout(tuple(label.kind for label in forces), tuple(label.y.shape[1] for label in forces))
        std = [values[label.kind][0] for label in forces for _ in range(label.y.shape[1])]
        covariance = torch.diag(torch.tensor(std, dtype=torch.float64) ** 2)
    else:
        layout, covariance = _within_frame(spec, forces, groups[0], posterior, exponents, noise.reference, previous)
    p = tuple(exponents[kind] for kind, size in zip(layout.kinds, layout.sizes, strict=True) for _ in range(size))
    out = FittedNoise(spec, layout, covariance, p, noise.reference, {})
    return replace(out, coupling=_coupling(out, labels, posterior)) if spec.force_energy else out


def _coupling(noise: FittedNoise, labels: list[LabelSet], posterior) -> float:
    """κ: the coefficient of residuals of energies on β times those of the forces, if it is two errors below one."""
    product, square, own = 0.0, 0.0, []
    forces = {label.kind: label for label in labels if is_force(label)}
    for label in filter(is_energy, labels):
        assert label.frame is not None and noise.layout is not None
        for group in together(list(forces.values())):
            both = torch.isin(label.frame, group.frame)
            if not bool(both.any()):
                continue
            at = torch.searchsorted(group.frame, label.frame[both])
            states, r = group.states[at], {}
            for kind in group.kinds:
                where = torch.searchsorted(forces[kind].frame, group.frame[at])
                r[kind] = residuals(posterior, forces[kind].subset(where))
            beta = noise.regression(
                group.kinds, states.temperature, noise.layout.response(group.kinds, states, posterior)
            )
            weight = noise.reference / states.temperature
            x = weight * (beta * noise.layout.stack(r, states)).sum(1)
            y = weight * residuals(posterior, label.subset(torch.nonzero(both)[:, 0]))[:, 0]
            product, square = product + float(x @ y), square + float(x @ x)
            own.append((x, y))
    if square == 0.0:
        return 1.0
    k = product / square
    # of heteroscedastic noise (White, Econometrica 48, 817 (1980))
    error = sum(float(((y - k * x) ** 2 * x**2).sum()) for x, y in own) ** 0.5 / square
    return 1.0 if k > 1.0 - 2.0 * error else min(1.0, max(0.0, k))


def _within_frame(
    spec: CorrelatedNoise, forces, group: Together, posterior, exponents, reference, previous
) -> tuple[Layout, Tensor]:
    states, m = group.states, sum(y.shape[1] for y in group.values.values())
    if states.cell is not None:
        raise DataError(
            "CorrelatedNoise(within_frame=True) learns the covariance of all forces of a frame, which is for molecules "
            "and variables: pass within_frame=False for frames with a cell"
        )
    if len(group.kinds) < len(forces) or len(group.frame) < 2 * m:
        raise DataError(
            f"the covariance of {m} forces of a frame cannot be learned from {len(group.frame)} frames that have "
            f"{' and '.join(label.kind for label in forces)}: give at least {2 * m}, or pass within_frame=False"
        )
    residual = {}
    for label in forces:
        at = torch.searchsorted(label.frame, group.frame)
        residual[label.kind] = residuals(posterior, label.subset(at))
    sizes = tuple(residual[kind].shape[1] for kind in group.kinds)
    if previous is not None:
        layout = previous.layout
        found = _second_moment(spec, layout, group, residual, posterior, exponents, reference)
        return layout, found
    layout = Layout(group.kinds, sizes)
    if states.coordinates.ndim == 3 and states.coordinates.shape[1] > 2:
        layout = replace(layout, arms=choose_arms(states.coordinates.numpy()))
    found = _second_moment(spec, layout, group, residual, posterior, exponents, reference)
    cartesian = next((kind for kind in group.kinds if get(kind).spatial is Spatial.GRADIENT), None)
    if cartesian is None or layout.arms is None:
        return layout, found
    y = group.values[cartesian].unflatten(1, (-1, 3))
    if float(y.sum(1).square().mean()) > spec.balanced**2 * float(y.square().mean()):
        return layout, found
    # the forces add up to zero: one bead is redundant, and the one without which the others vary least together (the
    # volume elements are the same) leaves the likeliest description
    columns, best = layout.columns([cartesian]), (np.inf, 0, found)
    for bead in range(y.shape[1]):
        kept = torch.ones(len(found), dtype=torch.bool)
        kept[columns[3 * bead : 3 * bead + 3]] = False
        without = found[kept][:, kept]
        size = float(torch.linalg.slogdet(without)[1])
        if size < best[0]:
            best = (size, bead, without)
    sizes = tuple(size - 3 * (kind == cartesian) for kind, size in zip(layout.kinds, sizes, strict=True))
    return replace(layout, sizes=sizes, dropped=best[1]), best[2]


@torch.no_grad()
def _second_moment(
    spec: CorrelatedNoise, layout: Layout, group: Together, residual, posterior, exponents, reference
) -> Tensor:
    """C₀: the shrunk mean of r rᵀ + V, brought to the reference temperature."""
    p = torch.cat(
        [torch.full((s,), exponents[k], dtype=torch.float64) for k, s in zip(layout.kinds, layout.sizes, strict=True)]
    )
    scale = (group.states.temperature[:, None] / reference) ** p
    r = layout.stack(residual, group.states) / scale
    sample = torch.from_numpy(np.unique(np.linspace(0, len(r) - 1, min(len(r), spec.sample)).astype(int)))
    states, m, total = group.states[sample], r.shape[1], r.new_zeros(r.shape[1], r.shape[1])
    for start, stop in frame_chunks(len(states), max(1, posterior.covariance_rows // m)):
        part = states[start:stop]
        unit = torch.eye(m, dtype=torch.float64) / scale[sample[start:stop]][:, :, None]
        part = replace(part, fields=layout.fields(layout.kinds, part, unit), _environments={})
        rows = posterior.prior.rows(GeneralizedForce(), part)
        v = posterior.covariance(rows, rows).reshape(len(part), m, len(part), m)
        total += v.diagonal(dim1=0, dim2=2).sum(-1)
    moment = r.T @ r / len(r) + total / len(states)
    moment = 0.5 * (moment + moment.mT)  # products are symmetric to rounding only
    std = moment.diagonal().sqrt()
    if not bool((std > 0).all()):
        raise DataError("a force label has no noise at all in any frame: state its noise instead of having it learned")
    search = GridSearchCV(ShrunkCovariance(assume_centered=True), {"shrinkage": spec.shrinkage}, cv=spec.folds)
    shrinkage = float(search.fit((r / std).numpy()).best_params_["shrinkage"])
    return (1.0 - shrinkage) * moment + shrinkage * torch.diag(std**2)


def statistical_inefficiency(series: list[Tensor]) -> Tensor:
    """g = 1 + 2 Σ ρ(t) ≥ 1 of the columns of some trajectories with mean zero, shape (m,).

    Autocovariances are summed over the trajectories, and ρ is cut as in
    :func:`kernelfe.statistics.autocorrelation_time` (Geyer 1992). A correlation of neighbours below two of its standard
    errors passes for none: with g ≥ 1 its scatter would only ever take weight away. Trajectories shorter than 4 say
    nothing.

    Parameters
    ----------
    series
        Shapes (n_k, m), in time order.
    """
    long = [x.numpy() for x in series if len(x) > 3]
    if not long:
        return torch.ones(())
    covariance = autocovariance(long)
    rho = covariance / covariance[:1].clip(1e-300)
    seen = np.abs(rho[1]) > 2.0 / sum(len(x) for x in long) ** 0.5
    return torch.from_numpy(np.where(seen, (2.0 * integrated_time(rho)).clip(1.0), 1.0))


def weigh_by_time(spec: CorrelatedNoise, labels: list[LabelSet], posterior, layout: Layout | None) -> dict[str, float]:
    """Give labels of learned noise their weights 1/g, in place; returns the mean g by kind."""
    out: dict[str, float] = {}
    if spec.time is False:
        return out
    for label in labels:
        if not label.learned:
            continue
        if isinstance(spec.time, bool):
            g = _measured(label, residuals(posterior, label))
        else:
            g = _given(spec.time, label, layout)
        if bool((g > 1.0).any()):
            label.noise = label.noise.tempered((1.0 / g).expand(label.y.shape).contiguous())
        out[label.kind] = float(g.expand(label.y.shape).mean())
    return out


def _measured(label: LabelSet, residual: Tensor) -> Tensor:
    """g of every row, (n, m); components of whitened labels one by one, of others together."""
    states = torch.stack([label.states.temperature, *label.states.parameters.values()], 1)
    _, which = torch.unique(states, dim=0, return_inverse=True)
    g = torch.ones_like(residual)
    for k in range(int(which.max()) + 1):
        x = residual[which == k]
        if label.whitened:
            g[which == k] = statistical_inefficiency([x]).to(g)
        else:
            g[which == k] = statistical_inefficiency(_columns(x)).to(g)
    return g


def _columns(x: Tensor) -> list[Tensor]:
    """Components of one label as trajectories of the same thing."""
    return [column[:, None] for column in x.T]


def _given(time, label: LabelSet, layout: Layout | None) -> Tensor:
    if label.whitened:
        assert layout is not None
        sizes = [(kind, size) for kind, size in zip(layout.kinds, layout.sizes, strict=True) if kind in label.origin]
        return torch.cat([torch.full((size,), float(time.get(kind, 1.0))) for kind, size in sizes]).double()
    return torch.tensor([float(time.get((*label.origin, label.kind)[0], 1.0))], dtype=torch.float64)


def starting_levels(labels: list[LabelSet], noise: NoiseLevels) -> dict[str, float]:
    """Starting levels of the learned noise of transformed labels: one when whitened, else as before."""
    known, out = noise.values(), {}
    for label in labels:
        if label.learned:
            plain = known.get(label.kind, known.get((*label.origin, label.kind)[0]))
            out[label.kind] = 1.0 if plain is None or label.whitened else plain[0]
    return out
