"""kernelfe.units: parsing, dimensions, and factors at the border."""

from __future__ import annotations

import math

import ase.units
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe import units
from kernelfe.errors import UnitsError
from kernelfe.functionals import OBSERVABLES
from kernelfe.units import factor, parse, quantity_factor, resolve

KJ = ase.units.kJ / ase.units.mol


@pytest.mark.parametrize(
    ("unit", "dimension", "value"),
    [
        ("eV", "energy", 1.0),
        ("meV", "energy", 1e-3),
        ("kJ/mol", "energy", 0.01036427),
        ("kcal/mol", "energy", 0.0433641),
        ("Hartree", "energy", 27.211386),
        ("nm", "length", 10.0),
        ("bohr", "length", 0.5291772),
        ("kJ/mol/nm", "force", 0.001036427),
        ("kJ mol^-1 nm^-1", "force", 0.001036427),
        ("kJ / mol / nm", "force", 0.001036427),
        ("kcal/mol/Å", "force", 0.0433641),
        ("kcal/mol/\u212b", "force", 0.0433641),  # the ångström sign
        ("Hartree/bohr", "force", 51.42207),
        ("kJ/mol/nm²", "eV/Å^2", 1.036427e-4),
        ("kJ/mol/nm**2", "eV/Å²", 1.036427e-4),
        ("bar", "pressure", 6.241509e-7),
        ("GPa", "eV/Å³", 6.241509e-3),
        ("degrees", "angle", math.pi / 180),
        ("kJ/mol/deg", "eV/[t]", 0.01036427 * 180 / math.pi),
        ("dalton", "mass", 1.0),
        ("1/K", "1/K", 1.0),
    ],
)
def test_factors(unit, dimension, value):
    assert factor(unit, dimension) == pytest.approx(value, rel=1e-6)


def test_boltzmann_is_ases():
    assert units.BOLTZMANN == ase.units.kB
    assert units.BOLTZMANN * 300 / KJ == pytest.approx(2.494339, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(a=st.sampled_from(["eV", "kJ/mol", "kcal/mol"]), b=st.sampled_from(["Å", "nm", "bohr"]), n=st.integers(1, 4))
def test_quotients_multiply(a, b, n):
    assert factor(f"{a}/{b}^{n}") == pytest.approx(factor(a) / factor(b) ** n, rel=1e-14)
    assert factor(f"{a}·{b}^-{n}") == pytest.approx(factor(a) / factor(b) ** n, rel=1e-14)


@pytest.mark.parametrize("unit", ["furlong", "kJ/mol/parsec", "", "  ", "eV//Å", "eV^", "2 eV", None, 3, "°C"])
def test_unknown_units(unit):
    with pytest.raises(UnitsError):
        parse(unit)


@pytest.mark.parametrize(
    ("unit", "dimension"),
    [("eV", "length"), ("nm", "energy"), ("kJ/mol/nm", "energy"), ("kJ", "energy"), ("nm", "eV/[t]"), ("K", "energy")],
)
def test_wrong_dimension(unit, dimension):
    with pytest.raises(UnitsError, match="does not measure"):
        factor(unit, dimension)


def test_energy_not_per_mole_names_the_mend():
    with pytest.raises(UnitsError, match="per mole"):
        factor("kJ", "energy")


@pytest.mark.parametrize("key", list(OBSERVABLES))
def test_every_functional_has_a_unit_that_parses_and_is_internal(key):
    functional = OBSERVABLES[key]()
    assert parse(functional.unit)[0] == pytest.approx(1.0, rel=1e-12)
    assert quantity_factor(resolve("ase"), key, functional.unit) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("free_energy", KJ),
        ("mean_force", KJ / 10),
        ("generalized_force", KJ),
        ("heat_capacity", KJ),
        ("energy_variance", KJ**2),
        ("thermal_response_force", KJ / 10),
        ("parameter_derivative", KJ),
        ("parameter_response_force", KJ / 10),
        ("stress", KJ / 1000),
        ("excess_pressure", KJ / 1000),
    ],
)
def test_label_factors_follow_the_functional(key, value):
    stated = resolve({"energy": "kJ/mol", "length": "nm", "temperature": "K"})
    assert quantity_factor(stated, key, OBSERVABLES[key]().unit) == pytest.approx(value, rel=1e-12)


def test_force_and_single_quantities_win():
    stated = resolve({"energy": "eV", "length": "Å", "force": "kJ/mol/nm", "mean_energy": "kcal/mol"}, ("mean_energy",))
    assert quantity_factor(stated, "mean_force", "eV/Å") == pytest.approx(KJ / 10)
    assert quantity_factor(stated, "thermal_response_force", "eV/Å/K") == pytest.approx(KJ / 10)
    assert quantity_factor(stated, "mean_energy", "eV") == pytest.approx(4.184 * KJ)
    assert quantity_factor(stated, "free_energy", "eV") == 1.0


def test_none_means_internal():
    assert resolve(None) is None and resolve({}) is None
    assert quantity_factor(None, "mean_force", "eV/Å") == 1.0


def test_what_is_not_stated_is_an_error():
    with pytest.raises(UnitsError, match="length"):
        quantity_factor(resolve({"energy": "kJ/mol"}), "mean_force", "eV/Å")
    with pytest.raises(UnitsError, match="unknown key 'forces'"):
        resolve({"forces": "eV/Å"})
    with pytest.raises(UnitsError, match="unit system"):
        resolve("imperial")
    with pytest.raises(UnitsError, match="does not measure"):
        resolve({"energy": "nm"})
    with pytest.raises(UnitsError, match="does not measure"):
        quantity_factor(resolve({"mean_force": "kJ/mol"}, ("mean_force",)), "mean_force", "eV/Å")


@pytest.mark.parametrize("name", list(units.SYSTEMS))
def test_named_systems(name):
    assert quantity_factor(resolve(name), "mean_force", "eV/Å") > 0
