import copy
import functools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from models import elbo, tiny
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import vaekit as vk
from vaekit.training import (
    History,
    NonFiniteLossError,
    TrainingState,
    evaluate,
    fit,
    fork_seed,
)

DATA = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
BLACK = torch.zeros_like(DATA)
ADAM = torch.optim.Adam


def run(model: vk.VAE | None = None, objective=None, data=DATA, **options) -> History:
    options = {"progress": False, "batch_size": 32, "seed": 0} | options
    if "steps" not in options:
        options.setdefault("epochs", 2)
    return fit(model or tiny(), objective or elbo(), data, **options)


class Mappings(Dataset):
    """Elements that are mappings, by their number."""

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": DATA[index], "target": BLACK[index]}


class TestLoop:
    def test_it_is_the_loop_one_would_write(self, device) -> None:
        model, data = tiny().to(device), vk.datasets.from_tensors(DATA).to(device)
        history = run(model, data=data, epochs=3)

        torch.manual_seed(0)
        mine = tiny().to(device)
        torch.manual_seed(fork_seed(0, "noise"))
        order = torch.Generator().manual_seed(fork_seed(0, "data"))
        optimizer = torch.optim.Adam(mine.parameters(), 1e-3, fused=True)
        losses = []
        for _ in range(3):
            total = 0.0
            for x in vk.datasets.loader(data, 32, shuffle=True, generator=order):
                optimizer.zero_grad()
                out = mine(x)
                loss = vk.reconstruction(out.likelihood, x) + vk.kl_divergence(out.posterior)
                loss.mean().backward()
                optimizer.step()
                total += loss.sum().item()
            losses.append(total / len(DATA))
        np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
        for one, other in zip(model.parameters(), mine.parameters(), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_seed_repeats_exactly(self) -> None:
        model, same, other = tiny(), tiny(), tiny()
        histories = [
            run(each, seed=seed, validation=DATA)
            for each, seed in ((model, 1), (same, 1), (other, 2))
        ]
        numbers = [history.to_dict() for history in histories]
        for each in numbers:
            each.pop("seconds")
        assert numbers[0] == numbers[1]
        assert numbers[0] != numbers[2]
        for one, two in zip(model.parameters(), same.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_it_learns_and_leaves_evaluation_mode(self) -> None:
        model = tiny()
        history = run(model, data=vk.datasets.digits(binarize="dynamic")[0], epochs=10)
        assert history["loss"][-1] < 0.8 * history["loss"][0]
        assert not model.training

    @pytest.mark.parametrize(("length", "steps"), [({"epochs": 3}, 12), ({"steps": 7}, 7)])
    def test_epochs_or_steps(self, length, steps: int) -> None:
        seen = []
        history = run(**length, callbacks=[lambda state: seen.append(state.step)])
        assert history.step[-1] == steps
        assert history.epoch[-1] == steps / 4
        assert seen == history.step

    def test_rows_between_epochs(self) -> None:
        history = run(epochs=2, validate_every=3, validation=DATA)
        assert history.step == [3, 6, 8]
        assert history.epoch == [0.75, 1.5, 2.0]
        assert len(history.validation["loss"]) == 3

    def test_history(self) -> None:
        schedule = vk.schedules.Linear(0, 1, steps=8)
        history = run(objective=vk.Reconstruction() + schedule * vk.KL(), epochs=2, validation=DATA)
        assert set(history.train) == set(history.validation) == {"loss", "reconstruction", "kl"}
        assert history.weights["kl"] == [3 / 8, 7 / 8]
        assert history.learning_rate == [1e-3, 1e-3]
        assert history.seed == 0
        assert isinstance(history["kl"], np.ndarray)
        assert json.loads(json.dumps(history.to_dict())) == history.to_dict()
        assert "2 rows, 8 steps" in repr(history)
        with pytest.raises(KeyError, match="reconstruction"):
            history["tc"]

    def test_the_mean_is_over_elements_not_batches(self) -> None:
        # 100 elements in batches of 32 leave four for the last.
        model = tiny()
        whole = evaluate(model, vk.KL(), DATA, batch_size=100)
        parts = evaluate(model, vk.KL(), DATA, batch_size=32)
        assert math.isclose(whole["kl"], parts["kl"], rel_tol=1e-6)

    def test_evaluation_touches_nothing(self) -> None:
        model = tiny().train()
        before = torch.get_rng_state()
        first = evaluate(model, elbo(), DATA)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert evaluate(model, elbo(), DATA) == first

    def test_validation_does_not_change_training(self) -> None:
        model, alone = tiny(), tiny()
        run(model, validation=DATA, validate_every=1)
        run(alone)
        for one, two in zip(model.parameters(), alone.parameters(), strict=True):
            assert torch.equal(one, two)

    @pytest.mark.parametrize("objective", [vk.KL(), vk.Reconstruction() + vk.TotalCorrelation()])
    def test_the_data_set_size_is_that_of_the_data(self, objective, refuses) -> None:
        history = run(objective=objective, steps=2)
        assert len(history) == 1
        sizes = []

        class Spy(vk.TotalCorrelation):
            def forward(self, out, x):
                sizes.append(self._aggregate()["dataset_size"])
                return super().forward(out, x)

        spy = vk.Reconstruction() + Spy()
        run(objective=spy, data=DATA[:64], steps=1, validation=DATA)
        assert sizes == [32, 64, 100, 100, 100, 100]  # first of a look at the validation data
        assert spy.terms[1].dataset_size is None
        with_own = vk.Reconstruction() + Spy(dataset_size=500)
        run(objective=with_own, steps=1)
        assert sizes[-1] == 500
        stream = (DATA[:32] for _ in range(5))
        call = lambda: run(objective=vk.TotalCorrelation() + vk.KL(), data=stream, steps=2)  # noqa: E731
        refuses(ValueError, call, "dataset_size", "TotalCorrelation()", "None")


class TestData:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: DATA,
            lambda: DATA.numpy(),
            lambda: vk.datasets.from_tensors(DATA, labels=range(100)),
            lambda: TensorDataset(DATA),
            lambda: TensorDataset(DATA, torch.arange(100)),
            lambda: DataLoader(TensorDataset(DATA), 32, shuffle=True),
            lambda: DataLoader(vk.datasets.from_tensors(DATA), 32, num_workers=2),
            lambda: list(DATA.split(32)),
            lambda: [{"x": part, "y": 0} for part in DATA.split(32)],
            lambda: Stream(),
        ],
        ids=lambda make: None,
    )
    def test_every_form(self, make) -> None:
        history = run(data=make(), epochs=2, validation=make())
        assert history.step == [4, 8]
        assert set(history.validation) == {"loss", "reconstruction", "kl"}

    def test_a_generator_by_steps(self) -> None:
        assert run(data=(DATA[:32] for _ in range(10)), steps=6).step == [6]

    @pytest.mark.parametrize(
        ("data", "pairs"),
        [
            (vk.datasets.from_tensors(DATA, target=BLACK), False),
            (TensorDataset(DATA, BLACK), True),
            ([{"x": DATA, "target": BLACK}], False),
            (Mappings(), False),
        ],
        ids=["target", "pairs", "mapping", "mappings"],
    )
    def test_a_target_that_differs(self, data, pairs: bool) -> None:
        model = tiny()
        history = run(model, data=data, pairs=pairs, epochs=40, learning_rate=0.02, validation=data)
        assert history["loss"][-1] < 0.5 * history["loss"][0]
        assert history.validation["loss"][-1] < 0.5 * history["loss"][0]
        assert model.reconstruct(DATA).mean() < 0.2  # black, whatever goes in

    @pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
    def test_labels_that_are_the_target(self, kind) -> None:
        labelled = vk.datasets.from_tensors(DATA, labels=(1 - DATA).to(kind))
        expected = run(data=vk.datasets.from_tensors(DATA, target=1 - DATA), seed=0, epochs=1)
        assert run(data=labelled, pairs=True, seed=0, epochs=1)["loss"] == expected["loss"]

    @pytest.mark.parametrize("context", [False, True])
    def test_labels_are_gathered_where_a_model_looks_at_them(self, context, monkeypatch) -> None:
        gather, seen = vk.datasets.ArrayDataset.gather, []

        def gathered(self, *args, **options):
            batch = gather(self, *args, **options)
            seen.append(isinstance(batch, tuple))
            return batch

        monkeypatch.setattr(vk.datasets.ArrayDataset, "gather", gathered)
        labels = torch.arange(100) % 10
        data = vk.datasets.from_tensors(DATA, labels=labels)
        likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        model = vk.recipes.cvae(likelihood, latent_dim=2, classes=10).model
        objective = vk.Reconstruction() + vk.KL()
        run(model if context else tiny(), objective, data, epochs=1, batch_size=50)
        assert seen[-2:] == [context, context]
        assert torch.equal(data.labels, labels)

    def test_bad_input(self, refuses) -> None:
        refuses(ValueError, lambda: run(data=DATA[:0]), "data: expected at least one element")
        refuses(ValueError, lambda: run(validation=DATA[:0]), "validation: expected at least one")
        refuses(ValueError, lambda: run(validation=DATA * torch.nan), "validation: expected no NaN")
        pair = [{"x": DATA, "target": DATA[:1]}]
        refuses(ValueError, lambda: run(data=pair), "target: expected one for each of the 100")
        holed = [{"x": DATA, "target": DATA * torch.nan}]
        refuses(ValueError, lambda: run(data=holed), "target: expected no NaN")
        refuses(TypeError, lambda: run(scheduler="cosine"), "scheduler: expected", "'cosine'")
        refuses(TypeError, lambda: run(scheduler=lambda o: len), "scheduler: expected", "len")
        refuses(TypeError, lambda: run(corruption=0.3), "corruption: expected a function", "0.3")
        refuses(ValueError, lambda: run(data=[]), "data", "at least one", "none")
        refuses(ValueError, lambda: run(data=iter([]), steps=3), "data", "at least one batch")
        refuses(TypeError, lambda: run(data=3), "data", "Dataset", "int")
        refuses(TypeError, lambda: run(data=(DATA, DATA)), "data", "from_tensors", "tuple")
        refuses(ValueError, lambda: run(data=iter([DATA]), epochs=2), "data", "again", "steps=")
        refuses(ValueError, lambda: run(data=[DATA], pairs=True), "batch", "pair")
        refuses(ValueError, lambda: run(data=[{"image": DATA}]), "batch", "'x'", "image")
        refuses(TypeError, lambda: run(validation=3), "validation", "Dataset", "int")
        refuses(ValueError, lambda: run(data=DATA * 0.5), "x", "zeros and ones", "0.5")
        refuses(ValueError, lambda: run(data=DATA.mul(math.nan)), "data", "no NaN")
        refuses(ValueError, lambda: run(data=DATA[:, :, :7]), "data", "(1, 8, 8)", "(1, 7, 8)")
        refuses(ValueError, lambda: run(data=[DATA[:, :, :7]]), "x", "64 values", "7")


