import copy
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from killed_runs import Kill
from models import elbo, tiny
from torch.optim.lr_scheduler import (
    CyclicLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import vaekit as vk
from vaekit import storage
from vaekit.training import (
    Checkpoints,
    DamagedFileError,
    History,
    NonFiniteLossError,
    fit,
    load_checkpoint,
)
from vaekit.training.settings import differs

DATA = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


class Stop(Kill):
    """Fails in the middle of a step, as a process that is killed there would end."""

    def end(self) -> None:
        raise RuntimeError("the power went")


def run(
    folder, stop: int | None = None, *, model=None, data=None, **options
) -> tuple[vk.VAE, History]:
    """Train with what may be a fresh copy of everything, up to a step within which it fails."""
    model = tiny() if model is None else model
    made = DATA if data is None else data() if callable(data) else data
    options = {"steps": 14, "batch_size": 32, "seed": 0, "progress": False} | options
    if folder is not None and not isinstance(folder, Checkpoints):
        folder = Checkpoints(folder, every=2)
    objective = elbo() + Stop(stop)
    if stop is None:
        return model, fit(model, objective, made, checkpoint=folder, **options)
    with pytest.raises(RuntimeError, match="the power went") as caught:
        fit(model, objective, made, checkpoint=folder, **options)
    return model, caught.value.history


def alike(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, others = one.state_dict(), other.state_dict()
    return list(mine) == list(others) and all(torch.equal(mine[key], others[key]) for key in mine)


def numbers(history: History) -> dict:
    found = history.to_dict()
    found.pop("seconds")
    return found


def files(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*.safetensors"))


def files_of(folder: Path) -> list[Path]:
    return list(folder.glob("step-*.safetensors"))


POINTS = [f"step{n}" for n in sorted(np.random.default_rng(0).permutation(40)[:20].tolist())]
POINTS += ["before1", "before2", "before4", "after1", "after3"]
FULL = ["full0", "full7", "full20"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, list]:
    """What runs ended with that were cut off: at twenty random steps, and as a file was written."""
    script = Path(__file__).with_name("killed_runs.py")
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(script), str(folder), *POINTS, *FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr
    found: dict[str, list] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_ends_as_if_it_had_not_been(killed, point: str) -> None:
    signalled, ended = killed[point]
    assert signalled == signal.SIGKILL
    assert len(killed["alone"]) == 64
    assert ended == killed["alone"]


@pytest.mark.parametrize("point", FULL)
def test_a_run_that_filled_the_disk_goes_on_when_there_is_room(killed, point: str) -> None:
    failed, ended = killed[point]
    assert failed.startswith("OSError")
    assert "could not be written to" in failed
    assert ended == killed["alone"]


class Noisy(Dataset):
    """Draws from torch, numpy and Python as it is read."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        # numpy's global generator is one that people draw from, and so is to be written down.
        return DATA[index] * (torch.rand(()) < 0.9) * float(np.random.rand() < 0.9)  # noqa: NPY002


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(60):
            yield DATA[torch.randint(100, ())]


def own_order() -> DataLoader:
    order = torch.Generator().manual_seed(8)
    return DataLoader(TensorDataset(DATA), 16, shuffle=True, generator=order)


class ByEpoch(IterableDataset):
    """Has an order that goes by the number of the epoch, as those of Hugging Face have."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(self.epoch))
        return iter(DATA[order])


def persistent(shuffle: bool = True) -> DataLoader:
    options = {"num_workers": 1, "persistent_workers": True, "shuffle": shuffle}
    return DataLoader(TensorDataset(DATA), 16, **options)


SOURCES: dict[str, Callable[[], object]] = {
    "array": lambda: DATA,
    "dynamic": lambda: vk.datasets.from_tensors(DATA, binarize="dynamic"),
    "data set": Noisy,
    "loader": lambda: DataLoader(Noisy(), 16, shuffle=True),
    "loader's own order": own_order,
    "workers": lambda: DataLoader(Noisy(), 16, shuffle=True, num_workers=2),
    "workers that live on": persistent,
    "workers that live on, in order": lambda: persistent(shuffle=False),
    "stream": Stream,
    "stream by epoch": lambda: DataLoader(ByEpoch(), 16),
    "list": lambda: list(DATA.split(20)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_whatever_the_data_come_from(tmp_path: Path, name: str) -> None:
    whole, history = run(None, data=SOURCES[name])
    run(tmp_path, 9, data=SOURCES[name])
    assert files(tmp_path)[-1] == 8
    resumed, again = run(tmp_path, data=SOURCES[name], resume=True)
    assert alike(whole, resumed)
    assert numbers(history) == numbers(again)


SCHEDULERS: dict[str, Callable] = {
    "steps": lambda optimizer: StepLR(optimizer, 3, 0.5),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.01, total_steps=14),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [StepLR(optimizer, 1, 2.0), StepLR(optimizer, 2, 0.5)], [5]
    ),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
}


#: A scheduler, another, and how the first is told.
OPTIONS: dict[str, tuple[Callable, Callable, str]] = {
    "steps": (SCHEDULERS["steps"], lambda given: StepLR(given, 4, 0.5), "step_size=3"),
    "one cycle": (
        SCHEDULERS["one cycle"],
        lambda given: OneCycleLR(given, 0.01, total_steps=20),
        "total_steps=14",
    ),
    "highest": (
        SCHEDULERS["one cycle"],
        lambda given: OneCycleLR(given, 0.1, total_steps=14),
        "max_lr=[0.01]",
    ),
    "sequence": (
        SCHEDULERS["sequence"],
        lambda given: SequentialLR(given, [StepLR(given, 1, 2.0), StepLR(given, 2, 0.1)], [5]),
        "StepLR(step_size=2, gamma=0.5)",
    ),
    "milestones": (
        lambda given: MultiStepLR(given, [3, 6]),
        lambda given: MultiStepLR(given, [3, 7]),
        "milestones=[3, 6]",
    ),
    "cyclic": (
        lambda given: CyclicLR(given, 1e-3, 1e-2, 3, cycle_momentum=False),
        lambda given: CyclicLR(given, 1e-3, 1e-2, 4, cycle_momentum=False),
        "total_size=6",
    ),
    "plateau": (
        SCHEDULERS["plateau"],
        lambda given: ReduceLROnPlateau(given, patience=1, threshold=0.5),
        "patience=0",
    ),
}


def with_layer(layer: torch.nn.Module) -> vk.VAE:
    model = tiny()
    model.encoder.net.layers[1] = layer
    return model


def relaxed() -> vk.VAE:
    """A model with a temperature that is annealed."""
    torch.manual_seed(0)
    model, _ = vk.recipes.categorical_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 3, 4)
    return model


@pytest.mark.parametrize("name", SCHEDULERS)
def test_whatever_the_scheduler(tmp_path: Path, name: str) -> None:
    options = {"scheduler": SCHEDULERS[name], "validation": DATA, "validate_every": 3}
    whole, history = run(None, **options)
    assert len(set(history.learning_rate)) > 1
    run(tmp_path, 10, **options)
    resumed, again = run(tmp_path, resume=True, **options)
    assert alike(whole, resumed)
    assert numbers(history) == numbers(again)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, 1e-4, momentum=0.9),
        lambda parameters: torch.optim.RMSprop(parameters, 1e-4, centered=True),
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, amsgrad=True),
        lambda parameters: torch.optim.Adafactor(parameters, 1e-2),
    ],
)
def test_whatever_the_optimizer(tmp_path: Path, optimizer) -> None:
    whole, _ = run(None, optimizer=optimizer)
    run(tmp_path, 5, optimizer=optimizer)
    resumed, _ = run(tmp_path, resume=True, optimizer=optimizer)
    assert alike(whole, resumed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_whatever_the_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    whole, _ = run(None, model=tiny().to(dtype))
    run(tmp_path, 5, model=tiny().to(dtype))
    resumed, _ = run(tmp_path, model=tiny().to(dtype), resume=True)
    assert alike(whole, resumed)
    assert next(resumed.parameters()).dtype == dtype


@pytest.mark.parametrize(
    "options",
    [{"accumulate": 3}, {"recompute": True}, {"precision": "bf16"}, {"precision": "fp16"}],
    ids=repr,
)
def test_whatever_the_way_of_computing(tmp_path: Path, options: dict) -> None:
    def deep() -> vk.VAE:
        torch.manual_seed(0)
        net = vk.networks.mlp(64, [16, 16, 16], 4)
        return vk.VAE(vk.Encoder(net, vk.GaussianLatent(2)), tiny().decoder)

    whole, history = run(None, model=deep(), **options)
    run(tmp_path, 9, model=deep(), **options)
    resumed, again = run(tmp_path, model=deep(), resume=True, **options)
    assert alike(whole, resumed)
    assert numbers(history) == numbers(again)


def test_on_a_device(tmp_path: Path, device) -> None:
    run(tmp_path, 5, model=tiny().to(device))
    resumed, history = run(tmp_path, model=tiny().to(device), resume=True)
    assert next(resumed.parameters()).device.type == torch.device(device).type
    assert history.step[-1] == 14


def test_whatever_the_memory_layout(tmp_path: Path) -> None:
    def convolutional() -> vk.VAE:
        torch.manual_seed(0)
        net = vk.networks.conv((1, 8, 8), [4, 8], 4)
        model = vk.VAE(vk.Encoder(net, vk.GaussianLatent(2)), tiny().decoder)
        return model.to(memory_format=torch.channels_last)

    whole, _ = run(None, model=convolutional())
    run(tmp_path, 7, model=convolutional())
    resumed, _ = run(tmp_path, model=convolutional(), resume=True)
    assert alike(whole, resumed)


class Counting:
    """A callback with a state: it freezes the encoder at its third call."""

    def __init__(self) -> None:
        self.calls = 0

    def state_dict(self) -> dict:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict) -> None:
        self.calls = state["calls"]

    def __call__(self, state: vk.training.TrainingState) -> None:
        self.calls += 1
        if self.calls == 3:
            state.optimizer.param_groups[0]["lr"] = 0.1


