"""The tools of scikit-learn around the estimator: what people do with any other regressor."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.kernels import RBF, SecondOrder

THERMAL = SecondOrder(reference_temperature=300.0, energy=0.5, entropy=1e-4, heat_capacity=1e-5)


def model(**arguments):
    return FreeEnergyRegressor(Term(kernel=RBF(lengthscale=1.0), thermal=THERMAL), optimizer=None, **arguments)


def surface(x):
    return 0.3 * np.sin(x[:, 0]) + 0.1 * x[:, 1] ** 2


@pytest.fixture
def data():
    x = np.random.default_rng(0).uniform(-2.0, 2.0, (80, 2))
    return x, surface(x) + 0.01 * np.random.default_rng(1).standard_normal(80)


@pytest.fixture
def frames(data):
    """Three trajectories of forces."""
    x, _ = data
    force = -np.stack([0.3 * np.cos(x[:, 0]), 0.2 * x[:, 1]], 1)
    noise = 0.02 * np.random.default_rng(2).standard_normal(force.shape)
    return Frames.from_arrays(variables=x, temperature=300.0, labels={"mean_force": force + noise})


def test_cross_val_score(data, frames):
    assert cross_val_score(model(noise={"free_energy": 0.01}), *data, cv=4).min() > 0.95
    assert cross_val_score(model(noise={"mean_force": 0.02}), frames, cv=4).min() > 0.95


def test_group_k_fold_by_trajectory(frames):
    trajectory = np.repeat([0, 1, 2, 3], 20)
    scores = cross_val_score(model(noise={"mean_force": 0.02}), frames, cv=GroupKFold(4), groups=trajectory)
    assert len(scores) == 4 and scores.min() > 0.95


def test_grid_search_finds_the_better_kernel_parameter(data, frames):
    grid = {"terms__kernel__lengthscale": [0.02, 1.0]}
    for arguments, noise in ((data, {"free_energy": 0.01}), ((frames,), {"mean_force": 0.02})):
        search = GridSearchCV(model(noise=noise), grid, cv=3).fit(*arguments)
        assert search.best_params_ == {"terms__kernel__lengthscale": 1.0}
        assert search.best_estimator_.terms.kernel.lengthscale == 1.0


def test_learning_curve_rises(data):
    sizes, _, scores = learning_curve(model(noise={"free_energy": 0.01}), *data, train_sizes=[6, 20, 50], cv=4)
    assert sizes.tolist() == [6, 20, 50]
    assert (np.diff(scores.mean(1)) > 0.0).all() and scores[-1].mean() > 0.97


def test_pipeline_with_a_scaler_on_plain_arrays(data):
    x, y = data
    far = 100.0 * x + [1000.0, -500.0]  # hopeless at a length scale of 1 without the scaler
    alone = cross_val_score(model(noise={"free_energy": 0.01}), far, y, cv=4).mean()
    together = cross_val_score(make_pipeline(StandardScaler(), model(noise={"free_energy": 0.01})), far, y, cv=4)
    assert alone < 0.3 < 0.95 < together.min()
    fitted = make_pipeline(StandardScaler(), FreeEnergyRegressor()).fit(far, y)
    mean, std = fitted.predict(far[:5], return_std=True)
    assert mean.shape == std.shape == (5,) and (std > 0.0).all()