class TestOptions:
    def test_bad_options(self, refuses) -> None:
        model = tiny()
        both = lambda: fit(model, elbo(), DATA, epochs=1, steps=1)  # noqa: E731
        refuses(ValueError, both, "epochs", "either", "both")
        refuses(ValueError, lambda: fit(model, elbo(), DATA), "epochs", "either", "neither")
        refuses(ValueError, lambda: run(epochs=0), "epochs", "above 0", "0")
        refuses(ValueError, lambda: run(steps=-1), "steps", "above 0", "-1")
        refuses(ValueError, lambda: run(batch_size=0), "batch_size", "above 0", "0")
        refuses(ValueError, lambda: run(validate_every=0), "validate_every", "above 0")
        refuses(ValueError, lambda: run(patience=3), "validation", "patience", "None")
        refuses(ValueError, lambda: run(patience=0, validation=DATA), "patience", "above 0")
        refuses(ValueError, lambda: run(learning_rate=0), "learning_rate", "above 0", "0")
        refuses(ValueError, lambda: run(clip_grad_norm=-1), "clip_grad_norm", "above 0", "-1")
        refuses(TypeError, lambda: run(learning_rat=1e-3), "argument 'learning_rat'")
        foreign = torch.optim.Adam(tiny().parameters())
        refuses(ValueError, lambda: run(model, optimizer=foreign), "optimizer", "model's")
        foreign_maker = {"optimizer": lambda parameters: foreign}
        refuses(ValueError, lambda: run(model, **foreign_maker), "optimizer", "model's")
        refuses(TypeError, lambda: run(optimizer="adam"), "optimizer: expected an opt", "'adam'")
        frozen = tiny().requires_grad_(False)
        what = "model: expected at least one parameter to train", "requires_grad=False"
        refuses(ValueError, lambda: run(frozen), *what)
        refuses(TypeError, lambda: run(shard=3), "shard: expected True, False, or the name of a")
        single = [torch.tensor(1.0)]
        what = "data: expected at least one element in each batch", "a single number in batch 0"
        refuses(ValueError, lambda: run(data=single), *what)
        none = {"optimizer": lambda parameters: None}
        refuses(TypeError, lambda: run(**none), "optimizer: expected a function", "returns None")
        closure = "optimizer: expected one whose step needs no closure", "LBFGS"
        refuses(ValueError, lambda: run(optimizer=torch.optim.LBFGS), *closure)
        made = {"optimizer": lambda parameters: torch.optim.LBFGS(parameters)}
        refuses(ValueError, lambda: run(**made), *closure)

    @pytest.mark.parametrize(
        "name",
        ["channels_last", "recompute", "divided", "compile", "cuda_graph", "resume", "pairs"],
    )
    def test_what_is_neither_true_nor_false(self, name: str, refuses) -> None:
        refuses(TypeError, lambda: run(**{name: "no"}), f"{name}: expected True or False, got 'no'")

    def test_nothing_has_moved_where_the_data_do_not_fit(self, tmp_path, refuses) -> None:
        model, state = tiny(), torch.get_rng_state()
        given = {"seed": 3, "epochs": 1, "checkpoint": tmp_path / "run", "progress": False}
        words = "data: expected elements of shape (1, 8, 8), as the likelihood has, got (64,)"
        refuses(ValueError, lambda: fit(model, elbo(), DATA.flatten(1), **given), words)
        assert torch.equal(torch.get_rng_state(), state)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("fused", [True, False])
    def test_without_an_optimizer_it_is_adam(self, fused: bool, monkeypatch) -> None:
        class Plain(torch.optim.Adam):
            def __init__(self, *args, **options) -> None:
                if options.get("fused"):
                    raise RuntimeError("no fused kernel")
                super().__init__(*args, **options)

        made: list[torch.optim.Optimizer] = []

        def constant(optimizer: torch.optim.Optimizer) -> LambdaLR:
            made.append(optimizer)
            return LambdaLR(optimizer, lambda step: 1.0)

        models = tiny(), tiny()
        if not fused:
            monkeypatch.setattr(torch.optim, "Adam", Plain)
        assert run(models[0], scheduler=constant, steps=4).learning_rate == [1e-3]
        (optimizer,) = made
        assert isinstance(optimizer, torch.optim.Adam)
        assert bool(optimizer.defaults["fused"]) == fused
        run(models[1], steps=4, optimizer=lambda each: ADAM(each, lr=1e-3, fused=fused))
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(one, two)

    def test_a_scheduler_that_is_made_already_advances_with_every_step(self) -> None:
        model = tiny()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scheduler = StepLR(optimizer, step_size=4, gamma=0.5)
        history = run(model, optimizer=optimizer, scheduler=scheduler, epochs=3)
        np.testing.assert_allclose(history.learning_rate, [0.05, 0.025, 0.0125])
        assert scheduler.last_epoch == 12

    def test_any_optimizer_and_scheduler(self) -> None:
        model = tiny()
        history = run(
            model,
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            scheduler=lambda optimizer: StepLR(optimizer, step_size=4, gamma=0.5),
            epochs=3,
        )
        np.testing.assert_allclose(history.learning_rate, [0.05, 0.025, 0.0125])
        history = run(
            optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2),
            scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        )
        np.testing.assert_allclose(history.learning_rate, [1e-2 / 5, 1e-2 / 9])

    @pytest.mark.parametrize(
        "make",
        [
            lambda each: ADAM(each, 1e-2, amsgrad=True, weight_decay=0.1, fused=True),
            lambda each: torch.optim.AdamW(each, 1e-2, foreach=True),
            lambda each: torch.optim.SGD(each, 1e-2, momentum=0.9, nesterov=True),
            lambda each: torch.optim.RMSprop(each, 1e-3),
        ],
    )
    def test_steps_are_those_that_the_optimizer_would_take(self, make) -> None:
        models = tiny(), tiny()
        run(models[0], optimizer=make)

        def wrapped(parameters) -> torch.optim.Optimizer:
            optimizer = make(parameters)
            optimizer.step = optimizer.step  # by which it is called, and nothing else
            return optimizer

        run(models[1], optimizer=wrapped)
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(one, two)
        with pytest.raises(RuntimeError, match="leaf Variable"):  # as torch says
            run(optimizer=lambda each: ADAM(each, differentiable=True))

    def test_whoever_listens_to_an_optimizer_hears_its_steps(self) -> None:
        heard: list[str] = []

        def listening(parameters) -> torch.optim.Optimizer:
            optimizer = ADAM(parameters)
            optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
            optimizer.register_step_post_hook(lambda *_: heard.append("after"))
            return optimizer

        run(optimizer=listening, steps=2)
        assert heard == ["before", "after"] * 2
        before = register_optimizer_step_pre_hook(lambda *_: heard.append("all"))
        try:
            run(steps=1)
        finally:
            before.remove()
        after = register_optimizer_step_post_hook(lambda *_: heard.append("of all"))
        try:
            run(steps=1)
        finally:
            after.remove()
        assert heard[4:] == ["all", "of all"]
        with torch.profiler.profile(acc_events=True) as profile:
            run(steps=3)
        (found,) = [each for each in profile.key_averages() if each.key.endswith("#Adam.step")]
        assert found.count == 3

        class Own(ADAM):
            def step(self, closure=None) -> None:
                heard.append("own")

        run(optimizer=Own, steps=1)
        assert heard[-1] == "own"

    def test_plateau(self) -> None:
        model = tiny()
        optimizer = torch.optim.SGD(model.parameters(), 1e-9)  # which gets nowhere
        plateau = ReduceLROnPlateau(optimizer, patience=0, threshold=1e-2, eps=0)
        history = run(model, optimizer=optimizer, scheduler=plateau, epochs=3, validation=DATA)
        assert optimizer.param_groups[0]["lr"] < history.learning_rate[0]

    def test_clipping(self) -> None:
        model = tiny()
        start = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        run(model, optimizer=optimizer, clip_grad_norm=0.01, steps=1)
        moved = sum(
            (now - then).square().sum() for now, then in zip(model.parameters(), start, strict=True)
        )
        assert math.isclose(moved.sqrt().item(), 0.01, rel_tol=1e-3)

    def test_early_stopping_puts_the_best_weights_back(self) -> None:
        model = tiny()
        validation = 1 - DATA  # which training makes worse, sooner or later
        history = run(model, validation=validation, patience=3, epochs=500, learning_rate=0.02)
        assert history.stopped == "early"
        losses = history.validation["loss"]
        assert history.best == len(losses) - 4 == int(np.argmin(losses))
        measured = evaluate(model, elbo(), validation, batch_size=32)
        assert math.isclose(measured["loss"], losses[history.best], rel_tol=1e-6)

    def test_callbacks_are_plain_functions(self) -> None:
        seen: list[TrainingState] = []

        def stop_at_two(state: TrainingState) -> bool:
            return len(state.history) == 2

        history = run(epochs=9, callbacks=[stop_at_two, seen.append])
        assert history.stopped == "callback"
        assert len(history) == len(seen) == 2
        assert seen[0].epoch == 1

    def test_the_bar_names_the_terms(self, capsys) -> None:
        run(data=vk.datasets.digits(binarize="dynamic")[0], epochs=1, progress=True)
        shown = capsys.readouterr().err
        assert "reconstruction=" in shown
        assert "kl=" in shown