def test_callbacks_that_have_a_state(tmp_path: Path) -> None:
    options = {"validate_every": 3}
    whole, _ = run(None, callbacks=[Counting()], **options)
    run(tmp_path, 7, callbacks=[Counting()], **options)
    counting = Counting()
    resumed, _ = run(tmp_path, callbacks=[counting], resume=True, **options)
    assert counting.calls == 5
    assert alike(whole, resumed)


def test_a_checkpoint_of_version_0_1(tmp_path: Path) -> None:
    """It was written by ``run(folder, 9, ema=0.9, scheduler=SCHEDULERS["steps"], ...)``."""
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).with_name("checkpoint_0_1"), folder)
    assert load_checkpoint(tiny(), folder).step == [4, 8]
    options = {"scheduler": SCHEDULERS["steps"], "validation": DATA, "ema": 0.9}
    whole, _ = run(None, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "resume: the run began with")  # other versions, by now
        resumed, history = run(folder, resume=True, **options)
    assert history.step == [4, 8, 12, 14]
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_a_checkpoint_of_a_newer_version(tmp_path: Path) -> None:
    storage.write(tmp_path, "step-00000003", {"format": 2, "all else": "of another kind"})
    before = files(tmp_path)
    for ask in (lambda: run(tmp_path, resume=True), lambda: load_checkpoint(tiny(), tmp_path)):
        with pytest.raises(ValueError, match="checkpoint: expected one of format 1 at most"):
            ask()
    assert files(tmp_path) == before


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    storage.write(tmp_path, "step-00000003", {"weights": torch.zeros(2)})
    with pytest.raises(DamagedFileError, match="holds no state of a run"):
        run(tmp_path, resume=True)


