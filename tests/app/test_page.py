"""`mura app`: the page says what `mura predict` says, keeps nothing, and answers nobody but itself."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from browser import chromium
from command import mura
from dicom_files import NUMBER_MARK, TEXT_MARK, dataset, mark_every_text_tag, saved
from PIL import Image
from refusals import refusal

pytest.importorskip("uvicorn")

from mura.app import server, uploads
from mura.app.page import application
from mura.app.server import HOST, listen, server_of
from mura.data.images import decode
from mura.inference import gradcam
from mura.inference.loading import TorchModel
from mura.inference.models import load_model
from mura.inference.predict import Model

SHARED = Path("cnn2", "shared", "seed0")
WRIST = {"extremity": "wrist", "one_study": "on"}

DROP = """
const data = new DataTransfer();
for (const name of ["a.png", "b.png"]) data.items.add(new File(["x"], name));
document.querySelector(".drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
"""

Files = Sequence[tuple[str, bytes]]


class Said(NamedTuple):
    """An answer of the server; `words` is its text without pictures."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def words(self) -> str:
        return re.sub(r'"data:[^"]*"', '""', self.text)

    def values(self, name: str = "probability") -> list[float]:
        return [float(value) for value in re.findall(rf'<data class="{name}" value="([^"]+)"', self.text)]

    @property
    def names(self) -> list[str]:
        return [unescape(name) for name in re.findall(r"<h4>(.*)</h4>", self.text)]

    @property
    def warnings(self) -> list[str]:
        return [unescape(warning) for warning in re.findall(r'<p class="warning">(.*)</p>', self.text)]


class Page:
    """A page that is served, as a client sees it that is no browser."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://{HOST}:{port}"

    def ask(self, method: str, path: str = "/", headers: dict[str, str] | None = None, body: object = None) -> Said:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Said(answer.status, headers, answer.read().decode())
        finally:
            connection.close()

    def send(self, files: Files, **fields: str) -> Said:
        body, headers = form_of(files, fields)
        return self.ask("POST", "/", headers | {"Origin": self.address}, body)


def form_of(files: Files, fields: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return a form as a browser sends it, and its header."""
    boundary = b"7dbe91"
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts += [b'name="pictures"; filename="' + name.encode() + b'"\r\n\r\n' + content for name, content in files]
    body = b"".join(b"--" + boundary + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    return body + b"--" + boundary + b"--\r\n", {"Content-Type": "multipart/form-data; boundary=7dbe91"}


@contextmanager
def served(model: Model) -> Iterator[Page]:
    with listen(0) as listener, ThreadPoolExecutor(1) as worker:
        port = listener.getsockname()[1]
        running = server_of(application(model, port, worker))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield Page(port)
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def page(study: Path) -> Iterator[Page]:
    """The page of the study's specialised arm, which knows hand and wrist."""
    with served(load_model(study, "specialised")) as running:
        yield running


@pytest.fixture
def shared(study: Path) -> Iterator[Page]:
    """The page of a run with a head for each extremity."""
    with served(load_model(study / SHARED)) as running:
        yield running


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, in which nothing is left by any test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def folder(mura_root: Path, tmp_path: Path) -> Path:
    """A wrist study of three pictures."""
    patients = sorted((mura_root / "valid" / "XR_WRIST").iterdir())
    study = max((next(patient.iterdir()) for patient in patients), key=lambda study: len(list(study.iterdir())))
    return Path(shutil.copytree(study, tmp_path / "XR_WRIST" / "study"))


@pytest.fixture
def files(folder: Path) -> Files:
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def predicted(model: Path, *arguments: object) -> list[dict]:
    return json.loads(mura("predict", model, *arguments, "--json").stdout)["pictures"]


def test_the_page_says_what_predict_says_of_the_same_files(page: Page, study: Path, folder: Path, files: Files) -> None:
    said = page.send(files, **WRIST)
    rows = predicted(study, folder, "--arm", "specialised")
    assert said.status == 200
    assert said.values() == [row["probability"] for row in rows]
    assert said.values("study-probability") == [rows[0]["study_probability"]]
    assert said.names == [name for name, _ in files]
    assert re.findall(r"<strong>(\w+)</strong>: prob", said.text) == [
        "abnormal" if row["probability"] > 0.5 else "normal" for row in rows
    ]
    assert said.text.count('src="data:image/jpeg;base64,') == 2 * len(files)

    alone = page.send(files, extremity="wrist")
    assert alone.values() == said.values()
    assert alone.values("study-probability") == [], "each picture is a study of its own"


def test_dicom_files_tell_their_study_and_nothing_of_whom_they_show(page: Page, study: Path, folder: Path) -> None:
    views = [decode(path) for path in sorted(folder.iterdir())]
    uids = (f"1.2.{NUMBER_MARK}.1", f"1.2.{NUMBER_MARK}.2", f"1.2.{NUMBER_MARK}.1")
    made = [
        saved(mark_every_text_tag(dataset(pixels, 8, StudyInstanceUID=uid)))
        for pixels, uid in zip(views, uids, strict=True)
    ]
    bare = made[0][:-100]
    said = page.send([*((f"view{i}", content) for i, content in enumerate(made)), ("cut", bare)], extremity="wrist")
    rows = predicted(study, folder, "--arm", "specialised")
    assert sorted(said.values()) == sorted(row["probability"] for row in rows)
    assert said.names == ["view0", "view2", "view1"]
    assert said.values("study-probability") == pytest.approx([(rows[0]["probability"] + rows[2]["probability"]) / 2])
    assert said.warnings == ["cut is a damaged or truncated DICOM file."]
    words = re.sub(r"<data.*?</data>|<svg.*?</svg>", "", said.words)
    assert TEXT_MARK not in words
    assert NUMBER_MARK not in words


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ("../../../escape.png", "../../../escape.png"),
        ("{{ 7 * 7 }}.dcm", "{{ 7 * 7 }}.dcm"),
        ("a\x1b[31m\u202egnp.exe", "a\\x1b[31m\\u202egnp.exe"),
        ("é骨.png", "é骨.png"),
        ("n" * 400 + ".png", "…" + "n" * 116 + ".png"),
    ],
)
def test_a_name_is_text_and_never_a_path(page: Page, files: Files, name: str, shown: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = page.send([(name, files[0][1]), (name, b"no picture")], **WRIST)
    assert said.names == [shown]
    assert said.warnings == [f"{shown} is not a PNG, JPEG, TIFF, BMP or DICOM picture."]
    assert "<img src=x" not in said.words
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cant_be_read_is_a_sentence_and_a_blank_picture_a_warning(page: Page, files: Files) -> None:
    bad = [("cut.png", files[0][1][:300]), ("huge.png", png(np.zeros((9000, 9000), bool))), ("empty", b"")]
    said = page.send([*bad, files[1], ("black.png", png(np.zeros((30, 40), np.uint8)))], **WRIST)
    assert said.status == 200
    assert said.names == [files[1][0], "black.png"]
    assert said.warnings == [
        "cut.png is truncated: it ends after 300 bytes.",
        "huge.png declares 9000 x 9000 pixels, more than any radiograph; not decoded.",
        "empty is empty (0 bytes).",
        "black.png is blank: all its pixels are 0 of 255; its probability says nothing.",
    ]
    nothing = page.send(bad[:1], **WRIST)
    assert (nothing.status, nothing.warnings) == (422, said.warnings[:1])
    assert (page.send([], **WRIST).status, page.send([("", b"")], **WRIST).status) == (422, 422)


def test_a_model_that_must_know_what_it_looks_at_asks_for_it(page: Page, files: Files) -> None:
    assert re.findall(r"<option>(\w+)", page.ask("GET").text) == ["hand", "wrist"]
    for fields in ({}, {"extremity": ""}, {"extremity": "knee"}, {"extremity": "elbow"}):
        said = page.send(files, **fields)
        assert said.status == 422
        assert said.warnings == ["This model must know what the pictures show: choose one of hand, wrist."]


def test_too_much_is_refused_before_it_is_read_or_while_it_comes(
    page: Page, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers = form_of(files, WRIST)
    headers |= {"Origin": page.address}
    announced = page.ask("POST", "/", headers | {"Content-Length": str(uploads.MOST_BYTES_TOGETHER + 1)})
    assert (announced.status, announced.warnings) == (413, [f"That is too much. {uploads.LIMITS}"])
    assert page.send([files[0]] * (uploads.MOST_FILES + 1), **WRIST).status == 413
    assert page.send([files[0]] * uploads.MOST_FILES, **WRIST).status == 200

    assert page.ask("POST", "/", headers, iter([body])).status == 200
    monkeypatch.setattr(uploads, "MOST_BYTES", len(files[0][1]) - 1)
    assert page.send(files[:1], **WRIST).status == 413
    monkeypatch.setattr(uploads, "MOST_BYTES_TOGETHER", len(body) - 1)
    assert page.ask("POST", "/", headers, iter([body])).status == 413, "without a Content-Length, it is counted"
    assert page.ask("POST", "/", headers, body).status == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example:{}"])
def test_another_host_is_refused(page: Page, host: str) -> None:
    said = page.ask("GET", "/", {"Host": host.format(page.port)})
    assert said.status == 421
    assert "<" not in said.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:{}"},  # the page is at 127.0.0.1 here
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:{}"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    ],
)
def test_a_form_of_another_page_is_refused(page: Page, files: Files, headers: dict[str, str]) -> None:
    body, kind = form_of(files, WRIST)
    own = {name: value.format(page.port) for name, value in headers.items()}
    assert page.ask("POST", "/", kind | own, body).status == 403


def test_the_page_itself_is_answered_by_either_name(page: Page, files: Files) -> None:
    body, kind = form_of(files[:1], WRIST)
    for name in (HOST, "localhost", "LOCALHOST"):
        host = f"{name}:{page.port}"
        origin = {"Host": host, "Origin": f"http://{host.lower()}"}
        assert page.ask("GET", "/", {"Host": host}).status == 200
        assert page.ask("POST", "/", kind | origin, body).status == 200
    without_script = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}  # since the page gives no referrer
    assert page.ask("POST", "/", kind | without_script, body).status == 200


