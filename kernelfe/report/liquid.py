"""The section of a report about a liquid: structure and pressure of a model beside all-atom frames."""

from __future__ import annotations

from ..analysis.liquids import (
    Comparison,
    LiquidComparison,
    angular_figure,
    radial_figure,
    structure_factor_figure,
    tetrahedral_figure,
)
from ..statistics import Estimate
from .html import Page, number

#: Independent frames below which errors of means, and so floors, are rough.
_FEW = 10


def liquid_section(page: Page, compared: LiquidComparison) -> list[str]:
    """Add the table and figures of a comparison to a page.

    Parameters
    ----------
    page
        The page.
    compared
        Of :func:`~kernelfe.analysis.liquids.compare_liquids`.

    Returns
    -------
    list of str
        The main numbers as lines of text.
    """
    model, reference = compared.model, compared.reference
    t = f"{compared.model.temperature:g} K"
    page.heading(f"Structure of the liquid at {t}")
    page.table(
        ["quantity", "unit", "model", "all-atom", "distance", "floor", "times the floor"],
        [_cells(row) for row in compared.rows],
        f"{model.samples} samples of the model, {reference.samples} all-atom frames. Floor: the distance that two "
        "exact samples of these sizes would show on average, from standard errors that count the correlation between "
        f"frames. g(r) L1: mean |Δg| from {model.settings.lower:g} Å. Angles, triplets and neighbours: within "
        f"{model.settings.shell:g} Å. Errors are standard errors.",
    )
    few = [
        f"{name} ({number(part.tetrahedral.mean.independent, 2)})"
        for name, part in (("model", model), ("all-atom", reference))
        if part.tetrahedral.mean.independent < _FEW
    ]
    if few:
        page.paragraph(
            f"Fewer than {_FEW} independent frames of the tetrahedral order: {', '.join(few)}. Errors and floors are "
            "rough and more likely too small than too large. Sample longer.",
            "warning",
        )
    for pair, g in model.radial.items():
        between = "" if pair is None else f" of {pair[0]} and {pair[1]}"
        page.figure(
            radial_figure(g, reference.radial[pair]),
            f"Radial distribution{between} at {t}; bands are ± 2 standard errors. Below: the difference, beside that "
            "of two exact samples.",
        )
    page.figure(
        angular_figure(model.angular, reference.angular),
        f"Angles between neighbours within {model.settings.shell:g} Å at {t}.",
    )
    page.figure(
        tetrahedral_figure(model.tetrahedral, reference.tetrahedral),
        f"Tetrahedral order of the four nearest neighbours at {t}: 1 for a perfect network, 0 on average for a gas.",
    )
    page.figure(
        structure_factor_figure(model.structure, reference.structure),
        f"Structure factor at {t}, at wave vectors that fit into the cell.",
    )
    return str(compared).splitlines()


def _cells(row: Comparison) -> list[str]:
    distance = row.distance
    ratio = distance.value / distance.floor if distance.floor > 0.0 else float("nan")
    return [
        row.quantity,
        row.unit,
        _shown(row.model),
        _shown(row.reference),
        f"{number(distance.value)} ± {number(distance.error, 2)}",
        number(distance.floor, 2),
        number(ratio, 2),
    ]


def _shown(value: Estimate | None) -> str:
    return "" if value is None else str(value)