class TestPatience:
    def test_the_best_weights_are_remembered(self, tmp_path: Path) -> None:
        options = {"validation": DATA, "validate_every": 2, "patience": 2, "steps": 60}
        options["learning_rate"] = 0.3  # which soon makes it worse
        whole, history = run(None, **options)
        assert history.stopped == "early"
        run(tmp_path, history.step[-1] - 1, **options)
        resumed, again = run(tmp_path, resume=True, **options)
        assert again.stopped == "early"
        assert alike(whole, resumed)
        once_more, ended = run(tmp_path, resume=True, **options)
        assert alike(whole, once_more)
        assert numbers(ended) == numbers(history)

    def test_patience_from_the_middle_is_refused(self, tmp_path: Path, refuses) -> None:
        """The weights of the rows before were not kept for it."""
        options = {"validation": DATA, "validate_every": 2}
        run(tmp_path, **options)
        again = {"steps": 20, "resume": True, "progress": False, "batch_size": 32, "seed": 0}
        again |= options | {"checkpoint": tmp_path, "patience": 3}
        words = "patience: expected None, as in the checkpoint"
        refuses(ValueError, lambda: fit(tiny(), elbo() + Stop(None), DATA, **again), words)

    def test_more_patience_goes_on(self, tmp_path: Path) -> None:
        options = {"validation": DATA, "validate_every": 2, "steps": 60, "learning_rate": 0.3}
        _, history = run(tmp_path, patience=1, **options)
        _, longer = run(tmp_path, patience=4, resume=True, **options)
        assert longer.step[-1] > history.step[-1]