def test_every_answer_tells_the_browser_to_load_and_keep_nothing(page: Page, files: Files) -> None:
    body, kind = form_of(files, WRIST)
    own = kind | {"Origin": page.address}
    answers = {
        200: page.ask("GET"), 400: page.ask("POST", "/", own, b"no form"), 403: page.ask("POST", "/", kind, body),
        404: page.ask("GET", "/nothing"), 405: page.ask("PUT", "/", own), 421: page.ask("GET", "/", {"Host": "other"}),
    }  # fmt: skip
    for status, said in answers.items():
        assert said.status == status
        policy = said.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert said.headers["x-content-type-options"] == "nosniff"
        assert said.headers["cache-control"] == "no-store"
        assert said.headers["referrer-policy"] == "no-referrer"
        assert "server" not in said.headers


def test_a_folder_that_cant_be_written_is_a_sentence(
    page: Page, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    large = png(np.random.default_rng(0).integers(0, 256, (1100, 1100), np.uint8))  # more than is kept in memory
    for each in (files[0], ("large.png", large)):
        said = page.send([each], **WRIST)
        assert said.status == 507
        assert said.warnings == ["The pictures can't be put into a temporary folder (No such file or directory)."]


def test_one_thing_is_asked_at_a_time_and_a_fault_of_the_program_leaves_nothing(
    wrist: Path, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, most = [], []
    answer = TorchModel.probabilities

    def watched(self: TorchModel, *batch: object) -> np.ndarray:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return answer(self, *batch)

    monkeypatch.setattr(TorchModel, "probabilities", watched)
    with served(load_model(wrist)) as page:
        with ThreadPoolExecutor(4) as pool:
            statuses = [each.status for each in pool.map(lambda _: page.send(files), range(4))]
        assert (statuses, max(most), len(most)) == ([200] * 4, 1, 4)
        monkeypatch.setattr(TorchModel, "probabilities", lambda *_: 1 / 0)
        said = page.send(files)
        assert said.status == 500
        assert said.warnings == ["Something failed that should not; the terminal of mura app says what."]
    assert "ZeroDivisionError" in caplog.text


def test_a_model_that_cant_be_explained_answers_and_says_why(
    wrist: Path, wrist_file: Path, files: Files, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(gradcam.LAYERS, "cnn")
    for model, why in ((wrist_file, "an ONNX file answers"), (wrist, "has no feature maps for Grad-CAM")):
        with served(load_model(model)) as page:
            said = page.send(files, one_study="on")
        assert said.values() == [row["probability"] for row in predicted(model, folder)]
        assert said.text.count('src="data:image/jpeg;base64,') == len(files)
        [warning] = said.warnings
        sentence = refusal(lambda model=model: mura("explain", model, folder, "--out", tmp_path / "out"))
        assert warning == f"No heat maps: {sentence}"
        assert why in warning
        assert not (tmp_path / "out").exists()


def test_the_card_is_that_of_the_run_and_synthetic_data_are_said(wrist: Path, wrist_file: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(wrist, tmp_path / "run"))
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"synthetic": True}))
    with served(load_model(run / "checkpoints" / "best.ckpt")) as page:
        card = page.ask("GET", "/card")
        assert card.status == 200
        assert "<h2>Intended use</h2>" in card.text
        assert "<table>" in card.text
        assert "learnt from synthetic radiographs" in page.ask("GET").text
    (run / "metrics.json").unlink()
    for model, place in ((run, run), (wrist_file, wrist_file), (wrist, None)):
        with served(load_model(model)) as page:
            said = page.ask("GET")
            assert "not a medical device" in said.text
            assert "synthetic radiographs" not in said.text
            card = page.ask("GET", "/card")
            assert card.status == (404 if place else 200)
            assert all(str(place) in warning for warning in card.warnings)


