"""Exported models answer as the checkpoints do, say what they are, and name no place of the machine they come from."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from refusals import refusal

from mura.data.images import decode, fit
from mura.errors import ConfigError, MuraError
from mura.inference import export as exporting
from mura.inference.export import describe, export
from mura.inference.exported import ABOUT, check_format, load_exported
from mura.inference.loading import TorchModel, load_run
from mura.inference.models import load_model
from mura.inference.predict import predict_pictures

onnx = pytest.importorskip("onnx")

NO_TORCH = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "lightning"):
            raise ImportError(f"{name} is not needed")
sys.meta_path.insert(0, Forbid())
from mura.cli import main
main()
"""


def squares(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 40), np.uint8)


@pytest.fixture(scope="module")
def arm_file(exporter: None, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "specialised.onnx"
    export(load_model(study, "specialised"), out)
    return out


def test_a_run_is_one_file_that_answers_a_batch_of_any_size_as_the_checkpoint_does(
    wrist: Path, wrist_file: Path
) -> None:
    model, exported = load_model(wrist), load_model(wrist_file)
    for count in (1, 2, 5):
        images, names = squares(count), [None] * count
        np.testing.assert_allclose(exported.probabilities(images, names), model.probabilities(images, names), atol=1e-6)
    assert [path.name for path in wrist_file.parent.iterdir()] == ["wrist.onnx"]


def test_an_arm_is_one_file_that_sends_each_picture_to_its_extremity_s_seeds(study: Path, arm_file: Path) -> None:
    arm, exported = load_model(study, "specialised"), load_model(arm_file)
    images, names = squares(5), ["wrist", "hand", "hand", "wrist", "hand"]
    np.testing.assert_allclose(exported.probabilities(images, names), arm.probabilities(images, names), atol=1e-6)
    alone = exported.probabilities(images[:1], names[:1])
    np.testing.assert_allclose(alone, arm.probabilities(images[:1], names[:1]), atol=1e-6)
    assert exported.needs_extremity
    assert exported.extremities == ["hand", "wrist"]
    with pytest.raises(MuraError, match=r"specialised\.onnx: it answers for hand, wrist, not for elbow"):
        exported.probabilities(images[:2], ["elbow", "hand"])


def test_another_program_finds_the_inputs_and_all_it_must_know_in_the_file(arm_file: Path, wrist_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(arm_file)
    assert [(each.name, each.type) for each in session.get_inputs()] == [
        ("images", "tensor(uint8)"), ("extremity", "tensor(int64)"),
    ]  # fmt: skip
    about = json.loads(session.get_modelmeta().custom_metadata_map[ABOUT])
    assert about["extremity_index"]["wrist"] == 6
    assert (about["cache_size"], about["image_size"], about["fit"], about["threshold"]) == (40, 32, "pad", 0.5)
    assert (about["seeds"], about["data_fingerprint"]) == ([0, 1], "d" * 32)
    assert {"mura", "torch", "onnx"} <= set(about["versions"])
    assert "not a medical device" in about["use"]
    [answer] = session.run(None, {"images": squares(2)[:, None], "extremity": np.array([6, 0])})
    assert np.isnan(answer).tolist() == [False, True]  # there is no model of elbows
    onnx.checker.check_model(onnx.load(wrist_file), full_check=True)


def test_the_checksum_is_that_of_the_weights_and_the_same_in_every_format(wrist: Path, wrist_file: Path) -> None:
    model = load_run(wrist)
    about = {entry.key: entry.value for entry in onnx.load(wrist_file).metadata_props}[ABOUT]
    assert json.loads(about)["weights_sha256"] == describe(model)["weights_sha256"]
    other = load_run(wrist.parent / "seed1")
    assert describe(other)["weights_sha256"] != describe(model)["weights_sha256"]


def test_no_path_of_the_machine_is_in_the_file(wrist_file: Path, arm_file: Path, study: Path) -> None:
    places = (str(study.parent), str(Path(exporting.__file__).parent), sys.prefix, str(Path.home()))
    for file in (wrist_file, arm_file):
        content = file.read_bytes()
        assert not [place for place in places if place.encode() in content]
        assert not re.search(rb"\.py\b", content)


@pytest.mark.usefixtures("exporter")
def test_separate_heads_take_the_extremity_and_an_ensemble_is_averaged(study: Path, tmp_path: Path) -> None:
    shared = load_run(study / "cnn2" / "shared" / "seed0")
    ensemble = TorchModel(
        tmp_path, [*shared.checkpoints, *load_run(study / "cnn2" / "shared" / "seed1").checkpoints],
        [*shared.members, *load_run(study / "cnn2" / "shared" / "seed1").members],
        shared.cache_size, shared.extremities, shared.fit,
    )  # fmt: skip
    export(ensemble, tmp_path / "shared.onnx")
    exported = load_model(tmp_path / "shared.onnx")
    images, names = squares(4), ["wrist", "elbow", "hand", "wrist"]
    np.testing.assert_allclose(exported.probabilities(images, names), ensemble.probabilities(images, names), atol=1e-6)


def test_an_export_is_checked_on_the_run_s_own_pictures_where_they_lie(
    wrist: Path, mura_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(wrist, run)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"root": str(mura_root)}}))
    views = pd.read_csv(run / "predictions.csv")
    paths = sorted(path.relative_to(mura_root) for path in (mura_root / "valid" / "XR_WRIST").rglob("*.png"))
    views = views[: len(paths)].assign(path=list(map(str, paths[: len(views)])))
    views.to_csv(run / "predictions.csv", index=False)
    out = tmp_path / "wrist.safetensors"
    assert re.match(r"checked on 8 pictures of its data and 3 random ones: within 0", export(load_model(run), out))
    examples = exporting.find_examples(load_run(run))
    assert any((fit(decode(mura_root / path), 40) == examples.squares[0]).all() for path in paths)
    assert set(examples.extremities) == {"wrist"}