class TestGoingOn:
    def test_from_nothing(self, tmp_path: Path) -> None:
        whole, _ = run(None)
        resumed, _ = run(tmp_path / "new", resume=True)
        assert alike(whole, resumed)

    def test_a_finished_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        whole, history = run(tmp_path)
        again, same = run(tmp_path, resume=True)
        assert alike(whole, again)
        assert same.to_dict() == history.to_dict()

    @pytest.mark.parametrize("length", [{"steps": 14}, {"epochs": 3}])
    def test_further_than_was_asked_for(self, tmp_path: Path, length) -> None:
        longer = {"steps": 23} if "steps" in length else {"epochs": 5}
        whole, _ = run(None, **({"steps": None} | longer))
        run(tmp_path, **({"steps": None} | length))
        resumed, history = run(tmp_path, resume=True, **({"steps": None} | longer))
        assert alike(whole, resumed)
        assert history.step[-1] == (23 if "steps" in length else 20)

    @pytest.mark.parametrize("length", [{"steps": 4}, {"steps": None, "epochs": 1}])
    def test_less_far_than_it_is(self, tmp_path: Path, length) -> None:
        whole, history = run(tmp_path)
        again, same = run(tmp_path, resume=True, **length)
        assert alike(whole, again)
        assert same.to_dict() == history.to_dict()

    @pytest.mark.parametrize("scheduler", [None, "plateau"])
    def test_after_ctrl_c(self, tmp_path: Path, scheduler: str | None) -> None:
        watched = {"validate_every": 3, "scheduler": SCHEDULERS.get(scheduler)}
        whole, _ = run(None, **watched)

        class Press(Stop):
            def set_step(self, step: int) -> None:
                super().set_step(step)
                if step == 7:
                    signal.raise_signal(signal.SIGINT)

            def __repr__(self) -> str:
                return repr(Stop())  # the same run, but that somebody sits before it

        model, options = tiny(), {"steps": 14, "batch_size": 32, "seed": 0, "progress": False}
        objective = elbo() + Press()
        history = fit(model, objective, DATA, checkpoint=tmp_path, **watched, **options)
        assert history.stopped == "interrupted"
        assert history.step == [3, 6, 8]
        assert files(tmp_path)[-1] == 8
        resumed, history = run(tmp_path, resume=True, **watched)
        assert history.stopped == "finished"
        assert history.step == [3, 6, 9, 12, 14]
        assert alike(whole, resumed)

    def test_after_a_callback_stopped_it(self, tmp_path: Path) -> None:
        whole, _ = run(None)
        run(tmp_path, callbacks=[lambda state: state.step == 8])
        resumed, history = run(tmp_path, resume=True)
        assert history.stopped == "finished"
        assert alike(whole, resumed)

    def test_a_run_without_a_seed(self, tmp_path: Path) -> None:
        torch.manual_seed(3)
        whole, _ = run(None, seed=None)
        torch.manual_seed(3)
        run(tmp_path, 1, seed=None)
        torch.manual_seed(4)
        resumed, _ = run(tmp_path, seed=None, resume=True)
        assert alike(whole, resumed)

    def test_it_fails_again_and_again(self, tmp_path: Path) -> None:
        whole, history = run(None)
        for stop in (3, 7, 9, 13):
            run(tmp_path, stop, resume=True)
        resumed, again = run(tmp_path, resume=True)
        assert alike(whole, resumed)
        assert numbers(history) == numbers(again)


