"""What an arm is: a way to train that a study compares. The only place that says so."""

from collections.abc import Sequence
from dataclasses import dataclass

from mura.extremities import EXTREMITIES

UNIFIED, SPECIALISED, SHARED = "unified", "specialised", "shared"
FINETUNED, LEAVE_ONE_OUT = "finetuned", "leave_one_out"
UNION = "union"
"""Some of the extremities, pooled: what `train.py` can train, and no arm of a study."""

ALL, ONE, OTHERS = "all", "one", "others"

ARM_KEYS = ("arm", "data.extremities", "data.test_extremities", "data.transfer", "model.separate_heads")
"""The settings of a run that follow from its arm alone. Weights and steps follow from it in some arms: `Arm`."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A way to train.

    `trains_on` says what a run of it learns from: ALL the study's extremities, or, in a run for each extremity, that
    ONE or the OTHERS; it is tested on all, or on the one. `data` names a run's folder, {} being its extremity.
    `settings` are what its runs have beside their extremities, and `starts_from` is the arm from whose run of the
    same model and seed they start.
    """

    name: str
    trains_on: str
    data: str
    settings: Names = ()
    starts_from: str | None = None

    @property
    def is_pooled(self) -> bool:
        """Whether one run answers for all extremities."""
        return self.trains_on == ALL

    @property
    def validates_what_it_tests(self) -> bool:
        """Whether its runs have validation views of the extremities that they are tested on."""
        return self.trains_on != OTHERS

    def runs(self, extremities: Sequence[str]) -> list[tuple[str, Names, Names]]:
        """Return the folder's name of each run, and the extremities that it is trained on and tested on."""
        pooled = tuple(extremities)
        if self.is_pooled:
            return [(self.data, pooled, pooled)]
        others = {name: tuple(other for other in pooled if other != name) for name in pooled}
        trained = others if self.trains_on == OTHERS else {name: (name,) for name in pooled}
        return [(self.data.format(name), trained[name], (name,)) for name in pooled]


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(UNIFIED, ALL, "unified"),
        Arm(SPECIALISED, ONE, "{}", settings=("data.transfer=true",)),
        Arm(SHARED, ALL, "shared", settings=("model.separate_heads=true",)),
        Arm(FINETUNED, ONE, "finetuned-{}", starts_from=UNIFIED),
        Arm(LEAVE_ONE_OUT, OTHERS, "without-{}"),
    )
}
"""The arms, in the order in which they are told of."""


def arm_of(extremities: Sequence[str]) -> str:
    """Return the arm of a run by what it is trained on: unified for all seven, specialised for one, else union."""
    if len(extremities) == 1:
        return SPECIALISED
    return UNIFIED if set(extremities) == set(EXTREMITIES) else UNION


def share_start(a: str, b: str) -> bool:
    """Return whether one arm's runs start from the other's of the same seed, or both from a third's."""
    starts = [{name, ARMS[name].starts_from} - {None} if name in ARMS else {name} for name in (a, b)]
    return bool(starts[0] & starts[1])


def arm_rank(arm: str) -> tuple[int, str]:
    """Return the key that sorts arms: the place in ARMS, then, for unions, the name."""
    return (list(ARMS).index(arm) if arm in ARMS else len(ARMS)), arm
