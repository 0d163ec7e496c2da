"""One process of several fails: it says why in words that help, ends the others and waits for none of them."""

import inspect
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mura.errors import MuraError
from mura.launch.jobs import Job, run_jobs
from mura.runs.folder import RunFolder
from mura.training.distributed import Companions
from mura.training.shutdown import SigtermAsBefore, meaning_of

FAILING = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from types import SimpleNamespace
import torch
from mura.config.sentences import exit_with_sentence
from mura.runs.folder import RunFolder, resumable
from mura.signals import answering_signals
from mura.training import distributed, shutdown

folder, what = Path(sys.argv[1]), sys.argv[2]
distributed.SECONDS_TO_END = 1.0
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / "other").write_text(str(other.pid))
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
torch.distributed.destroy_process_group = lambda: time.sleep(600)  # as NCCL's, which waits for the other process

def hang():  # in C, where Python's handlers are not called
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def fail():
    if what == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if what == "fault":
        raise ValueError("a fault of the program")
    if what == "teardown":  # Lightning waits for the device on the way up
        [companions] = trainer.callbacks
        companions.on_exception(trainer, None, torch.OutOfMemoryError("CUDA out of memory"))
        hang()
    threading.Timer(0.3, os.kill, (os.getpid(), int(what))).start()
    hang()

trainer = SimpleNamespace(
    world_size=2, local_rank=0, interrupted=False, loggers=[], callbacks=[],
    strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[other])),
    datamodule=SimpleNamespace(batch_size=32, accumulate=1, pictures_on_gpu=False),
)
run = RunFolder(folder)
signal.signal(signal.SIGINT, signal.default_int_handler)
with answering_signals(), exit_with_sentence(), resumable(run), shutdown.clean_end(trainer, run):
    fail()
"""


def test_a_failing_process_says_why_ends_the_others_and_waits_for_none(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    memory = "out of memory with data.batch_size=32, data.accumulate=1: data.accumulate=2"
    expected = {
        "memory": (1, memory), "fault": (1, "ValueError: a fault of the program"), "teardown": (1, memory),
        "2": (130, "stopped; go on with: python train.py resume="), "15": (143, "stopped; go on with: "),
    }  # fmt: skip
    jobs = [Job(what, [str(tmp_path / what), what], tmp_path / what) for what in expected]
    outcomes = run_jobs(script, jobs, lambda *_: None, workers=len(jobs), captured=True)
    for outcome in outcomes:
        code, sentence = expected[outcome.job.name]
        said = outcome.job.log.read_text()
        assert outcome.exit_code == code, said
        assert said.count(sentence) == 1
        assert ("Traceback" in said) == (outcome.job.name == "fault")
        other = (outcome.job.folder / "other").read_text()
        state = subprocess.run(["ps", "-o", "state=", "-p", other], capture_output=True, text=True).stdout.strip()
        assert state in ("", "Z"), f"{outcome.job.name} left the other process behind"


MakeCompanions = Callable[..., Companions]


@pytest.fixture
def companions_of(tmp_path: Path) -> Iterator[MakeCompanions]:
    """Yield what makes the companions of a first process of two, the second of which runs a command."""
    made: list[subprocess.Popen[bytes]] = []

    def make(*command: str) -> Companions:
        made.append(subprocess.Popen(command))
        trainer: Any = SimpleNamespace(
            world_size=2, local_rank=0, interrupted=False,
            strategy=SimpleNamespace(launcher=SimpleNamespace(procs=list(made))),
            datamodule=SimpleNamespace(batch_size=32, accumulate=1, pictures_on_gpu=False),
        )  # fmt: skip
        return Companions(trainer, RunFolder(tmp_path), meaning_of)

    yield make
    for process in made:
        process.kill()
        process.wait()


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:77, unhandled system error (run with NCCL_DEBUG=INFO for details)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"{NCCL}\nLast error:\nError while creating shared memory segment /dev/shm/nccl-x (size 9637888)",
         r"\(Error while creating shared memory segment /dev/shm/nccl-x .*--shm-size"),
        (f"{NCCL}\nncclInvalidUsage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
         r"\(Duplicate GPU detected .*CUDA_VISIBLE_DEVICES must name each card once"),
        (f"{NCCL}\nLast error:\nCuda failure 2 'out of memory'", r"out of memory with data\.batch_size=32"),
        (f"{NCCL}\nLast error:\nsomething of its own", r"\(something of its own\): NCCL_DEBUG=INFO shows more"),
        (f"{NCCL}\nncclRemoteError: a call failed possibly due to a remote process exiting prematurely",
         "another process of this run has ended; go on with"),
        ("[gloo] Connection closed by peer [127.0.0.1]:3021", "another process of this run has ended; go on with"),
    ],
)  # fmt: skip
def test_an_error_of_nccl_is_said_in_its_own_words_unless_a_process_is_gone(
    words: str, expected: str, companions_of: MakeCompanions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura.training.distributed.GRACE", 0.0)
    with pytest.raises(MuraError, match=expected):
        raise meaning_of(RuntimeError(words), companions_of("sleep", "600"))


def test_an_error_of_nccl_beside_a_dead_process_is_that_processs_end(companions_of: MakeCompanions) -> None:
    with pytest.raises(MuraError, match="another process of this run has ended; go on with"):
        raise meaning_of(RuntimeError(NCCL), companions_of("false"))


def test_an_error_of_the_program_is_no_error_of_the_connection(companions_of: MakeCompanions) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert meaning_of(error, companions_of("sleep", "600")) is error


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("callbacks", "expected"), [([], 1), ([SigtermAsBefore()], 0)])
def test_the_processes_of_a_run_do_not_ask_each_other_for_sigterm_before_each_batch(
    callbacks: list[Callback], expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = Trainer(
        accelerator="cpu", fast_dev_run=True, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(3, 1)), collate_fn=lambda rows: torch.stack(rows[0])))
    asked = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: asked.append(1))
    loop = trainer.fit_loop.epoch_loop
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(type(loop).advance), "Lightning asks otherwise now"
    loop._broadcast_sigterm_tensor()
    assert len(asked) == expected


def test_a_network_without_a_deterministic_way_is_named(companions_of: MakeCompanions) -> None:
    companions = companions_of("sleep", "600")
    companions.trainer.lightning_module = SimpleNamespace(hparams={"name": "some_net"})  # type: ignore[misc, assignment]
    words = "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_"
    with pytest.raises(MuraError, match=r"deterministic=true: some_net can't .* adaptive_max_pool2d_backward_cuda"):
        raise meaning_of(RuntimeError(words), companions)
