"""Captured steps: on a GPU as they are, on a processor with a graph that does its step again."""

import copy
import signal

import pytest
import torch
from models import elbo, tiny
from test_recipes import MAKERS
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import vaekit as vk
from vaekit import _checks
from vaekit.training import History, NonFiniteLossError, arguments, fit, graphs
from vaekit.training.world import World

DATA = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


class Again:
    """What stands for a graph where there is no GPU: it does the captured step again."""

    def __init__(self, x: Tensor, target: Tensor, context: Tensor | None) -> None:
        self.held = x.clone(), target.clone(), None if context is None else context.clone()
        self.alike = target is x

    def capture(self, step, pool) -> None:
        self.step, self.graphs = step, step.__self__

    def replay(self, x: Tensor, target: Tensor, context: Tensor | None) -> None:
        for mine, given in zip(self.held, (x, target, context), strict=True):
            if mine is not None:
                mine.copy_(given)
        optimizer = self.graphs._optimizer
        for parameter in self.graphs._cleared:
            parameter.grad = None
        optimizer.found_inf, optimizer.grad_scale = self.graphs._spoilt, None
        before, _checks.eager = _checks.eager, lambda: False  # a graph looks at no values
        try:
            own, target, context = self.held
            self.step(own, own if self.alike else target, context)
        finally:
            del optimizer.found_inf, optimizer.grad_scale
            _checks.eager = before


REFUSES = arguments.check_captured


@pytest.fixture(autouse=True)
def replays(device, monkeypatch) -> list[int]:
    """Count the steps that graphs take."""
    counted = []
    if device.type != "cuda":
        monkeypatch.setattr(arguments, "check_captured", lambda *_: None)
        monkeypatch.setattr(graphs, "_Graph", Again)
    before = graphs._Graph.replay

    def replay(self, *batch) -> None:
        counted.append(1)
        before(self, *batch)

    monkeypatch.setattr(graphs._Graph, "replay", replay)
    return counted


def run(model: vk.VAE, objective=None, data=DATA, **options) -> History:
    options = {"progress": False, "batch_size": 32, "seed": 0, "cuda_graph": True} | options
    if "steps" not in options:
        options.setdefault("epochs", 4)
    return fit(model, objective or elbo(), data, **options)


def weights(model: vk.VAE) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def agree(device, make=tiny, objective=None, data=DATA, **options) -> tuple[vk.VAE, History]:
    """Train with graphs and by hand, and compare."""
    made, histories = [], []
    for cuda_graph in (True, False):
        torch.manual_seed(0)
        model = make().to(device)
        of_run = {name: make() if name == "callbacks" else make for name, make in options.items()}
        terms = elbo() if objective is None else objective()
        histories.append(run(model, terms, data, cuda_graph=cuda_graph, **of_run))
        made.append(model)
    one, other = map(weights, made)
    torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
    rows = [history.to_dict() for history in histories]
    for each in rows:
        each.pop("seconds")
    numbers = [torch.tensor(list(each["train"].values())) for each in rows]
    torch.testing.assert_close(*numbers, rtol=1e-5, atol=1e-5)
    assert rows[0]["learning_rate"] == rows[1]["learning_rate"]
    return made[0], histories[0]


def test_they_are_the_steps_by_hand(device, replays) -> None:
    agree(device)
    assert len(replays) == 4 * 4 - 2  # but for the first of each shape


def test_data_on_the_device(device, replays) -> None:
    data = vk.datasets.from_tensors(DATA, range(100), binarize="dynamic").to(device)
    agree(device, data=data)
    assert replays


def test_everything_at_once(device, replays) -> None:
    agree(
        device,
        objective=lambda: vk.Reconstruction() + vk.schedules.Linear(0, 4, steps=9) * vk.KL(),
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2, fused=True),
        clip_grad_norm=1.0,
        ema=0.9,
        validation=DATA[:50],
        validate_every=3,
    )
    assert len(replays) == 14


def test_targets_and_draws(device, replays) -> None:
    pairs = vk.datasets.from_tensors(DATA, target=1 - DATA)
    agree(device, data=pairs, objective=lambda: vk.objectives.ImportanceWeighted(), samples=3)
    agree(device, corruption=lambda x: x * (torch.rand_like(x) > 0.3))
    assert replays


