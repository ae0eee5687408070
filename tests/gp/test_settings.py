"""Numbers that change results: fields with bounds, which files carry and which files of before lack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernelfe import FreeEnergyRegressor, Iterative, Term, load
from kernelfe.errors import DataError
from kernelfe.gp import BoltzmannInversion, CorrelatedNoise
from kernelfe.gp.fitted.domain import Domain, DomainSettings
from kernelfe.gp.fitted.ensemble import SamplingSettings
from kernelfe.gp.solvers.iterative.settings import PreconditionerSettings
from kernelfe.gp.solvers.sparse.check import CheckSettings
from kernelfe.specs import from_dict
from kernelfe.units import BOLTZMANN

from .systems import molecule, one_term

CHANGED = [
    BoltzmannInversion(prior_frames=3.0, prior_widths=(0.1, 0.2, 0.3), widest_improper=0.5, wall_energy=0.2),
    CorrelatedNoise(shrinkage=(0.1, 1.0), folds=3, sample=50, balanced=0.01),
    Iterative(evidence_error=0.1),
    Term(prior_width=1.0),
    DomainSettings(reach=4.0, anchors=32),
    SamplingSettings(widths=(1.0,), points=(8,)),
    PreconditionerSettings(most=None),
    CheckSettings(rows=300),
]


@pytest.mark.parametrize("spec", CHANGED, ids=lambda spec: type(spec).__name__)
def test_fields_survive_and_default_where_a_file_lacks_them(spec):
    data = spec.to_dict()
    classes = {type(spec).__name__: type(spec)}
    assert from_dict(data, classes) == spec
    plain = type(spec)()
    kept = {name: data[name] for name in data if name == "class" or getattr(spec, name) == getattr(plain, name)}
    assert len(kept) < len(data) and from_dict(kept, classes) == plain


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (BoltzmannInversion, "prior_frames", 0.0),
        (BoltzmannInversion, "prior_widths", (0.1, 0.1)),
        (CorrelatedNoise, "shrinkage", ()),
        (CorrelatedNoise, "folds", 1),
        (Iterative, "evidence_error", 0.0),
        (Term, "prior_width", 0.0),
        (DomainSettings, "time_blocks", 1),
        (PreconditionerSettings, "inwards", 1.5),
    ],
)
def test_bounds(cls, field, value):
    with pytest.raises(DataError, match=field):
        cls(**{field: value})


def test_numbers_of_the_baseline_are_used():
    frames = molecule(30)
    x, t = np.array(frames.positions), np.array(frames.temperature)
    plain, high = BoltzmannInversion().fit(x, t), BoltzmannInversion(wall_energy=0.3).fit(x, t)
    assert high.wall_energy == pytest.approx(3.0 * plain.wall_energy)
    stiff = BoltzmannInversion(prior_frames=1e6, prior_widths=(0.02, 0.1, 0.1)).fit(x, t)
    for k, _ in stiff.bond_parameters:
        assert k == pytest.approx(BOLTZMANN / np.mean(1.0 / t) / 0.02**2, rel=0.01)


def test_the_prior_of_a_narrow_term_is_stronger():
    wide, narrow = (
        FreeEnergyRegressor(replace(one_term(), prior_width=width), "dense", False, None).fit(molecule(4))
        for width in (2.0, 1.0)
    )
    for model in (wide, narrow):
        (term,) = (term for _, term in model.terms_)
        with torch.no_grad():
            term.log_scales += 1.0
    first, second = (float(model.terms_[0][1].hyperprior()) for model in (wide, narrow))
    assert second == pytest.approx(4.0 * first) and first < 0.0


def test_the_mean_function_of_a_file_keeps_its_number(tmp_path):
    model = FreeEnergyRegressor(one_term(), "dense", False, None).fit(molecule(4))
    model.posterior_.prior.mean = replace(model.posterior_.prior.mean, change=0.1)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").posterior_.prior.mean.change == 0.1


def test_settings_of_a_domain_are_used():
    frames = molecule(12)
    terms = [term for _, term in FreeEnergyRegressor(one_term(), "dense", False, None).fit(frames).terms_]
    domain = Domain.of(terms, frames, DomainSettings(margin=9.0, anchors=3, pairs=2))
    assert domain.margin == 9.0 and len(domain.anchors[0]) == 3 and len(domain.pairs) == 2
    assert len(domain.extended(molecule(3, seed=5)).anchors[0]) <= 6
