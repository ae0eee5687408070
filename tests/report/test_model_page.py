from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.errors import DataError
from kernelfe.report import model_page
from kernelfe.report.model import temperature_warnings


def frames(temperature=(300.0, 400.0), scale=1.0):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (60, 1))
    return kernelfe.Frames.from_arrays(
        variables=x,
        temperature=np.resize(temperature, 60),
        labels={"mean_force": -0.3 * x + scale * rng.normal(scale=0.05, size=x.shape)},
    )


@pytest.fixture(scope="module")
def model():
    return kernelfe.FreeEnergyRegressor().fit(frames())


def test_page_shows_parity_beside_the_noise(model):
    page, numbers = model_page(model, frames(), "mine.kfe", {"kernelfe": "0"})
    assert numbers["mean_force"]["noise_floor"] == pytest.approx(0.05, rel=0.3)
    assert numbers["mean_force"]["z_rms"] == pytest.approx(1.0, abs=0.25)
    text = page.render()
    assert "Are the error bars right?" in text and text.count("<figure>") == 2
    assert "mine.kfe" in text and "What the evidence found" in text and "Learned noise" in text
    assert "Handedness: not tested" in text
    assert 'class="warning"' not in text


def test_page_warns_of_wrong_error_bars_and_of_temperatures(model):
    text = model_page(model, frames((300.0, 700.0), scale=5.0), "m", {})[0].render()
    assert "too small" in text and "700 K lie outside the training temperatures (300 to 400 K)" in text
    single = kernelfe.FreeEnergyRegressor(optimizer=None).fit(frames((350.0,)))
    assert "energies at one temperature do not determine A" in temperature_warnings(single, frames((350.0,)))[0]


def test_frames_without_comparable_labels_are_refused(model):
    bare = frames().drop_labels()
    with pytest.raises(DataError, match="no label whose noise is known"):
        model_page(model, bare, "m", {})
