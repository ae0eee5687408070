"""The report of the quickstart: what was learned from how many frames, against the reference, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..analysis.plots import KINDS
from .html import Page, number
from .model import hyperparameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Label sets as readers see them.
NAMES = {
    "forces": "plain forces",
    "forces + energies": "forces + energies",
    "forces + torques": "forces + fragment torques",
    "all": "all labels",
    "all + density": "all labels + density",
}
#: The most that is learned from the frames.
MOST = "all + density"


def comparison_page(numbers: Mapping[str, Any], figures: Mapping[str, Figure], model: Any) -> Page:
    """Build the page.

    Parameters
    ----------
    numbers
        The content of ``metrics.json``.
    figures
        "surface", "learning", "parity", "decomposition", "maps".
    model
        The final model, for its hyperparameters.
    """
    t = numbers["temperature"]
    trained = ", ".join(f"{x:g}" for x in numbers["training_temperatures"])
    several = [r for r in numbers["divergences"] if len(r["temperatures"]) > 1]
    single = [r for r in numbers["divergences"] if len(r["temperatures"]) == 1]
    sizes = sorted({r["frames_per_temperature"] for r in several})
    page = Page(f"Alanine dipeptide at {t:g} K, learned at other temperatures")
    if numbers["small"]:
        page.paragraph(
            "Small version: one training subset, two sizes, a tenth of the samples. It shows that everything "
            "works, not "
            "what the method reaches; run kernelfe quickstart without --small for that.",
            "warning",
        )
    _headline(page, numbers, several, sizes)

    page.heading("What was done")
    page.paragraph(
        "A coarse-grained free energy A(R; T) of six backbone beads was learned from all-atom frames at "
        f"{trained} K, by Gaussian-process conditioning on single-frame labels, then sampled at {t:g} K, a temperature "
        "without any training frame. The following label sets are compared on the same frames: forces mapped onto the "
        "beads; these and potential energies; these and the torques that rotate whole fragments about φ and ψ; all "
        "three labels; and all three with the density of the training frames at their own temperatures, by "
        "relative entropy. Length scales, prior scales and noise levels of every fit come from the evidence of its own "
        "labels; nothing was tuned to the reference, and fits are independent."
    )
    reference, floors = numbers["reference"], numbers["floors"]
    page.table(
        ["", ""],
        [
            [
                "all-atom model",
                "ACE-ALA-NME, ff14SB with OBC II implicit solvent, OpenMM; bonds to hydrogen constrained",
            ],
            [
                "reference",
                f"independent parallel tempering, {number(reference['effective_samples'])} effective samples of "
                "the slowest "
                f"motion at {t:g} K",
            ],
            [
                "distance",
                "Jensen–Shannon divergence of (φ, ψ) histograms, natural logarithm, "
                f"{numbers['bins']}×{numbers['bins']} bins",
            ],
            ["reference, half against half", number(floors["reference_half_against_half"])],
            [
                "floor of a perfect model",
                f"{number(floors['perfect_model'])} = {number(floors['reference'])} (reference) + "
                f"{number(floors['model_samples'])} (model's samples)",
            ],
            [
                "samples per model",
                f"at least {number(numbers['least_effective_samples'])} decorrelated (from the scatter of independent "
                "replicas)",
            ],
        ],
    )

    page.heading(f"The surface at {t:g} K")
    page.figure(
        figures["surface"],
        f"Free energy of φ and ψ at {t:g} K: model with all labels and density at {sizes[-1]} frames per training "
        "temperature (left), all-atom reference (middle) and their difference where the reference has p > 10⁻⁴ "
        "(right); "
        "−kT ln p of samples, zero at the minimum. Grey: never visited.",
    )
    _populations(page, numbers, several, sizes[-1])

    page.heading("Frames needed")
    page.figure(
        figures["learning"],
        "Divergence from the reference against training frames per temperature. Points: mean over "
        "disjoint training subsets; bars: their range. Band: about what a perfect model would show, given the "
        "finite reference "
        "and the finite number of model samples.",
    )
    _divergences(page, several, single)
    _ratios(page, numbers)

    page.heading("Predictions against held-out labels")
    page.figure(
        figures["parity"],
        f"Final model against single-frame labels at {t:g} K, none of them trained on. The band is ± the noise "
        "of one label, which no model can beat: most of the scatter is noise, and R² saturates at the value given.",
    )
    _parity(page, numbers)

    page.heading("Energy, entropy, heat capacity")
    page.figure(
        figures["decomposition"],
        "Along ψ: A from −kT ln p of the model's samples, U = ⟨∂(bA)/∂b⟩ and S = (U − A)/T averaged "
        "over samples in each bin, exact for the model; each relative to its average. Bands: ± 2 posterior standard "
        "deviations, carried through to first order, with the sampling error. Points: reference (bars: the "
        "difference of its two "
        f"halves) and average energies of the held-out frames at {t:g} K (± 2 standard errors, frames taken as "
        "independent).",
    )
    page.figure(
        figures["maps"],
        "Entropy and heat capacity of the surface over (φ, ψ) in 20° bins with at least 10 samples, and their "
        "standard deviations. Mind them before reading structure into the maps.",
    )
    heat, agreement = numbers["heat_capacity_J_mol_K"], numbers["agreement"]
    page.paragraph(
        f"Configurational heat capacity at {t:g} K: {number(heat['model'])} J mol⁻¹ K⁻¹ from the model (⟨C(R)⟩ + "
        "k b² Var ⟨U⟩(R)), "
        f"{number(heat['held_out_frames'])} ± {number(heat['held_out_frames_std'], 2)} from the fluctuation of U "
        "in the held-out frames. "
        f"Along ψ, A differs from the reference by {number(agreement['free_energy_rms_kJ_mol'], 2)} kJ/mol and U "
        "from the held-out frames "
        f"by {number(agreement['energy_rms_kJ_mol'], 2)} kJ/mol (root mean square, weighted by population), "
        f"{number(agreement['free_energy_z_rms'], 2)} and {number(agreement['energy_z_rms'], 2)} times the "
        "predicted errors."
    )
    hyperparameters(page, model)
    _caveats(page, numbers, bool(single))
    page.heading("Made with")
    page.paragraph(
        ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
        + f"; seed {numbers['seed']}; {numbers['seconds']:.0f} s with {numbers['workers']} processes of one thread; "
        f"peak memory {numbers['peak_memory_bytes'] / 2**30:.2f} GiB. All numbers: metrics.json.",
        "note",
    )
    return page


def _row(rows: list[dict[str, Any]], labels: str, size: int) -> dict[str, Any]:
    return next(r for r in rows if r["labels"] == labels and r["frames_per_temperature"] == size)


def _mean(row: dict[str, Any]) -> str:
    if row["spread"] is None:
        return number(row["mean"])
    return f"{number(row['mean'])} ± {number(row['spread'], 2)}"


def _headline(page: Page, numbers: Mapping[str, Any], several: list[dict[str, Any]], sizes: list[int]) -> None:
    largest = sizes[-1]
    text = (
        f"From {largest} frames per training temperature the model reaches a divergence of "
        f"{_mean(_row(several, MOST, largest))} "
        f"from the reference at {numbers['temperature']:g} K; plain force matching with the same frames reaches "
        f"{_mean(_row(several, 'forces', largest))}. A perfect model would show about "
        f"{number(numbers['floors']['perfect_model'])}."
    )
    ratios = [r for r in numbers["frames_for_equal_divergence"] if r["labels"] == MOST]
    if ratios:
        best = max(ratios, key=lambda r: r["ratio"])
        if best["ratio"] > 1.0:
            text += (
                " Plain forces need "
                f"{'more than ' if best['is_lower_bound'] else 'about '}{number(best['ratio'], 2)} times as many "
                f"frames for what it reaches with {best['frames_per_temperature']}."
            )
    page.paragraph(text, "lead")


def _divergences(page: Page, several: list[dict[str, Any]], single: list[dict[str, Any]]) -> None:
    def cells(r: dict[str, Any]) -> list[str]:
        return [
            NAMES[r["labels"]],
            str(r["frames_per_temperature"]),
            _mean(r),
            ", ".join(number(v) for v in r["divergences"]),
            number(r["rmsd_kJ_mol"], 2),
            number(r["effective_samples"]),
            number(r["fit_seconds"], 2),
            number(r["sample_seconds"], 2),
        ]

    header = [
        "labels",
        "frames per temperature",
        "divergence",
        "subsets",
        "rms ΔA / kJ mol⁻¹",
        "effective samples",
        "fit / s",
        "sampling / s",
    ]
    page.table(
        header,
        [cells(r) for r in several],
        "Mean ± standard deviation over disjoint training subsets. rms ΔA: of −kT ln p, weighted by the "
        "reference, bins with "
        "p > 10⁻³. Effective samples: the least of the subsets.",
        [k for k, r in enumerate(several) if r["labels"] == MOST],
    )
    if single:
        t = single[0]["temperatures"][0]
        page.table(
            header,
            [cells(r) for r in single],
            f"For comparison, trained at {t:g} K alone, where it is sampled: as force matching is usually done. "
            "Compare at equal "
            "total numbers of frames (four temperatures above).",
        )


def _ratios(page: Page, numbers: Mapping[str, Any]) -> None:
    rows = [
        [
            NAMES[r["labels"]],
            str(r["frames_per_temperature"]),
            number(r["divergence"]),
            ("> " if r["is_lower_bound"] else "") + number(r["forces_need"]),
            ("> " if r["is_lower_bound"] else "") + number(r["ratio"], 2),
        ]
        for r in numbers["frames_for_equal_divergence"]
    ]
    if rows:
        page.table(
            ["labels", "frames per temperature", "divergence", "frames plain forces need", "ratio"],
            rows,
            "Frames for equal divergence, interpolated in log–log along the curve of plain forces; > where that "
            "curve never falls "
            "so low.",
        )
    for r in numbers["all_labels_against_fewer"]:
        if not r["not_worse"]:
            page.paragraph(
                f"With {r['frames_per_temperature']} frames {NAMES[r['labels']]} are worse than "
                f"{NAMES[r['best_smaller_set']]} by "
                f"{number(r['mean_difference'], 2)} on average; by subset: "
                f"{', '.join(f'{v:+.4f}' for v in r['difference'])}.",
                "note",
            )


def _populations(page: Page, numbers: Mapping[str, Any], several: list[dict[str, Any]], size: int) -> None:
    names = list(numbers["reference"]["populations"])
    rows = [["reference", *(number(100 * numbers["reference"]["populations"][k]) for k in names)]]
    rows += [
        [NAMES[r["labels"]], *(number(100 * r["populations"][k]) for k in names)]
        for r in several
        if r["frames_per_temperature"] == size
    ]
    page.table(
        ["", *(f"{k.replace('beta', 'β').replace('alpha_R', 'α_R').replace('alpha_L', 'α_L')} / %" for k in names)],
        rows,
        f"Populations of the basins, {size} frames per temperature, mean over subsets: β (φ < 0, other ψ), α_R "
        "(φ < 0, −125° < ψ < 50°), "
        "α_L (φ ≥ 0).",
    )


def _parity(page: Page, numbers: Mapping[str, Any]) -> None:
    rows = []
    for kind, p in numbers["parity"].items():
        unit, scale, name = KINDS[kind]
        rows.append(
            [
                name,
                unit,
                p["frames"],
                number(p["rmse"] * scale),
                number(p["noise_floor"] * scale),
                f"{number(p['corrected_rmse'] * scale)} (< {number(p['corrected_rmse_limit'] * scale)})",
                f"{p['r2']:.3f} of {p['r2_ceiling']:.3f}",
                number(p["log_density"]),
                number(p["z_rms"]),
                f"{100 * p['coverage95']:.1f} %",
            ]
        )
    page.table(
        [
            "label",
            "unit",
            "frames",
            "rmse",
            "learned noise",
            "model's own error (2σ limit)",
            "R² of reachable",
            "log density",
            "rms z",
            "within 1.96 σ",
        ],
        rows,
        "Model's own error: sqrt(rmse² − noise²), 0 where the learned noise exceeds the rmse. rms z should be 1.",
    )


def _caveats(page: Page, numbers: Mapping[str, Any], single: bool) -> None:
    page.heading("What to keep in mind")
    items = [
        "The training subsets of one size are disjoint and each spreads over the whole run of its temperature; "
        "they share these runs. "
        "Their spread holds the scatter from frames, not that from rerunning the all-atom simulation.",
        "Training runs hardly visit φ > 0 below 500 K, so the population of α_L at the target temperature rests "
        "on the hot runs and on the "
        "prior in T. Where a run never crosses to φ > 0, its density is taken to tell nothing of that population.",
        "Forces at any number of temperatures leave a function of T alone undetermined, energies leave a "
        "temperature-proportional part: "
        "A and S are shown relative to their averages.",
        "Divergences near the floor cannot be told apart: they measure the reference, not the model.",
        "Frames of one run are correlated in time and bead forces of one frame with one another; the likelihood "
        "takes all noise as "
        "independent, with one level per kind of label and a power of T.",
    ]
    fitted = {(r["labels"], r["frames_per_temperature"]) for r in numbers["divergences"] if len(r["temperatures"]) > 1}
    absent = [
        f"{NAMES[name]} with {size} frames"
        for name in NAMES
        for size in sorted({size for _, size in fitted})
        if (name, size) not in fitted
    ]
    if absent:
        items.append(f"Not fitted, to keep the run short: {'; '.join(absent)}.")
    if single:
        items.append(
            "Energies at a single temperature do not determine A there; the single-temperature fits therefore "
            "use forces and torques "
            "only, and their temperature derivatives are not to be trusted."
        )
    page.bullets(items)
