"""A fixed hundred mutated inputs of each kind but whole trainings; `make fuzz` tries them all by the thousand."""

from pathlib import Path

import pytest
from fuzzing.cases import Case, draw_case, edit_bytes, failure_of, shrunk, writing_only_below
from fuzzing.checkpoints import Checkpoints
from fuzzing.disks import Disks
from fuzzing.pictures import Pictures
from fuzzing.runs import Runs
from fuzzing.settings import Settings
from fuzzing.trees import Trees

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about damaged input


@pytest.mark.parametrize("kind", [Pictures, Trees, Runs, Checkpoints, Settings, Disks], ids=lambda kind: kind.__name__)
def test_a_hundred_mutated_inputs_are_a_result_or_a_sentence(kind: type, tmp_path: Path) -> None:
    made = kind(tmp_path.resolve())
    for number in range(100):
        case = draw_case(made, kind.__name__, 0, number)
        failure = failure_of(made, case)
        assert failure is None, f"{failure}\n{shrunk(made, case)}"


def test_a_case_is_drawn_from_its_seed_and_number_alone_and_shrinks_to_what_fails(tmp_path: Path) -> None:
    class Failing(Pictures):
        def attempt(self, case: Case) -> str:
            assert ("cut", 0.5, 1, b"") not in case.edits
            return "done"

    kind = Failing(tmp_path)
    case = draw_case(kind, "pictures", 3, 7)
    assert case == draw_case(kind, "pictures", 3, 7) != draw_case(kind, "pictures", 4, 7)
    failing = Case(case.base, (*case.edits, ("cut", 0.5, 1, b""), *case.edits))
    assert shrunk(kind, failing).edits == (("cut", 0.5, 1, b""),)
    assert edit_bytes(b"abcd", (("cut", 0.5, 1, b""), ("insert", 0.0, 2, b"x"))) == b"xxab"


def test_what_is_written_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "out").symlink_to(tmp_path)
    with writing_only_below((tmp_path / "inside").resolve()):
        (tmp_path / "inside" / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "inside" / "out" / "file", tmp_path / "inside" / ".." / "file"):
        with pytest.raises(AssertionError, match="outside"), writing_only_below((tmp_path / "inside").resolve()):
            place.write_text("x")
