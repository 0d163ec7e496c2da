"""An error becomes a sentence if its user can mend it, and keeps its traceback if not."""

import errno

import pytest
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.errors import OverrideParseException as OverrideParseError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mura.config.other_launchers import report_and_raise
from mura.config.sentences import exit_with_sentence, explain_error
from mura.errors import ConfigError, InterruptedRunError, MuraError


def raised_for(missing: str) -> Exception:
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.select(OmegaConf.create({"model": {"name": "???"}}), missing, throw_on_missing=True)
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (MuraError("the cache is damaged."), 1, "the cache is damaged."),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "runs/x: no room (No space left on device);"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 1, "x" * 200 + "...: the name is too long"),
        (raised_for("model.name"), 2, "model.name is not set: give model.name=VALUE."),
        (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates"), 1, "caf\udce9: holds a name that is not UTF-8"),
        (OverrideParseError("data.root=caf\udce9", "no"), 2, "data.root=caf\udce9: not understood; put such a name in"),
        (OverrideParseError("data=[", "no viable alternative"), 2, "data=[: not understood;"),
        (
            ConfigCompositionException("Multiple values for data. To override ..."),
            2,
            "data is given twice: give it once.",
        ),
        (ConfigCompositionException("Could not override 'a@b'.\nNo match."), 2, "a@b: there is no such setting;"),
        (ConfigCompositionException("Something new.\nWith details"), 2, "Something new."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_mend_is_one_sentence(error: Exception, code: int, sentence: str) -> None:
    user_error = explain_error(error)
    assert user_error is not None
    assert str(user_error).startswith(sentence)
    assert "\n" not in str(user_error)
    assert user_error.exit_code == code


def test_a_sentence_is_found_behind_what_hydra_makes_of_it() -> None:
    wrapped = HydraException("Error in call to target")
    wrapped.__cause__ = ConfigError("data.seed=x: must be a whole number.")
    assert explain_error(wrapped) is wrapped.__cause__


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError("no"), InstantiationException("no")])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    assert explain_error(error) is None
    for context in (exit_with_sentence, report_and_raise):
        with pytest.raises(type(error)), context():
            raise error


def test_a_job_of_another_launcher_says_its_error_and_hands_it_to_hydra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="must be"), report_and_raise():
        raise ConfigError("seed=-1: must be a whole number.")
    assert capsys.readouterr().err.endswith(": seed=-1: must be a whole number.\n")
    with pytest.raises(SystemExit) as ended, report_and_raise():
        raise InterruptedRunError("stopped; go on with: ...", 143)
    assert ended.value.code == 143