def test_a_scheduled_capacity(device, replays) -> None:
    capacity = vk.schedules.Linear(0, 5, steps=9)
    terms = lambda: vk.Reconstruction() + 10 * vk.objectives.Capacity(capacity)  # noqa: E731
    agree(device, objective=terms)
    assert replays


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_convolutions(device, precision, replays) -> None:
    def make() -> vk.VAE:
        latent = vk.GaussianLatent(2)
        return vk.VAE(
            vk.Encoder(vk.networks.conv((1, 8, 8), [4, 8], latent.num_params), latent),
            vk.Decoder(
                vk.networks.conv_transpose(2, [8, 4], (1, 8, 8)),
                vk.likelihoods.Bernoulli((1, 8, 8)),
            ),
        )

    torch.backends.cudnn.deterministic = True
    try:
        agree(device, make, precision=precision, channels_last=True)
    finally:
        torch.backends.cudnn.deterministic = False
    assert replays


@pytest.mark.parametrize("name", MAKERS)
def test_recipes(name: str, device, refuses, replays) -> None:
    make, options = MAKERS[name]
    labels = torch.eye(10).repeat(10, 1)[:96]
    data = vk.datasets.from_tensors(DATA[:96], labels) if name == "cvae" else DATA[:96]

    def both() -> tuple[vk.VAE, vk.objectives.Objective]:
        torch.manual_seed(0)
        recipe = make()
        return recipe.model.to(device), recipe.objective

    if name in ("aae", "factor_vae"):  # which train a discriminator
        if device.type == "cuda":
            words = "cuda_graph: expected False with", "parameters of its own"
            refuses(ValueError, lambda: run(*both(), data, **options), *words)
        return
    rows = []
    for cuda_graph in (True, False):
        model, objective = both()
        rows.append(run(model, objective, data, cuda_graph=cuda_graph, **options)["loss"])
    assert replays
    torch.testing.assert_close(*map(torch.tensor, rows), rtol=2e-4, atol=2e-4)


def test_what_callbacks_change(device, replays) -> None:
    def change(state) -> None:
        if len(state.history) == 1:
            state.optimizer.param_groups[0]["lr"] = 1e-2
        elif len(state.history) == 2:
            for parameter in state.model.encoder.parameters():
                parameter.requires_grad_(False)
        elif len(state.history) == 3:
            for parameter in state.model.decoder.parameters():
                parameter.data = parameter.data.clone() / 2
            state.optimizer.state.clear()
        elif len(state.history) == 4:
            state.optimizer.param_groups[0]["weight_decay"] = 0.1

    agree(device, epochs=6, callbacks=lambda: [change])
    assert 0 < len(replays) < 6 * 4 - 2


def test_what_changes_at_every_step_is_done_by_hand(device, replays) -> None:
    agree(device, scheduler=lambda it: OneCycleLR(it, 1e-2, total_steps=20))  # and its momentum
    assert not replays


def test_many_shapes(device, replays) -> None:
    batches = [DATA[: 10 + i] for i in range(12)] * 2
    agree(device, data=batches, epochs=2)
    assert len(replays) == 8 * 3


@pytest.mark.parametrize("bad", ["x", "target"])
def test_data_that_are_not_finite(device, bad: str) -> None:
    x, target = DATA[:64].clone(), DATA[:64].clone()
    batches = [{"x": x[i : i + 8], "target": target[i : i + 8]} for i in range(0, 64, 8)]
    before = tiny(likelihood=vk.likelihoods.Gaussian((1, 8, 8))).to(device)
    model = copy.deepcopy(before)
    run(before, data=copy.deepcopy(batches), steps=5)
    batches[5][bad][3] = torch.inf
    with pytest.raises(NonFiniteLossError, match=f"{bad}: expected finite values") as caught:
        run(model, data=batches, epochs=1)
    assert (caught.value.step, caught.value.batch_index) == (5, 5)
    assert torch.equal(weights(model), weights(before))