def test_a_page_that_cant_be_made_is_refused_in_a_sentence(
    wrist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        said = refusal(lambda: mura("app", wrist, "--port", port))
        assert said == f"--port {port}: can't be had (Address already in use); name another, or leave it out."
    for port in (-1, 65536, 10**30):
        said = refusal(lambda port=port: mura("app", wrist, "--port", port))
        assert said == f"--port {port}: a port lies between 1 and 65535; leave it out for a free one."
    absent = tmp_path / "absent"
    said = refusal(lambda: mura("app", absent))
    assert said == refusal(lambda: mura("predict", absent, wrist))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refusal(lambda: mura("app", absent)) == "mura app needs uvicorn: pip install -e '.[app]' in the clone."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_page_cleanly(wrist: Path, number: int) -> None:
    port, answered = free_port(), []

    def visit() -> None:
        answered.append(patiently(port).ask("GET").status)
        os.kill(os.getpid(), number)

    with ThreadPoolExecutor(1) as visitor:
        visitor.submit(visit)
        ended = mura("app", wrist, "--port", port)
    assert ended.exit_code == 128 + number
    assert answered == [200]
    assert ended.stdout == f"http://{HOST}:{port}/ (of this machine only; Ctrl-C ends it)\n"
    with listen(port):
        pass


def test_a_signal_while_a_picture_is_asked_and_another_comes_leaves_nothing(
    wrist: Path, files: Files, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0)
    port, begun, answered = free_port(), threading.Event(), []
    body, headers = form_of(files, WRIST)
    headers |= {"Origin": f"http://{HOST}:{port}"}
    answer = TorchModel.probabilities

    def take_long(self: TorchModel, *batch: object) -> np.ndarray:
        begun.set()
        time.sleep(1)
        return answer(self, *batch)

    def visit() -> None:
        page = patiently(port)
        with socket.create_connection((HOST, port)) as stalled, ThreadPoolExecutor(1) as pool:
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            stalled.sendall(f"POST / HTTP/1.1\r\nHost: {HOST}:{port}\r\n{''.join(lines)}".encode())
            stalled.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:-10])
            asking = pool.submit(page.ask, "POST", "/", headers, body)
            begun.wait()
            answered.append(len(list(temporary.iterdir())))
            os.kill(os.getpid(), signal.SIGTERM)
            answered.append(asking.result().status)

    monkeypatch.setattr(TorchModel, "probabilities", take_long)
    with ThreadPoolExecutor(1) as visitor:
        visitor.submit(visit)
        ended = mura("app", wrist, "--port", port)
    assert (ended.exit_code, answered) == (143, [1, 503])
    assert ended.stderr.endswith(": stopped.\n")
    assert (ended.stderr.count("\n"), caplog.text) == (1, "")


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def patiently(port: int) -> Page:
    """Return the page at a port as soon as something listens there."""
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return Page(port)


