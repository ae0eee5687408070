"""All-atom alanine dipeptide (ACE-ALA-NME) in OpenMM: ff14SB with the native GBSAOBCForce.

Shared by the generator of the training frames and by the parallel-tempering reference.
Bonds to hydrogen are constrained. The native ``GBSAOBCForce`` (OBC II) is used instead of
``implicit/obc2.xml``, whose ``CustomGBForce`` is fifty times slower on the Reference platform.
Hydrogens carry 2.5 u (mass taken from their partners): masses do not enter configurational
averages, and a 3 fs step stays far below the stability limit.
"""

from __future__ import annotations

import math

import numpy as np
import openmm
from openmm import app, unit

TIMESTEP_FS = 3.0
FRICTION_PER_PS = 2.0
HYDROGEN_MASS = 2.5

# atom, what it is placed against (bonded to, angle to, dihedral to): distance / Angstrom, angle and dihedral / degrees
_ZMATRIX = [
    ("ACE:CH3", "", 0.0, 0.0, 0.0),
    ("ACE:C", "ACE:CH3", 1.52, 0.0, 0.0),
    ("ACE:O", "ACE:C ACE:CH3", 1.23, 120.5, 0.0),
    ("ALA:N", "ACE:C ACE:CH3 ACE:O", 1.335, 116.6, 180.0),
    ("ALA:CA", "ALA:N ACE:C ACE:CH3", 1.449, 121.9, 180.0),
    ("ALA:C", "ALA:CA ALA:N ACE:C", 1.522, 110.1, -80.0),
    ("ALA:O", "ALA:C ALA:CA ALA:N", 1.229, 120.4, -30.0),
    ("NME:N", "ALA:C ALA:CA ALA:O", 1.335, 116.6, 180.0),
    ("NME:CH3", "NME:N ALA:C ALA:CA", 1.449, 121.9, 180.0),
    ("ALA:CB", "ALA:CA ALA:N ALA:C", 1.526, 109.7, -122.0),
    ("ALA:H", "ALA:N ACE:C ALA:CA", 1.01, 119.0, 180.0),
    ("ALA:HA", "ALA:CA ALA:N ALA:C", 1.09, 109.5, 118.0),
    ("NME:H", "NME:N ALA:C NME:CH3", 1.01, 119.0, 180.0),
    ("ACE:HH31", "ACE:CH3 ACE:C ACE:O", 1.09, 109.5, 0.0),
    ("ACE:HH32", "ACE:CH3 ACE:C ACE:HH31", 1.09, 109.5, 120.0),
    ("ACE:HH33", "ACE:CH3 ACE:C ACE:HH31", 1.09, 109.5, -120.0),
    ("ALA:HB1", "ALA:CB ALA:CA ALA:N", 1.09, 109.5, 60.0),
    ("ALA:HB2", "ALA:CB ALA:CA ALA:HB1", 1.09, 109.5, 120.0),
    ("ALA:HB3", "ALA:CB ALA:CA ALA:HB1", 1.09, 109.5, -120.0),
    ("NME:HH31", "NME:CH3 NME:N ALA:C", 1.09, 109.5, 60.0),
    ("NME:HH32", "NME:CH3 NME:N NME:HH31", 1.09, 109.5, 120.0),
    ("NME:HH33", "NME:CH3 NME:N NME:HH31", 1.09, 109.5, -120.0),
]
_ATOMS = {
    "ACE": ("CH3", "C", "O", "HH31", "HH32", "HH33"),
    "ALA": ("N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O"),
    "NME": ("N", "H", "CH3", "HH31", "HH32", "HH33"),
}

#: ``RESIDUE:ATOM`` in OpenMM's order, the order of every array.
ATOM_NAMES = tuple(f"{residue}:{name}" for residue, names in _ATOMS.items() for name in names)


def _index(names):
    return tuple(ATOM_NAMES.index(name) for name in names.split())