def test_a_file_that_answers_otherwise_is_not_written(
    wrist: Path, wrist_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter is made to write another model."""
    other = onnx.load(wrist_file)
    other.ClearField("metadata_props")
    monkeypatch.setattr(exporting, "to_onnx", lambda runs: other)
    said = refusal(lambda: export(load_run(wrist.parent / "seed1"), tmp_path / "wrist.onnx"))
    assert said is not None
    assert "wrist.onnx was not written: it answers otherwise than the checkpoints, by up to 0." in said
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_predicted_from_an_onnx_file_without_pytorch(
    wrist: Path, wrist_file: Path, mura_root: Path, tmp_path: Path
) -> None:
    folder = mura_root / "valid" / "XR_WRIST"
    command = [sys.executable, "-c", NO_TORCH, "predict", str(wrist_file), str(folder), "--csv", "out.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    expected = predict_pictures(load_model(wrist), [folder]).table
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found["path"]) == list(expected["path"])
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
    assert list(found["study_is"]) == list(expected["study_is"])


def test_safetensors_hold_the_weights_and_the_file_beside_them_builds_the_network(wrist: Path, tmp_path: Path) -> None:
    out = tmp_path / "wrist.safetensors"
    export(load_model(wrist), out)
    model, shared = load_run(wrist), load_model(out)
    assert (shared.probabilities(squares(3), [None] * 3) == model.probabilities(squares(3), [None] * 3)).all()
    about = json.loads((tmp_path / "wrist.json").read_text())
    assert about["network"]["name"] == "cnn2"
    assert str(wrist) not in (tmp_path / "wrist.json").read_text()

    content = bytearray(out.read_bytes())
    content[-3] ^= 1
    out.write_bytes(content)
    assert "is damaged, or not the file that wrist.json is about" in str(refusal(lambda: load_model(out)))
    out.write_bytes(content[:200])
    assert "is no safetensors file, or a damaged one" in str(refusal(lambda: load_model(out)))
    (tmp_path / "wrist.json").write_text(json.dumps(about | {"network": {"name": "../x"}}))
    (tmp_path / "wrist.json").unlink()
    assert "which says what wrist.safetensors is, can't be read" in str(refusal(lambda: load_model(out)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"name": "hf-hub:x/y"}}, "not an address or a path"),
        ({"network": None}, "has network=null, which must be a table of keys"),
        ({"cache_size": 10**9}, "has cache_size=1000000000, which must be a whole number from 1 to 4096"),
        ({"extremities": ["knee"]}, "must be a list of extremities"),
    ],
)
def test_a_file_beside_the_weights_that_says_nonsense_is_one_sentence(
    change: dict[str, object], words: str, wrist: Path, tmp_path: Path
) -> None:
    export(load_model(wrist), tmp_path / "wrist.safetensors")
    beside = tmp_path / "wrist.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    said = str(refusal(lambda: load_model(tmp_path / "wrist.safetensors")))
    assert words in said
    assert str(beside) in said


def test_several_networks_are_no_safetensors_file_and_that_is_said(study: Path, tmp_path: Path) -> None:
    said = refusal(lambda: export(load_model(study, "unified"), tmp_path / "unified.safetensors"))
    assert "averages several networks, and a safetensors file holds one" in str(said)
    assert list(tmp_path.iterdir()) == []


def test_the_format_follows_from_the_file_s_name_or_is_refused() -> None:
    check_format(Path("a.onnx"), None)
    check_format(Path("a.safetensors"), "safetensors")
    for name, asked, words in (
        ("a.onnx", "safetensors", "a.onnx: the name of the file must end in .safetensors"),
        ("a.pt", None, "must end in .onnx or .safetensors"),
        ("a.onnx", "tflite", "--format tflite: there is no such format. Options: onnx, safetensors"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            check_format(Path(name), asked)


def test_an_arm_can_t_be_chosen_in_a_file(wrist_file: Path) -> None:
    with pytest.raises(MuraError, match="--arm unified: chooses among the runs of a study"):
        load_model(wrist_file, "unified")
    assert load_exported(wrist_file).fitted() == {}


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_without_the_extra_it_is_named(
    library: str, wrist: Path, wrist_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for ask in (lambda: export(load_run(wrist), tmp_path / "wrist.onnx"), lambda: load_model(wrist_file)):
        said = str(refusal(ask))
        assert f"needs {library}, which can't be imported: pip install -e '.[export]'" in said
    assert list(tmp_path.iterdir()) == []


def test_a_pytorch_too_old_to_write_onnx_files_is_named(
    wrist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "OLDEST_EXPORTER", "99.1")
    said = str(refusal(lambda: export(load_run(wrist), tmp_path / "wrist.onnx")))
    assert "needs PyTorch 99.1 or newer to be written; this is 2." in said
    assert list(tmp_path.iterdir()) == []


def test_a_model_says_whether_it_learnt_from_drawings_and_its_exports_say_it_too(wrist: Path, tmp_path: Path) -> None:
    runs = {said: tmp_path / str(said) / "wrist" / "seed0" for said in (True, False)}
    for said, run in runs.items():
        shutil.copytree(wrist, run)
        metrics = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(metrics | {"synthetic": said}))
        export(load_model(run), tmp_path / f"{said}.safetensors")
        for place in (run, run / "checkpoints" / "best.ckpt", tmp_path / str(said), tmp_path / f"{said}.safetensors"):
            assert load_model(place).is_synthetic() is said
    assert load_model(wrist).is_synthetic() is None