class TestTrouble:
    def test_a_loss_that_is_not_finite_names_step_term_and_batch(self) -> None:
        model, calls = tiny(), []

        class Bad(vk.objectives.Term):
            def forward(self, out, x):
                calls.append([p.detach().clone() for p in model.parameters()])
                value = out.z.sum(-1)
                return value / 0 if len(calls) == 7 else value.square()

        with pytest.raises(NonFiniteLossError, match="bad: expected a finite value") as caught:
            run(model, vk.Reconstruction() + Bad("bad"), epochs=5)
        error = caught.value
        assert (error.step, error.term, error.batch_index) == (6, "bad", 2)
        assert error.history.step == [4]  # what was measured is not lost
        for now, then in zip(model.parameters(), calls[-1], strict=True):
            assert torch.equal(now, then)
        assert not model.training

    def test_nan_weights_are_named(self, refuses) -> None:
        model = tiny(likelihood=vk.likelihoods.Gaussian((1, 8, 8), learn_sigma=True))
        with torch.no_grad():
            model.decoder.likelihood.logvar.fill_(math.nan)
        refuses(ValueError, lambda: run(model), "logvar", "no NaN")

    def test_ctrl_c_leaves_a_usable_model_and_history(self) -> None:
        model = tiny()

        def interrupt(state: TrainingState) -> None:
            if state.step == 8:
                os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        history = run(model, epochs=1000, validate_every=2, callbacks=[interrupt])
        assert history.stopped == "interrupted"
        assert 8 <= history.step[-1] <= 9
        assert signal.getsignal(signal.SIGINT) is before
        assert model.sample(2).isfinite().all()

    def test_a_second_ctrl_c_acts_at_once(self) -> None:
        def interrupt(state: TrainingState) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        usual = signal.default_int_handler  # which a process in the background has not
        before = signal.signal(signal.SIGINT, usual)
        try:
            with pytest.raises(KeyboardInterrupt):
                run(epochs=1000, callbacks=[interrupt])
            assert signal.getsignal(signal.SIGINT) is usual
        finally:
            signal.signal(signal.SIGINT, before)

    def test_it_trains_in_another_thread(self) -> None:
        found: list[History] = []
        thread = threading.Thread(target=lambda: found.append(run()))
        thread.start()
        thread.join()
        assert found[0].stopped == "finished"

    def test_data_that_end_early_end_training(self) -> None:
        class Once:
            left = 1

            def __iter__(self):
                self.left -= 1
                return iter([DATA] if self.left == 0 else [])

        with pytest.warns(UserWarning, match="nothing came in epoch 2") as warned:
            history = run(data=Once(), epochs=3)
        assert history.step == [1]
        own = Path(vk.__file__).parent  # and not where it is that calls fit
        assert not any(Path(each.filename).is_relative_to(own) for each in warned)