class TestFiles:
    def test_the_last_ones_and_the_best_are_kept(self, tmp_path: Path) -> None:
        options = {"validation": DATA, "validate_every": 2, "steps": 20}
        options["scheduler"] = lambda optimizer: LambdaLR(optimizer, lambda n: 1 + 999 * (n > 8))
        _, history = run(Checkpoints(tmp_path, keep=3), **options)
        best = history.step[history.best]
        assert best == 8
        assert files(tmp_path) == sorted({best, 16, 18, 20})
        model, other = tiny(), tiny()
        found = load_checkpoint(model, tmp_path, "best")
        assert found.step[-1] == best
        assert load_checkpoint(other, tmp_path).to_dict() == history.to_dict()
        assert not alike(model, other)
        loss = vk.training.evaluate(model, elbo(), DATA, batch_size=32, step=best - 1)["loss"]
        assert loss == history.validation["loss"][history.best]

    def test_one_at_the_end_of_each_row(self, tmp_path: Path) -> None:
        run(Checkpoints(tmp_path, keep=9), epochs=3, steps=None)
        assert files(tmp_path) == [0, 4, 8, 12]

    def test_they_hold_no_pickle(self, tmp_path: Path) -> None:
        run(tmp_path)
        for path in tmp_path.iterdir():
            length = int.from_bytes(path.read_bytes()[:8], "little")
            header = json.loads(path.read_bytes()[8 : 8 + length])
            assert json.loads(header["__metadata__"]["values"])

    @pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
    def test_a_damaged_one_is_laid_aside(self, tmp_path: Path, harm: str) -> None:
        whole, _ = run(None)
        run(tmp_path, 9)
        newest = max(tmp_path.iterdir())
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[harm])
        with pytest.warns(UserWarning, match=f"{newest.name}.*The one before is taken"):
            resumed, _ = run(tmp_path, resume=True)
        assert alike(whole, resumed)
        assert newest.with_suffix(".damaged").exists()

    def test_never_a_silent_restart(self, tmp_path: Path) -> None:
        run(tmp_path, 9)
        found = list(tmp_path.iterdir())
        assert len(found) == 2
        for path in found:
            path.write_bytes(path.read_bytes()[:-1])
        model = tiny()
        with (
            pytest.warns(match="before is taken"),
            pytest.raises(DamagedFileError, match="do not add up"),
        ):
            run(tmp_path, model=model, resume=True)
        assert alike(model, tiny())
        with pytest.raises(DamagedFileError, match="do not add up"):
            load_checkpoint(model, tmp_path)
        for path in files_of(tmp_path):
            path.rename(path.with_suffix(".damaged"))
        with pytest.raises(DamagedFileError, match="no other checkpoint"):
            run(tmp_path, model=model, resume=True)

    def test_a_full_disk(self, tmp_path: Path, monkeypatch) -> None:
        whole, _ = run(None)
        commit, left = storage.commit, 4

        def full(temporary: Path, path: Path) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise OSError(28, os.strerror(28))
            commit(temporary, path)

        monkeypatch.setattr(storage, "commit", full)
        with pytest.raises(OSError, match="No space left") as caught:
            run(tmp_path)
        assert isinstance(caught.value.history, History)
        assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())
        resumed, _ = run(tmp_path, resume=True)
        assert alike(whole, resumed)

    def test_what_was_half_written_is_swept_up(self, tmp_path: Path) -> None:
        run(tmp_path, 5)
        (tmp_path / f".{platform.node()}.{2**22 + 1}.1f.writing").write_bytes(b"half")
        run(tmp_path, resume=True)
        assert not list(tmp_path.glob(".*"))