@pytest.fixture
def browser() -> Iterator[object]:
    with chromium() as opened:
        yield opened


def test_in_a_browser_a_picture_is_chosen_by_keyboard_and_answered(
    browser: object, shared: Page, study: Path, folder: Path
) -> None:
    said, asked = [], []
    page, picture = shared, sorted(folder.iterdir())[0]
    [first] = predicted(study / SHARED, picture, "--extremity", "wrist")
    for has_script in (True, False):
        context = browser.new_context(viewport={"width": 390, "height": 800}, java_script_enabled=has_script)
        opened = context.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(f"{page.address}/")
        if has_script:
            opened.evaluate(DROP)
            assert opened.evaluate("document.querySelector('[type=file]').files.length") == 2
        opened.get_by_label("Pictures", exact=False).set_input_files(picture)
        opened.get_by_label("What they show").select_option("wrist")
        opened.get_by_role("button", name="Ask the model").focus()
        opened.keyboard.press("Enter")
        opened.get_by_role("heading", name="Answers").wait_for()
        assert opened.locator("data.probability").get_attribute("value") == str(first["probability"])
        assert opened.locator("img").count() == 2
        if has_script:
            widths = opened.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
            assert min(widths) > 0
            assert opened.evaluate("document.documentElement.scrollWidth") <= 390
            opened.get_by_role("link", name="Model card").click()
            opened.get_by_role("heading", name="Intended use").wait_for()
        context.close()
    assert said == []
    assert {address.split("?")[0] for address in asked if not address.startswith("data:")} <= {
        f"{page.address}/", f"{page.address}/card",
    }  # fmt: skip