@pytest.mark.mnist
def test_mnist_to_a_known_loss(mnist_root: str) -> None:
    """One epoch of the reference model; benchmarks/mnist.py runs the ten that are published."""
    train, test = vk.datasets.mnist(mnist_root, download=False)
    likelihood = vk.likelihoods.Bernoulli((1, 28, 28), grey_levels=True)
    model = tiny((1, 28, 28), dim=20, likelihood=likelihood, width=400)
    history = run(model, data=train, batch_size=128, epochs=1, validation=test)
    # The mean of twenty runs of a loop written by hand, which deviate from it by 0.62
    # (docs/results/training-cpu.json); four times that bounds one run.
    assert abs(history.validation["loss"][0] - 127.65) < 2.5


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


class TestWhatReviewFound:
    def test_nan_or_divergence_names_what_step_and_batch(self) -> None:
        bad = DATA.clone()
        bad[40, 0, 3, 3] = math.nan
        batches = list(bad.split(32))
        with pytest.raises(NonFiniteLossError, match=r"x: expected no NaN.*step 1.*index 1") as e:
            run(data=batches)
        assert (e.value.step, e.value.batch_index, e.value.term) == (1, 1, "x")
        assert "learning rate" not in str(e.value)  # which has nothing to do with it
        model = tiny()
        sgd = torch.optim.SGD(model.parameters(), 1e30)
        with pytest.raises(NonFiniteLossError, match="at step"):
            run(model, optimizer=sgd, epochs=5)

    def test_losses_under_different_weights_are_not_compared(self) -> None:
        warm_up = vk.schedules.Linear(0, 10, steps=40)
        history = run(
            objective=vk.Reconstruction() + warm_up * vk.KL(),
            epochs=60,
            validation=DATA,
            patience=2,
        )
        assert history.step[history.best] > 40
        assert history.weights["kl"][history.best] == 10

    def test_a_tie_is_not_better(self) -> None:
        model = tiny()
        nothing = torch.optim.SGD(model.parameters(), 0.0)
        history = run(model, optimizer=nothing, epochs=9, validation=DATA, patience=3)
        assert (history.best, len(history), history.stopped) == (0, 4, "early")

    def test_the_best_weights_come_back_however_it_ends(self) -> None:
        model = tiny()
        history = run(model, epochs=40, learning_rate=0.05, validation=1 - DATA, patience=39)
        measured = evaluate(model, elbo(), 1 - DATA, batch_size=32)["loss"]
        assert math.isclose(measured, min(history.validation["loss"]), rel_tol=1e-6)

    def test_clipping_counts_what_is_trained(self) -> None:
        model = tiny()
        norms = []

        class Spy(torch.optim.SGD):
            def step(self, closure=None):
                grads = [p.grad.norm() for g in self.param_groups for p in g["params"]]
                norms.append(torch.stack(grads).norm().item())

        run(model, optimizer=Spy(model.decoder.parameters(), 0.1), clip_grad_norm=0.1, steps=4)
        np.testing.assert_allclose(norms, 0.1, rtol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_a_model_of_any_dtype_takes_arrays(self, dtype) -> None:
        model = tiny().to(dtype)
        run(model, data=DATA.double(), steps=2, validation=DATA.numpy())
        assert evaluate(model, elbo(), DATA)["loss"] > 0

    def test_refused_at_once(self, refuses) -> None:
        tc = vk.Reconstruction() + vk.TotalCorrelation()
        refuses(ValueError, lambda: run(objective=tc, batch_size=33), "batch_size", "33", "100")
        refuses(TypeError, lambda: run(validation=iter([DATA])), "validation", "again")
        refuses(TypeError, lambda: run(callbacks=print), "callbacks", "sequence")
        refuses(TypeError, lambda: run(objective=vk.KL), "objective", "Reconstruction()")
        refuses(TypeError, lambda: fit(torch.nn.Linear(2, 2), elbo(), DATA, epochs=1), "model")
        refuses(TypeError, lambda: run(optimizer="adam"), "optimizer", "adam")
        both = {"optimizer": torch.optim.Adam, "learning_rate": 1e-3}
        refuses(ValueError, lambda: run(**both), "learning_rate: expected None beside an optimizer")
        refuses(ValueError, lambda: run(epochs=0), "epochs", "got 0")
        foreign = StepLR(torch.optim.Adam(tiny().parameters()), 3)
        refuses(ValueError, lambda: run(scheduler=foreign), "scheduler", "another")
        both = TensorDataset(DATA, 1 - DATA)
        refuses(ValueError, lambda: run(data=both), "pairs", "target or a label")
        assert run(data=both, pairs=False, steps=1).step == [1]
        refuses(ValueError, lambda: vk.KL(name="loss"), "name", "'loss'")


class TestLittleThings:
    def test_the_error_can_be_sent_between_processes(self) -> None:
        error = NonFiniteLossError(3, "kl", 1, "kl: expected a finite value, got nan.")
        error.history = History(seed=4)
        again = pickle.loads(pickle.dumps(error))
        assert (again.step, again.term, again.batch_index) == (3, "kl", 1)
        assert str(again) == str(error)
        assert again.history == error.history

    def test_it_says_what_became_of_the_weights(self) -> None:
        error = NonFiniteLossError(3, "net.weight", 1, "net.weight: it.", weights=True)
        assert "a gradient was infinite or NaN" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_layers_that_are_held_stay_so(self) -> None:
        model = tiny()
        model.train()
        model.encoder.eval()
        evaluate(model, elbo(), DATA)
        assert model.training
        assert model.decoder.training
        assert not any(part.training for part in model.encoder.modules())

    @pytest.mark.parametrize(
        ("variable", "asked", "name"),
        [
            ("ACCELERATE_MIXED_PRECISION", "bf16", "precision"),
            ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "accumulate"),
            ("ACCELERATE_USE_FSDP", "true", "shard"),
        ],
    )
    def test_what_a_launcher_was_asked_for(self, variable, asked, name, monkeypatch) -> None:
        monkeypatch.setenv(variable, asked)
        with pytest.warns(UserWarning, match=rf"{name}: .*{asked}.*give it {name}="):
            run(steps=1, epochs=None)
        monkeypatch.setenv(variable, "no" if name == "precision" else "1")
        if name != "shard":
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                run(steps=1, epochs=None)

    def test_a_precision_chosen_later_stays_open(self) -> None:
        script = (
            "import torch, vaekit as vk\n"
            "latent = vk.GaussianLatent(2)\n"
            "model = vk.VAE(vk.Encoder(vk.networks.mlp(4, [], 4), latent),\n"
            "    vk.Decoder(vk.networks.mlp(2, [], 4), vk.likelihoods.Bernoulli(4)))\n"
            "objective = vk.Reconstruction() + vk.KL()\n"
            "vk.fit(model, objective, torch.zeros(8, 4), steps=1, progress=False)\n"
            "from accelerate import Accelerator\n"
            "print(Accelerator(mixed_precision='bf16', cpu=True).mixed_precision)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stdout.strip() == "bf16", done.stderr

    def test_what_is_refused_before_the_first_step(self, refuses) -> None:
        other = torch.zeros(8, 1, 9, 9)
        error = refuses(
            ValueError, lambda: run(validation=other), "validation", "(1, 8, 8)", "(1, 9, 9)"
        )
        assert not getattr(error, "history", None)

        class Lengthless(Dataset):
            def __getitem__(self, index: int) -> torch.Tensor:
                return BLACK[index]

        refuses(TypeError, lambda: run(data=Lengthless()), "data", "length", "Lengthless")

    def test_the_validation_losses_are_pointed_at(self) -> None:
        with pytest.raises(KeyError, match=r"history\.validation"):
            run()["validation"]

    def test_evaluation_leaves_every_generator_alone(self) -> None:
        model = tiny()
        before = torch.get_rng_state()
        evaluate(model, elbo(), DATA)
        assert torch.equal(torch.get_rng_state(), before)


class TestFamily:
    """What fit does for the variants that need something of it."""

    def test_several_draws(self, refuses) -> None:
        seen = []

        class Noting(vk.objectives.Term):
            def forward(self, out: vk.vae.VAEOutput, x: torch.Tensor) -> torch.Tensor:
                seen.append(tuple(out.z.shape))
                return out.z.mean()

        run(objective=elbo() + Noting("z"), samples=3, steps=1, validation=DATA)
        assert set(seen) == {(3, 32, 2), (3, 4, 2)}
        bound = vk.objectives.ImportanceWeighted()
        refuses(ValueError, lambda: run(objective=bound), "samples", "ImportanceWeighted", "None")
        refuses(ValueError, lambda: run(samples=0), "samples", "above 0", "0")

    def test_corruption_reaches_the_encoder_alone(self) -> None:
        inputs, targets = [], []

        class Noting(vk.objectives.Reconstruction):
            def forward(self, out: vk.vae.VAEOutput, x: torch.Tensor) -> torch.Tensor:
                targets.append(x)
                return super().forward(out, x)

        def black(x: torch.Tensor) -> torch.Tensor:
            inputs.append(x)
            return torch.zeros_like(x)

        model = tiny()
        heard = []
        model.encoder.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
        run(model, Noting() + vk.KL(), corruption=black, steps=2)
        assert all(not x.any() for x in heard)
        for given, target in zip(inputs, targets, strict=True):
            assert target.any()
            assert torch.equal(given, target)

    def test_labels_are_the_context_of_a_model_that_takes_one(self, refuses) -> None:
        model, objective = vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, 4)
        heard = []
        model.encoder.register_forward_pre_hook(lambda _, args: heard.append(args[1]))
        y = torch.arange(100) % 4
        vk.fit(model, objective, vk.datasets.from_tensors(DATA, y), epochs=1, progress=False)
        assert torch.equal(torch.cat(heard).sort().values, y.sort().values)
        refuses(ValueError, lambda: run(model, objective), "data", "(x, y)", "without y")

    def test_a_discriminator_is_trained_by_its_own_loss_alone(self) -> None:
        term = vk.objectives.AdversarialTotalCorrelation(2)
        model, before = tiny(), copy.deepcopy(term.state_dict())
        optimizers = []

        def adam(parameters):
            optimizers.append(torch.optim.Adam(parameters, 1e-3))
            return optimizers[0]

        run(model, elbo() + 5 * term, steps=3, optimizer=adam)
        own = {id(parameter) for parameter in term.parameters()}
        held = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
        assert own
        assert not own & held
        assert held == {id(parameter) for parameter in model.parameters()}
        after = term.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in after)

    def test_a_term_that_owns_parameters_leaves_the_model_alone(self) -> None:
        plain, adversarial = tiny(), tiny()
        histories = []
        for model, objective in (
            (plain, elbo()),
            (adversarial, elbo() + 0 * vk.objectives.AdversarialTotalCorrelation(2)),
        ):
            torch.manual_seed(0)
            model.encoder.register_forward_pre_hook(lambda *_: torch.manual_seed(5) and None)
            batches = list(DATA.split(25))
            histories.append(fit(model, objective, batches, epochs=1, progress=False))
        for one, other in zip(plain.parameters(), adversarial.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_a_corruption_in_place_leaves_the_target(self) -> None:
        targets = []

        class Noting(vk.objectives.Reconstruction):
            def forward(self, out: vk.vae.VAEOutput, x: torch.Tensor) -> torch.Tensor:
                targets.append(x.clone())
                return super().forward(out, x)

        run(objective=Noting() + vk.KL(), corruption=lambda x: x.zero_(), steps=1)
        assert targets[0].any()

    def test_a_last_batch_of_one_is_refused_before_training(self, refuses) -> None:
        for term in (vk.objectives.MMD(), vk.objectives.DIP(), vk.TotalCorrelation()):
            refuses(
                ValueError, lambda t=term: run(objective=elbo() + t, batch_size=33), "batch_size"
            )
            refuses(
                ValueError, lambda t=term: run(objective=elbo() + t, batch_size=1), "batch_size"
            )

    def test_a_discriminator_follows_the_models_dtype(self) -> None:
        term = vk.objectives.AdversarialTotalCorrelation(2)
        history = run(tiny().double(), elbo() + term, steps=2, data=DATA.double())
        assert math.isfinite(history["adversarial_total_correlation"][0])

    def test_draws_that_groups_cannot_share_are_refused(self, refuses) -> None:
        objective = vk.objectives.ImportanceWeighted(groups=4)
        refuses(ValueError, lambda: run(objective=objective, samples=6), "samples", "4", "6")
        run(objective=objective, samples=8, steps=1)


class TestLooksAtTheData:
    @pytest.fixture
    def looks(self, monkeypatch) -> list[int]:
        """Count how often a likelihood looks at the data."""
        found: list[int] = []
        bernoulli = vk.distributions.IndependentBernoulli
        own = bernoulli._check_support

        def counting(self, value) -> None:
            found.append(len(value))
            own(self, value)

        monkeypatch.setattr(bernoulli, "_check_support", counting)
        return found

    @pytest.mark.parametrize(
        ("options", "grey_levels", "times"),
        [
            ({"binarize": "threshold"}, False, 1),  # zeros and ones by what they are made of
            ({"binarize": "dynamic"}, True, 1),
            ({}, True, 1),  # bytes over 255
            ({"scale": 100}, True, None),
            ({"target": torch.full_like(DATA, 0.5)}, True, 4),  # floats, which could be anything
        ],
    )
    def test_once_where_they_lie_in_the_support_for_certain(
        self, looks, options, grey_levels: bool, times: int | None
    ) -> None:
        data = vk.datasets.from_tensors((254 * DATA).to(torch.uint8), **options)
        model = tiny(likelihood=vk.likelihoods.Bernoulli((1, 8, 8), grey_levels=grey_levels))
        if times is None:
            with pytest.raises(ValueError, match=r"x: expected values in \[0, 1\]"):
                run(model, data=data, epochs=1)
        else:
            run(model, data=data, epochs=1)
            assert len(looks) == times

    def test_at_every_batch_of_floats_and_where_the_support_is_narrower(self, looks) -> None:
        run(data=DATA, epochs=1)
        assert len(looks) == 4
        grey = vk.datasets.from_tensors((254 * DATA).to(torch.uint8))
        with pytest.raises(ValueError, match="x: expected only zeros and ones"):
            run(data=grey, epochs=1)

    def test_of_a_compiled_run_the_first_batch_is_looked_at(self, looks, monkeypatch) -> None:
        compiled = functools.partial(torch.compile, backend="eager")  # which is quick
        monkeypatch.setattr(torch, "compile", lambda run: compiled(run))
        with pytest.raises(ValueError, match="x: expected only zeros and ones, got values from"):
            run(data=[DATA[:32] * 0.5, DATA[32:64]], epochs=1, compile=True)
        assert looks == [32]

    def test_validation_data_are_looked_at_all_the_same(self, looks) -> None:
        data = vk.datasets.from_tensors(DATA, binarize="threshold")
        with pytest.raises(ValueError, match=r"validation: expected only zeros and ones"):
            run(data=data, validation=DATA * 0.5, epochs=1)


def test_a_step_calls_the_model_once_also_where_a_term_trains_itself() -> None:
    """So statistics of batches move once a step, and the decoder is not run for nothing."""
    norm = torch.nn.BatchNorm1d(64)
    model = tiny()
    model.encoder.net = torch.nn.Sequential(torch.nn.Flatten(), norm, model.encoder.net)
    decoded = []
    model.decoder.register_forward_hook(lambda *_: decoded.append(1))
    discriminator = torch.nn.Linear(2, 1)
    before = discriminator.weight.clone()
    term = vk.objectives.AdversarialTotalCorrelation(discriminator)
    run(model, elbo() + term, steps=3)
    assert norm.num_batches_tracked == 3
    assert len(decoded) == 3
    assert not torch.equal(discriminator.weight, before)


class Held(vk.objectives.Term):
    """A term with parameters and a buffer of its own, and whatever else it is given."""

    def __init__(self, model: vk.VAE | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = torch.nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, out, x):
        self.calls += 1
        return (self.head(out.z) - 1).square().sum(-1)


class Held2(Held):
    """One of whose parts is trained by an optimiser of its own, and one by that of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = torch.nn.Linear(2, 1)

    def inner_optimizer(self):
        return torch.optim.SGD(self.judge.parameters(), 0.1)

    def inner_loss(self, out, x):
        return self.judge(out.z.detach()).square().mean()


class Controlled:
    """A weight with a memory, as a controller's."""

    def __init__(self) -> None:
        self.weight = 0.0

    def __call__(self, step: int) -> float:
        self.weight += 0.01
        return self.weight

    def state_dict(self) -> dict:
        return vars(self)

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class TestTermsOfOnesOwn:
    def test_one_that_holds_the_model_has_no_step_taken_twice(self) -> None:
        found = []
        for hold in (False, True):
            torch.manual_seed(1)
            model = tiny()
            term = Held(model if hold else None)
            made = functools.partial(torch.optim.SGD, lr=0.1)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                run(model, elbo() + term, steps=1, optimizer=made)
            found.append([*model.parameters(), *term.head.parameters()])
        for one, other in zip(*found, strict=True):
            assert torch.equal(one, other)

    def test_what_its_own_optimiser_leaves_is_trained_with_the_model(self) -> None:
        term = Held2()
        before = copy.deepcopy(term.state_dict())
        run(objective=elbo() + term, steps=3)
        moved = [name for name, value in term.state_dict().items() if not value.equal(before[name])]
        assert moved == ["calls", "head.weight", "head.bias", "judge.weight", "judge.bias"]

    def test_the_best_row_is_put_back_in_the_terms_too(self) -> None:
        model, term = tiny(), Held()
        objective, options = elbo() + term, {"patience": 3, "epochs": 500, "learning_rate": 0.02}
        history = run(model, objective, validation=1 - DATA, **options)
        assert history.stopped == "early"
        measured = evaluate(model, objective, 1 - DATA, batch_size=32)
        assert math.isclose(
            measured["held"], history.validation["held"][history.best], rel_tol=1e-6
        )

    def test_compiling_calls_nothing_with_a_memory_once_more(self, monkeypatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda run: run)  # as often as a graph would be run
        model, term = tiny(), Held()
        net = torch.nn.Sequential(model.encoder.net, torch.nn.BatchNorm1d(4))
        model = vk.VAE(vk.Encoder(net, model.encoder.latent), model.decoder)
        run(model, elbo() + term, steps=4, compile=True)
        assert term.calls == net[1].num_batches_tracked == 4

    def test_while_a_capacity_rises_every_row_counts_as_the_best(self) -> None:
        capacity = vk.objectives.Capacity(vk.schedules.Linear(0, 25, steps=40))
        objective = vk.Reconstruction() + 100 * capacity
        history = run(objective=objective, epochs=60, validation=DATA, patience=2)
        assert history.best is not None
        assert history.step[history.best] >= 40

    def test_a_weight_with_a_memory_goes_on_where_it_was(self, tmp_path) -> None:
        weights = []
        for steps in ((12,), (5, 12)):
            for length in steps:
                torch.manual_seed(0)
                weight = Controlled()
                options = {"steps": length, "resume": True}
                run(
                    objective=vk.Reconstruction() + weight * vk.KL(),
                    checkpoint=tmp_path / str(len(steps)),
                    **options,
                )
            weights.append(weight.weight)
        assert abs(weights[0] - weights[1]) < 0.05


def test_the_noise_is_not_of_the_stream_of_the_data() -> None:
    seen = []

    def corruption(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.initial_seed())
        return x

    run(steps=1, seed=3, corruption=corruption)
    assert seen == [fork_seed(3, "noise")]
    assert fork_seed(3, "noise") != fork_seed(3, "data")