class TestRefusals:
    def test_a_folder_with_checkpoints(self, tmp_path: Path, refuses) -> None:
        run(tmp_path, 5)
        words = "checkpoint: expected", "resume=True", "step 4"
        refuses(ValueError, lambda: run(tmp_path), *words)
        assert files(tmp_path) == [2, 4]

    def test_resuming_nowhere(self, tmp_path: Path, refuses) -> None:
        words = "checkpoint: expected a folder"
        refuses(ValueError, lambda: run(None, resume=True), words)
        refuses(TypeError, lambda: fit(tiny(), elbo(), DATA, steps=1, checkpoint=3), words)
        (file := tmp_path / "file").write_text("")
        refuses(FileExistsError, lambda: run(file), "checkpoint: expected a folder, got a file")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("batch_size", {"batch_size": 16}),
            ("seed", {"seed": 1}),
            ("samples", {"samples": 2}),
            ("data", {"data": DATA[:50]}),
            ("kind of data", {"data": DataLoader(DATA, 32, shuffle=True)}),
            ("binarize", {"data": vk.datasets.from_tensors(DATA, binarize="dynamic")}),
            ("validation", {"validation": DATA}),
            ("validate_every", {"validate_every": 3}),
            ("clip_grad_norm", {"clip_grad_norm": 1.0}),
            ("learning_rate", {"learning_rate": 0.1}),
            ("optimizer", {"optimizer": torch.optim.AdamW}),
            ("optimizer", {"optimizer": lambda parameters: torch.optim.Adam(parameters, 1e-6)}),
            ("pairs", {"pairs": False}),
            ("corruption", {"corruption": torch.zeros_like}),
            ("compile", {"compile": True}),
            ("model", {"model": tiny().double()}),
            ("scheduler", {"scheduler": lambda optimizer: StepLR(optimizer, 3)}),
            (
                "model.decoder.likelihood",
                {"model": tiny(likelihood=vk.likelihoods.Laplace((1, 8, 8)))},
            ),
            ("model.encoder.net.layers.1", {"model": with_layer(torch.nn.Tanh())}),
        ],
    )
    def test_another_run(self, tmp_path: Path, name: str, options, refuses) -> None:
        run(tmp_path, 5)
        options = {"model": tiny()} | options
        before = copy.deepcopy(options["model"])
        words = f"{name}: expected", "as in the checkpoint"
        refuses(ValueError, lambda: run(tmp_path, resume=True, **options), *words)
        assert alike(options["model"], before)

    @pytest.mark.parametrize("name", OPTIONS)
    def test_a_scheduler_of_other_options(self, tmp_path: Path, name: str, refuses) -> None:
        before, other, words = OPTIONS[name]
        run(tmp_path, 5, scheduler=before, validation=DATA)
        options = {"resume": True, "validation": DATA}
        words = "scheduler: expected", words, "as in the checkpoint"
        refuses(ValueError, lambda: run(tmp_path, scheduler=other, **options), *words)
        resumed, _ = run(tmp_path, scheduler=before, **options)
        whole, _ = run(None, scheduler=before, validation=DATA)
        assert alike(whole, resumed)

    def test_the_learning_rate_that_it_had_by_default(self, tmp_path: Path) -> None:
        run(tmp_path, 5)
        resumed, _ = run(tmp_path, resume=True, learning_rate=1e-3)
        assert alike(run(None)[0], resumed)

    def test_the_model_that_was_trained_already(self, tmp_path: Path) -> None:
        """As where a notebook was interrupted: what has moved since makes it no other model."""
        options = {"scheduler": SCHEDULERS["plateau"], "validation": DATA, "model": relaxed()}
        whole, _ = run(None, **options)
        model, _ = run(tmp_path, 5, **(options | {"model": relaxed()}))
        model.encoder.latent.temperature = 0.3
        resumed, _ = run(tmp_path, resume=True, **(options | {"model": model}))
        assert alike(whole, resumed)

    def test_what_only_one_of_two_versions_wrote(self) -> None:
        """Classes of torch and of vaekit may come to take more."""
        before, now = {"class": "Linear", "bias": True}, {"class": "Linear", "bias": True, "new": 1}
        assert not differs(before, now)
        assert not differs(now, before)
        assert differs(before | {"bias": False}, now)
        assert not differs("Adam(lr=0.1)", {"class": "Adam", "lr": 0.1})
        assert differs("Adam(lr=0.2)", {"class": "Adam", "lr": 0.1})
        assert not differs({"p": math.nan}, {"p": math.nan})

    def test_data_in_an_order_of_another_kind(self, tmp_path: Path, refuses) -> None:
        run(tmp_path, 5, data=own_order)
        data = DataLoader(TensorDataset(DATA), 16, shuffle=True)
        words = "data: expected data whose order 1 generators draw", "got 0"
        refuses(ValueError, lambda: run(tmp_path, data=data, resume=True), *words)
        fewer = DataLoader(TensorDataset(DATA), 32, shuffle=True)
        words = "batches of data: expected 7, as in the checkpoint", "got 4"
        refuses(ValueError, lambda: run(tmp_path, data=fewer, resume=True), *words)

    def test_other_validation_data(self, tmp_path: Path, refuses) -> None:
        run(tmp_path, 5, validation=DATA)
        words = "elements of validation: expected 100, as in the checkpoint"
        refuses(ValueError, lambda: run(tmp_path, resume=True, validation=DATA[:50]), words)

    def test_another_metric(self, tmp_path: Path, refuses) -> None:
        given = {"validation": DATA, "metrics": {"mse": torchmetrics.MeanSquaredError()}}
        run(tmp_path, 5, **given)
        given["metrics"] = {"mae": torchmetrics.MeanAbsoluteError()}
        words = "metrics: expected 'mse', as in the checkpoint"
        refuses(ValueError, lambda: run(tmp_path, resume=True, **given), words)

    def test_another_model_or_optimizer(self, tmp_path: Path, refuses) -> None:
        run(tmp_path, 5)
        words = "model.encoder.net.layers.0: expected Linear(", "out_features=16", "out_features=8"
        refuses(ValueError, lambda: run(tmp_path, model=tiny(width=8), resume=True), *words)
        words = "model: expected the parts", "encoder.net.layers.0.weight: (16, 64)", "(8, 64)"
        other = tiny(width=8)
        before = copy.deepcopy(other)
        refuses(ValueError, lambda: load_checkpoint(other, tmp_path), *words)
        assert alike(other, before)

    def test_another_objective(self, tmp_path: Path, refuses) -> None:
        run(tmp_path, 5)
        model, options = tiny(), {"steps": 14, "batch_size": 32, "seed": 0, "progress": False}
        objective = vk.Reconstruction() + 100 * vk.KL() + Stop(5)
        options |= {"checkpoint": tmp_path, "resume": True}
        words = "objective: expected", "100 * KL()"
        refuses(ValueError, lambda: fit(model, objective, DATA, **options), *words)
        assert alike(model, tiny())

    def test_weights_that_a_step_has_spoilt(self, tmp_path: Path) -> None:
        class Spoils(vk.objectives.Term):
            """Has a gradient that is NaN, of a value that is zero, from the sixth step on."""

            calls = 0

            def forward(self, out, x):
                self.calls += 1
                return (0 * out.z.square()).sum(1).add(self.calls < 6).sqrt()

        options, why = {"seed": 0, "progress": False}, "a gradient was infinite or NaN"
        for rows in (1, 4):
            folder = Checkpoints(tmp_path / str(rows), every=1)
            with pytest.raises(NonFiniteLossError, match=why) as caught:
                fit(
                    tiny(),
                    elbo() + Spoils(),
                    DATA,
                    steps=14,
                    validate_every=rows,
                    checkpoint=folder,
                    **options,
                )
            assert caught.value.term.startswith(("encoder", "decoder"))
            assert caught.value.step == 5
            model = tiny()
            load_checkpoint(model, folder.folder)
            assert files(folder.folder) == [4, 5]
            assert all(parameter.isfinite().all() for parameter in model.parameters())
        with pytest.raises(NonFiniteLossError, match=why):
            fit(tiny(), elbo() + Spoils(), DATA, steps=6, **options)
        # Where nothing looks until the next step runs into them, they are still the cause.
        with pytest.raises(NonFiniteLossError, match=why) as caught:
            fit(tiny(), elbo() + Spoils(), DATA, steps=14, validate_every=14, **options)
        assert caught.value.term.startswith(("encoder", "decoder"))

    def test_other_versions_are_warned_of(self, tmp_path: Path, monkeypatch) -> None:
        run(tmp_path, 5)
        monkeypatch.setattr("vaekit.training.loop.versions", lambda: {"torch": "1.0"})
        with pytest.warns(UserWarning, match=r"resume: the run began with .* {'torch': '1\.0'}"):
            run(tmp_path, resume=True)

    def test_fewer_batches(self, tmp_path: Path, refuses) -> None:
        class Batches:
            """Do not tell how many they are."""

            def __init__(self, rows: int) -> None:
                self.rows = rows

            def __iter__(self):
                return iter(DATA[: self.rows].split(20))

        batches = list(DATA.split(20))
        run(tmp_path / "list", 3, data=batches)
        run(tmp_path / "stream", 3, data=Batches(100))
        words = "batches of data: expected 5, as in the checkpoint", "got 1"
        refuses(ValueError, lambda: run(tmp_path / "list", data=batches[:1], resume=True), *words)
        words = "data: expected", "at least 2 batches", "1 batches"
        few = Batches(20)
        refuses(ValueError, lambda: run(tmp_path / "stream", data=few, resume=True), *words)

    def test_batches_that_do_not_come_again_are_warned_of(self, tmp_path: Path) -> None:
        class Stream(IterableDataset):
            """Shuffles by a state of its own, as streams of other libraries may."""

            def __init__(self, seed: int) -> None:
                self.order = np.random.default_rng(seed)

            def __iter__(self):
                return iter(DATA[self.order.permutation(len(DATA))])

        def told(name: str, first: object, then: object) -> list[str]:
            run(tmp_path / name, 3, data=first)  # its last checkpoint is in the middle of an epoch
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                run(tmp_path / name, data=then, resume=True)
            of_data = [each for each in found if "data:" in str(each.message)]
            own = Path(vk.__file__).parent  # and not where it is that calls fit
            assert not any(Path(each.filename).is_relative_to(own) for each in of_data)
            return [str(each.message) for each in of_data]

        assert told("again", DataLoader(Stream(0), 20), DataLoader(Stream(0), 20)) == []
        assert told("same", DATA, DATA.clone()) == []
        for name, first, then in [
            ("shuffled", DataLoader(Stream(0), 20), DataLoader(Stream(1), 20)),
            ("others", DATA, 1 - DATA),
        ]:
            (said,) = told(name, first, then)
            assert "do not come again as they came (batch 1 is another)" in said

    def test_a_state_that_needs_pickle(self, tmp_path: Path, refuses) -> None:
        class Odd(StepLR):
            def state_dict(self):
                return super().state_dict() | {"odd": object()}

        def make(optimizer: torch.optim.Optimizer) -> Odd:
            return Odd(optimizer, 3)

        words = "['scheduler']['odd']", "expected tensors"
        refuses(TypeError, lambda: run(tmp_path, scheduler=make), *words)

    def test_loading_what_is_not_there(self, tmp_path: Path, refuses) -> None:
        refuses(FileNotFoundError, lambda: load_checkpoint(tiny(), tmp_path), "checkpoints in it")
        run(tmp_path)
        words = "which: expected", "a run without validation"
        refuses(FileNotFoundError, lambda: load_checkpoint(tiny(), tmp_path, "best"), *words)
        refuses(ValueError, lambda: load_checkpoint(tiny(), tmp_path, "first"), "which", "'last'")

    @pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"every": 1.5}])
    def test_numbers_that_do_not_fit(self, options, refuses) -> None:
        refuses(ValueError, lambda: Checkpoints("x", **options), next(iter(options)), "above 0")


