"""Elements by symbol, and their places in the periodic table."""

from __future__ import annotations

import functools

import numpy as np

SYMBOLS = tuple(  # a list of 118 strings is two pages long
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As
    Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd
    Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am
    Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()  # noqa: SIM905
)
"""The symbol of atomic number ``z`` is ``SYMBOLS[z - 1]``."""

_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)} | {"D": 1, "T": 1}
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)

GROUPS = (*map(str, range(1, 19)), "f")
"""Groups of the periodic table; ``f`` holds the lanthanides and actinides without group 3's."""

ELEMENT_NAMES = (
    *SYMBOLS,
    *(f"period_{period}" for period in range(1, 8)),
    *(f"group_{group}" for group in GROUPS),
)
"""The columns of :func:`element_features`."""


def atomic_number(symbol: str) -> int:
    """1 to 118; 0 for what is no element. Deuterium and tritium are hydrogen."""
    return _NUMBERS.get(symbol[:1].upper() + symbol[1:].lower(), 0)


def place(z: int) -> tuple[int, str]:
    """Period and group of an element: ``place(17)`` is ``(3, "17")``.

    Lutetium and lawrencium stand in group 3 (IUPAC 2021).
    """
    period = next(n for n, last in enumerate(_NOBLE) if z <= last)
    after, left = z - _NOBLE[period - 1], _NOBLE[period] - z
    if after <= 2 and z != 2:
        return period, str(after)
    if left < (16 if period > 3 else 6):
        return period, str(18 - left)
    return period, "f"


def element_features(numbers: np.ndarray) -> np.ndarray:
    """``[N, 144]``: the element, its period and its group, each one-hot (:data:`ELEMENT_NAMES`).

    Args:
        numbers: atomic numbers ``[N]``.
    """
    return _table()[np.asarray(numbers) - 1]


@functools.cache
def _table() -> np.ndarray:
    table = np.zeros((len(SYMBOLS), len(ELEMENT_NAMES)))
    for z in range(1, len(SYMBOLS) + 1):
        period, group = place(z)
        ones = (z - 1, len(SYMBOLS) + period - 1, len(SYMBOLS) + 7 + GROUPS.index(group))
        table[z - 1, list(ones)] = 1.0
    return table