class Growing(vk.objectives.Term):
    """A term that becomes infinite, as a number of the step in a tensor has it."""

    def __init__(self) -> None:
        super().__init__("growing")
        self.register_buffer("held", torch.zeros(()), persistent=False)

    def set_step(self, step: int) -> None:
        self.held.fill_(0.1 if step < 6 else torch.inf)

    def forward(self, out, x) -> Tensor:
        return self.held * out.z.square().sum(-1)


def test_a_term_that_is_not_finite(device) -> None:
    before, model = tiny().to(device), tiny().to(device)
    run(before, elbo() + Growing(), steps=6)
    with pytest.raises(NonFiniteLossError, match="growing: expected a finite value") as caught:
        run(model, elbo() + Growing(), steps=12)
    assert (caught.value.step, caught.value.batch_index) == (6, 2)
    assert torch.equal(weights(model), weights(before))
    assert len(caught.value.history) == 1  # the first epoch, of four steps


@pytest.mark.parametrize("cut", [1, 2, 5, 7, 9])
def test_a_run_that_was_cut_off_goes_on(tmp_path, device, cut: int) -> None:
    def train(**options) -> vk.VAE:
        model = tiny().to(device)
        beta = vk.schedules.Linear(0, 1, steps=9)
        decay = {"scheduler": lambda it: LambdaLR(it, lambda step: 0.9**step)}
        run(model, vk.Reconstruction() + beta * vk.KL(), ema=0.9, **decay, **options)
        return model

    whole = train(steps=14)
    train(steps=cut, checkpoint=tmp_path)
    again = train(steps=14, checkpoint=tmp_path, resume=True)
    assert torch.equal(weights(again), weights(whole))


def test_ctrl_c(device) -> None:
    class Pressing:
        def __iter__(self):
            for index in range(30):
                if index == 20:
                    signal.raise_signal(signal.SIGINT)
                yield DATA[:32]

    history = run(tiny().to(device), data=Pressing(), epochs=1)
    assert history.stopped == "interrupted"
    assert history["loss"].shape == (1,)
    assert history.step == [21]


def test_the_optimizer_is_left_as_it_came(device) -> None:
    model = tiny().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 0.01, fused=True)
    before = {key: optimizer.param_groups[0][key] for key in ("lr", "capturable", "fused")}
    run(model, optimizer=optimizer)
    after = {key: optimizer.param_groups[0][key] for key in before}
    assert after == before
    assert not {"found_inf", "grad_scale"} & set(vars(optimizer))
    run(model, optimizer=optimizer, cuda_graph=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1),
        lambda parameters: torch.optim.AdamW(parameters, 0.1),
    ],
)
def test_other_optimizers_are_refused(make, device, refuses) -> None:
    words = "optimizer: expected Adam or AdamW with fused=True", "fused="
    refuses(ValueError, lambda: run(tiny().to(device), optimizer=make), *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": torch.device("cpu")}, "False on cpu"),
        ({"world": World(2, 0)}, "False in several processes"),
        ({"accumulate": 4}, "False with accumulate=4"),
        ({"precision": "fp16"}, "False with precision='fp16'"),
        ({"recompute": True}, "False with recompute=True"),
        ({"objective": MAKERS["factor_vae"][0]().objective}, "False with AdversarialTotal"),
    ],
)
def test_what_does_not_go_with_it(given, words: str, refuses) -> None:
    usual = {"objective": elbo(), "device": torch.device("cuda"), "world": World()}
    usual |= {"accumulate": 1, "precision": None, "recompute": False}
    REFUSES(**usual)
    refuses(ValueError, lambda: REFUSES(**usual | given), f"cuda_graph: expected {words}")


def test_a_step_that_looks_at_values_is_refused(device, refuses) -> None:
    if device.type != "cuda":
        pytest.skip("what stands for a graph may look at values")

    class Looking(vk.objectives.Term):
        def forward(self, out, x) -> Tensor:
            return out.z.square().sum(-1) * (2 if out.z.sum() > 0 else 1)

    model = tiny().to(device)
    untouched = tiny().to(device)
    run(untouched, elbo() + Looking(), steps=1, cuda_graph=False)
    words = "cuda_graph: expected False for this model and objective", "torch says"
    refuses(ValueError, lambda: run(model, elbo() + Looking()), *words)
    assert torch.equal(weights(model), weights(untouched))
    assert not model.training
    run(model)  # and the device is none the worse