class TestSeeds:
    def test_data_come_in_the_same_order_whatever_the_model_draws(self) -> None:
        def seen(model: vk.VAE, **options) -> list[torch.Tensor]:
            batches: list[torch.Tensor] = []
            noisy = vk.datasets.from_tensors(DATA * 0.5, binarize="dynamic")

            def corruption(x: torch.Tensor) -> torch.Tensor:
                batches.append(x.clone())
                return x

            run(None, model=model, data=noisy, corruption=corruption, **options)
            return batches

        one, other = seen(tiny()), seen(tiny(dim=3), samples=2)
        assert len(one) == 14
        assert all(map(torch.equal, one, other))
        assert not torch.equal(one[0], seen(tiny(), seed=1)[0])

    def test_streams_differ(self) -> None:
        fork = vk.training.fork_seed
        found = {fork(seed, purpose) for seed in range(50) for purpose in ("data", "noise")}
        assert len(found) == 100
        assert fork(0, "data") == fork(0, "data")

    def test_the_history_says_what_it_depends_on(self, tmp_path: Path) -> None:
        _, history = run(tmp_path)
        assert history.seed == 0
        assert history.versions["torch"] == torch.__version__
        assert history.versions["vaekit"] == vk.__version__
        found = load_checkpoint(tiny(), tmp_path)
        assert found.versions == history.versions
        assert found.seed == 0
        assert copy.deepcopy(found).to_dict() == history.to_dict()


