"""Every effect is of a kind that the tests on the cluster kill an operator at."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from e2e.effects import KINDS

from trainingrun_operator.core.effects import Effect


def test_every_effect_is_of_one_kind():
    counted = Counter(each for kind in KINDS for each in kind.classes)
    assert counted == Counter(get_args(Effect)), (
        "A new effect: add it to a kind in tests/e2e/effects.py, or a kind for it."
    )
