"""Terms marked as fixed keep their numbers; the last fit of scales and noise uses everything."""

import numpy as np
import pytest

import kernelfe
from kernelfe.kernels import RBF, SecondOrder


def frames(n=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 2))
    force = -np.stack([np.cos(x[:, 0]), -np.sin(x[:, 1])], 1)
    return kernelfe.Frames.from_arrays(
        variables=x, temperature=300.0, labels={"mean_force": force + 0.05 * rng.normal(size=force.shape)}
    )


@pytest.mark.parametrize("solver", ["dense", kernelfe.Sparse(inducing=40, evidence_inducing=20)])
def test_fixed_term_keeps_its_numbers_while_another_is_fitted(solver):
    thermal = SecondOrder(reference_temperature=300.0, energy=0.02, entropy=1e-4, heat_capacity=1e-4)
    fixed = kernelfe.Term(kernel=RBF(0.5), thermal=thermal, fixed=True)
    free = kernelfe.Term(kernel=RBF(1.0), thermal=thermal)
    model = kernelfe.FreeEnergyRegressor(terms=[("fixed", fixed), ("free", free)], solver=solver).fit(frames())
    fitted = dict(model.fitted_terms())
    assert fitted["fixed"].kernel.lengthscale == pytest.approx(0.5, rel=1e-12)
    assert fitted["fixed"].thermal.energy == pytest.approx(0.02, rel=1e-12)
    free = fitted["free"].thermal  # at one temperature u and −T s are the same function: look at their sum
    assert np.hypot(free.energy, 300.0 * free.entropy) > 0.1
    assert fitted["fixed"].fixed


def test_final_fit_of_the_scales_raises_the_evidence():
    def evidence(iterations):
        solver = kernelfe.Sparse(inducing=60, evidence_inducing=5, final_iterations=iterations)
        model = kernelfe.FreeEnergyRegressor(solver=solver).fit(frames())
        return model.noise_["mean_force"][0], model.score(frames(seed=1))

    (few_noise, few_score), (noise, score) = evidence(1), evidence(30)
    # five inducing environments cannot represent A: their fit mistakes signal for noise
    assert abs(noise - 0.05) < 0.01 < abs(few_noise - 0.05)
    assert score >= few_score