#: Pairs of bonded atoms: the z-matrix places every atom along a bond, and the molecule has no ring.
#: (Atoms placed by an improper reference also name their bonded partner first.)
BONDS = tuple(sorted(tuple(sorted(_index(f"{atom} {refs.split()[0]}"))) for atom, refs, *_ in _ZMATRIX if refs))
#: The six beads: ACE C, N, CA, CB, C, NME N, as atom indices.
BEADS = _index("ACE:C ALA:N ALA:CA ALA:CB ALA:C NME:N")
BEAD_NAMES = ("C", "N", "CA", "CB", "C", "N")
#: Atoms whose forces are summed onto each bead: together all 22, each constrained pair within one group.
FORCE_GROUPS = tuple(
    _index(names)
    for names in (
        "ACE:CH3 ACE:C ACE:O ACE:HH31 ACE:HH32 ACE:HH33",
        "ALA:N ALA:H",
        "ALA:CA ALA:HA",
        "ALA:CB ALA:HB1 ALA:HB2 ALA:HB3",
        "ALA:C ALA:O",
        "NME:N NME:H NME:CH3 NME:HH31 NME:HH32 NME:HH33",
    )
)
#: Bead indices of the two backbone torsions.
PHI, PSI = (0, 1, 2, 4), (1, 2, 4, 5)


def _place(a, b, c, distance, angle, dihedral):
    """Position at `distance` from a, `angle` to b and `dihedral` to c."""
    bc, ab = b - c, a - b
    ab = ab / np.linalg.norm(ab)
    normal = np.cross(bc, ab)
    normal = normal / np.linalg.norm(normal)
    angle, dihedral = math.radians(angle), math.radians(dihedral)
    local = distance * np.array(
        [-math.cos(angle), math.sin(angle) * math.cos(dihedral), math.sin(angle) * math.sin(dihedral)]
    )
    return a + local @ np.array([ab, np.cross(normal, ab), normal])


def start_positions():
    """Positions in Angstrom built from standard internal coordinates (L enantiomer)."""
    x = {}
    for atom, refs, distance, angle, dihedral in _ZMATRIX:
        partners = [x[name] for name in refs.split()]
        if not partners:
            x[atom] = np.zeros(3)
        elif len(partners) == 1:
            x[atom] = partners[0] + np.array([distance, 0.0, 0.0])
        else:
            third = partners[2] if len(partners) == 3 else partners[1] + np.array([0.0, 1.0, 0.0])
            x[atom] = _place(partners[0], partners[1], third, distance, angle, dihedral)
    return np.array([x[name] for name in ATOM_NAMES])


def build():
    """Return the OpenMM topology and system."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    for residue_name, names in _ATOMS.items():
        residue = topology.addResidue(residue_name, chain)
        for name in names:
            element = app.Element.getBySymbol("H" if name.startswith("H") else name[0])
            atoms.append(topology.addAtom(name, element, residue))
    for i, j in BONDS:
        topology.addBond(atoms[i], atoms[j])
    system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(
        topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, hydrogenMass=HYDROGEN_MASS, removeCMMotion=False
    )
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    obc = openmm.GBSAOBCForce()
    obc.setSolventDielectric(78.5)
    obc.setSoluteDielectric(1.0)
    bonded_to_nitrogen = {k for i, j in BONDS for k in (i, j) if "N" in (atoms[i].name, atoms[j].name)}
    radius = {"C": 0.170, "N": 0.155, "O": 0.150, "H": 0.120}  # mbondi2, nm
    scale = {"C": 0.72, "N": 0.79, "O": 0.85, "H": 0.85}
    for atom in atoms:
        symbol = atom.element.symbol
        r = 0.130 if symbol == "H" and atom.index in bonded_to_nitrogen else radius[symbol]
        obc.addParticle(nonbonded.getParticleParameters(atom.index)[0], r, scale[symbol])
    system.addForce(obc)
    return topology, system


def context_at(temperature, seed):
    """A minimised OpenMM context at `temperature` (K) on one core, with its integrator."""
    _, system = build()
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, FRICTION_PER_PS / unit.picosecond, TIMESTEP_FS * unit.femtosecond
    )
    integrator.setRandomNumberSeed(int(seed))
    integrator.setConstraintTolerance(1e-6)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(start_positions() * 0.1)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(temperature * unit.kelvin, int(seed))
    return context, integrator


def dihedral(x, quad):
    """Dihedral angle in radians of points `quad`, IUPAC sign, x of shape (..., points, 3)."""
    a, b, c, d = (x[..., k, :] for k in quad)
    b1, b2, b3 = b - a, c - b, d - c
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    m = np.cross(n1, b2 / np.linalg.norm(b2, axis=-1, keepdims=True))
    return -np.arctan2((m * n2).sum(-1), (n1 * n2).sum(-1))