@pytest.mark.parametrize("options", [{}, {"batch_size": 16, "seed": 5}], ids=str)
def test_a_run_that_failed_at_once_leaves_nothing_to_another(options, tmp_path: Path) -> None:
    spoilt = torch.full_like(DATA, torch.nan)
    with pytest.raises(NonFiniteLossError):
        run(tmp_path, data=list(spoilt.split(32)))
    assert sorted(path.name for path in tmp_path.iterdir())[0].startswith("step-00000000")
    torch.manual_seed(7)
    other = tiny()  # with weights of its own
    alone, history = run(None, model=copy.deepcopy(other), **options)
    begun, same = run(tmp_path, model=other, **options)
    assert alike(begun, alone)
    assert numbers(same) == numbers(history)


def test_another_run_in_the_folder_is_noticed(tmp_path: Path) -> None:
    """Each would remove what the other needs to go on."""

    def meddle(state) -> None:
        (*_, last) = sorted(tmp_path.glob("step-*"))
        shutil.copy(last, last.with_name(f"step-{state.step:08d}-{'0' * 16}.safetensors"))

    options = {"steps": 8, "batch_size": 32, "progress": False, "validate_every": 2}
    with pytest.raises(FileExistsError, match="checkpoint: expected a folder of one run alone"):
        fit(tiny(), elbo(), DATA, checkpoint=tmp_path, callbacks=[meddle], **options)
