import copy
import math
import weakref

import processes
import pytest
import torch
import torchmetrics
from accelerate.tracking import GeneralTracker
from models import elbo, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vaekit as vk
from vaekit.training import NonFiniteLossError, evaluate, fit
from vaekit.training.how import How

DATA = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


def run(model: vk.VAE | None = None, objective=None, data=DATA, **options):
    options = {"progress": False, "batch_size": 32, "epochs": 2, "seed": 0} | options
    return fit(model or tiny(), objective or elbo(), data, **options)


def maps() -> vk.VAE:
    torch.manual_seed(0)
    latent = vk.GaussianLatent(4)
    net = vk.networks.conv((1, 8, 8), [8, 16], latent.num_params)
    mirror = vk.networks.conv_transpose(4, [16, 8], (1, 8, 8))
    likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
    return vk.VAE(vk.Encoder(net, latent), vk.Decoder(mirror, likelihood))


def assert_same(one: vk.VAE, other: vk.VAE, **tolerance) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


class Allocated(TorchDispatchMode):
    """Counts the bytes that are held at once of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.seen:
                self.seen.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, key, size)
        return out

    def free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


class TestAccumulation:
    @pytest.mark.parametrize("name", processes.OBJECTIVES)
    def test_parts_have_the_gradient_of_the_whole(self, name) -> None:
        losses, whole = processes.trained(name)
        start = processes.model().state_dict()
        first = "encoder.net.layers.0.weight"
        assert not torch.equal(start[first], whole[first])
        for parts in (2, 3, 8):
            found, weights = processes.trained(name, parts)
            torch.testing.assert_close(weights, whole, rtol=0, atol=1e-12)
            torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)

    def test_it_takes_less_memory(self) -> None:
        peaks = []
        for parts in (1, 8):
            model, data = tiny(width=64), torch.rand(4096, 1, 8, 8).round()
            with Allocated() as allocated:
                run(model, data=data, batch_size=4096, epochs=1, accumulate=parts)
            peaks.append(allocated.most)
        assert peaks[1] < 0.6 * peaks[0]  # the batch itself stays

    def test_a_scalar_that_is_no_statistic_is_refused(self) -> None:
        class Alone(vk.objectives.Term):
            def forward(self, out, x):
                return out.z.mean()

        with pytest.raises(ValueError, match="objective: expected terms of one value for each"):
            run(objective=elbo() + Alone(), accumulate=2)

    def test_a_prior_of_each_element_cannot_be_compared(self) -> None:
        class Each(torch.nn.Module):
            takes_context = True

            def forward(self, context):
                return vk.distributions.StandardGaussian(torch.zeros(len(context), 2), 1)

        model = tiny()
        model.prior = Each()
        data = vk.datasets.from_tensors(DATA, torch.arange(len(DATA)))
        objective = vk.Reconstruction() + vk.objectives.MMD()
        run(model, objective, data, epochs=1)
        for parts in (2, 32):
            with pytest.raises(ValueError, match="prior: expected one for all elements"):
                run(model, objective, data, accumulate=parts)

    @pytest.mark.parametrize("parts", [0, 1.5])
    def test_the_number_is_checked(self, parts, refuses) -> None:
        refuses(ValueError, lambda: run(accumulate=parts), "accumulate: expected a whole number")

    @pytest.mark.parametrize("options", [{"accumulate": 4}, {"recompute": True}])
    def test_statistics_move_once_for_what_is_seen(self, options) -> None:
        def model() -> vk.VAE:
            torch.manual_seed(0)
            layers = [[torch.nn.Linear(size, 16), torch.nn.BatchNorm1d(16)] for size in (64, 16)]
            net = torch.nn.Sequential(
                torch.nn.Flatten(), *layers[0], *layers[1], torch.nn.Linear(16, 4)
            )
            plain = tiny()
            return vk.VAE(vk.Encoder(net, plain.encoder.latent), plain.decoder)

        made = model()
        run(made, vk.Reconstruction() + vk.objectives.MMD(), epochs=1, **options)
        norm = made.encoder.net[2]
        assert norm.num_batches_tracked == 3 * options.get("accumulate", 1)

    def test_layers_with_statistics_are_computed_again_and_end_alike(self) -> None:
        def model(calls: list[int]) -> vk.VAE:
            torch.manual_seed(0)
            layers = []
            for size in (64, 16, 16):
                layers += [torch.nn.Linear(size, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU()]
            layers[3].register_forward_hook(lambda *_: calls.append(1))
            net = torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(16, 4))
            plain = tiny()
            return vk.VAE(vk.Encoder(net, plain.encoder.latent), plain.decoder)

        plain_calls: list[int] = []
        again_calls: list[int] = []
        plain, again = model(plain_calls), model(again_calls)
        run(plain, epochs=2)
        run(again, epochs=2, recompute=True)
        assert len(again_calls) == 2 * len(plain_calls) > 0
        for one, other in zip(
            plain.state_dict().values(), again.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other)

    def test_a_corruption_is_drawn_once(self) -> None:
        seen = []

        def corrupt(x):
            seen.append(len(x))
            return x

        run(objective=elbo() + vk.objectives.MMD(), epochs=1, accumulate=4, corruption=corrupt)
        assert seen == [32, 32, 32]


class TestPrecision:
    def test_gradients_that_are_never_finite_are_told(self) -> None:
        class Rooted(torch.nn.Linear):
            """Has a finite value, and a gradient that is not."""

            def __init__(self) -> None:
                super().__init__(64, 4)
                self.root = torch.nn.Parameter(torch.zeros(4))

            def forward(self, x):
                return super().forward(x.flatten(1)) + (self.root * 0).sqrt()

        model = tiny()
        model.encoder.net = Rooted()
        with pytest.raises(NonFiniteLossError, match=r"gradient of encoder\.net\.root") as caught:
            run(model, steps=60, epochs=None, precision="fp16")
        assert caught.value.step == 32

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_networks_are_lowered_and_nothing_else(self, precision, device) -> None:
        model, seen = maps().to(device), {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.register_forward_hook(
                    lambda _, given, result, name=name: seen.update({name: result.dtype})
                )
        x = DATA.to(device)
        out = How(precision=precision)(model, x, None)
        assert set(seen.values()) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
        single = {torch.float32}
        assert {each.dtype for each in (*out.posterior, out.z, out.x_hat)} == single
        assert {value.dtype for value in elbo()(out, x).terms.values()} == single

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_it_trains_as_well(self, precision, device) -> None:
        train, test = vk.datasets.digits(binarize="threshold")
        losses = []
        for each in (None, precision):
            model = maps().to(device)
            history = run(model, data=train.to(device), epochs=8, precision=each)
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            losses.append(evaluate(model, elbo(), test.to(device))["loss"])
            assert history["loss"][-1] < history["loss"][0]
        assert abs(losses[1] - losses[0]) < 1.0  # nats, of 26

    def test_validation_is_measured_alike(self) -> None:
        model = maps()
        history = run(model, precision="bf16", validation=DATA)
        low, full = (
            evaluate(model, elbo(), DATA, batch_size=32, precision=each)["loss"]
            for each in ("bf16", None)
        )
        assert history.validation["loss"][-1] == low != full

    def test_infinite_gradients_are_passed_over(self) -> None:
        model = maps()
        before = copy.deepcopy(model)
        history = run(model, objective=1e6 * elbo(), epochs=1, precision="fp16")
        assert_same(model, before, rtol=0, atol=0)  # at first the scale is too large throughout
        assert len(history) == 1

    def test_what_cannot_be_lowered_is_refused(self, refuses) -> None:
        what = "precision: expected None, or weights of torch.float32"
        refuses(ValueError, lambda: run(tiny().double(), precision="bf16"), what)
        what = "precision: expected one of 'bf16', 'fp16', got 'half'"
        refuses(ValueError, lambda: run(precision="half"), what)


class TestMemory:
    def test_recomputing_forgets_and_changes_nothing(self) -> None:
        def deep() -> vk.VAE:
            model = tiny()
            net = vk.networks.mlp(2, [64] * 40, 64)
            return vk.VAE(model.encoder, vk.Decoder(net, model.decoder.likelihood))

        peaks, models, x = [], [deep(), deep()], DATA.repeat(16, 1, 1, 1)
        models[1].load_state_dict(models[0].state_dict())
        for model, recompute in zip(models, (False, True), strict=True):
            with Allocated() as allocated:
                run(model, data=x, batch_size=len(x), epochs=2, recompute=recompute)
            peaks.append(allocated.most)
            assert type(model.decoder.net.layers) is torch.nn.Sequential
        assert_same(*models, rtol=0, atol=0)
        assert peaks[1] < 0.5 * peaks[0]

    def test_channels_last(self, device) -> None:
        def hook(_, given: tuple[torch.Tensor, ...]) -> None:
            came.append(given[0].is_contiguous(memory_format=torch.channels_last))

        models = [maps().to(device), maps().to(device)]
        for model, last in zip(models, (False, True), strict=True):
            came: list[bool] = []
            convolution = model.encoder.net.layers[2]
            with convolution.register_forward_pre_hook(hook):
                run(model, data=DATA.to(device), channels_last=last)
            assert set(came) == {last}
            laid = convolution.weight.is_contiguous(memory_format=torch.channels_last)
            assert laid is last
        assert_same(*models, rtol=1e-4, atol=1e-5)


class TestMovingAverage:
    def test_it_is_the_average_of_the_weights(self) -> None:
        def keep(state) -> None:
            held.append(copy.deepcopy(state.model.state_dict()))

        held: list = []
        run(tiny(), validate_every=1, callbacks=[keep])
        steps, held = held, []
        model = tiny()
        run(model, validate_every=1, callbacks=[keep], ema=0.8)
        mean = steps[0]
        for one in steps[1:]:
            mean = {key: 0.8 * value + 0.2 * one[key] for key, value in mean.items()}
        torch.testing.assert_close(dict(model.state_dict()), mean)
        torch.testing.assert_close(dict(held[-1]), mean)

    def test_it_is_what_is_validated(self) -> None:
        model = tiny()
        history = run(model, ema=0.9, validation=DATA)
        assert (
            evaluate(model, elbo(), DATA, batch_size=32)["loss"] == history.validation["loss"][-1]
        )

    def test_it_is_written_down(self, tmp_path) -> None:
        whole, cut = tiny(), tiny()
        run(whole, ema=0.9, epochs=4)
        run(cut, ema=0.9, epochs=2, checkpoint=tmp_path)
        held = tiny()
        vk.training.load_checkpoint(held, tmp_path)
        assert_same(held, cut, rtol=0, atol=0)
        again = tiny()
        run(again, ema=0.9, epochs=4, checkpoint=tmp_path, resume=True)
        assert_same(again, whole, rtol=0, atol=0)

    def test_an_error_leaves_the_weights_as_they_were(self) -> None:
        model, plain = tiny(), tiny()
        holed = [DATA[:32], DATA[32:64], DATA[64:] * math.nan]
        for each, options in ((model, {"ema": 0.9}), (plain, {})):
            with pytest.raises(vk.training.NonFiniteLossError):
                run(each, data=holed, epochs=1, **options)
        assert_same(model, plain, rtol=0, atol=0)

    @pytest.mark.parametrize("decay", [0, 1, -0.1])
    def test_the_decay_is_checked(self, decay) -> None:
        with pytest.raises(ValueError, match="ema: expected a decay between 0 and 1"):
            run(ema=decay)


class TestMetrics:
    def test_they_are_taken_over_the_validation_data(self, device) -> None:
        model, held = tiny().to(device), DATA[:50].to(device)
        metrics = {
            "mse": torchmetrics.MeanSquaredError(),
            "psnr": torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0),
        }
        history = run(model, data=DATA.to(device), validation=held, metrics=metrics)
        assert list(history.validation) == ["loss", "reconstruction", "kl", "mse", "psnr"]
        assert "mse" not in history.train
        found = evaluate(model, elbo(), held, batch_size=32, metrics=metrics)
        with vk.training.measures.measuring(model, 0):
            x_hat = torch.cat([model(batch).x_hat for batch in held.split(32)])
        mse = (x_hat - held).square().mean().item()
        assert found["mse"] == history.validation["mse"][-1] == pytest.approx(mse, rel=1e-5)
        assert found["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)

    def test_each_number_has_a_name(self, refuses) -> None:
        several = torchmetrics.MetricCollection(
            {"mse": torchmetrics.MeanSquaredError(), "mae": torchmetrics.MeanAbsoluteError()}
        )

        class Pair(torchmetrics.MeanSquaredError):
            def compute(self):
                return super().compute(), torch.zeros(())

        given = {"of": several, "pair": Pair(), "alone": torchmetrics.MeanSquaredError()}
        found = run(validation=DATA, metrics=given).validation
        assert list(found)[3:] == ["of_mae", "of_mse", "pair_0", "pair_1", "alone"]
        assert found["of_mse"] == found["alone"] == found["pair_0"] != found["of_mae"]

        class Rows(Pair):
            def compute(self):
                return torch.zeros(3)

        words = "metrics: expected one that computes a number", "('rows')", "Tensor[3]"
        refuses(TypeError, lambda: run(validation=DATA, metrics={"rows": Rows()}), *words)

    def test_they_wait_for_no_other_process(self) -> None:
        class Asked(torchmetrics.MeanSquaredError):
            def compute(self):
                assert not self.distributed_available_fn()
                return super().compute()

        metric, several = Asked(), torchmetrics.MetricCollection(Asked())
        before = metric.distributed_available_fn
        run(validation=DATA, metrics={"mse": metric, "several": several})
        assert metric.distributed_available_fn is before

    def test_of_several_draws_the_mean_is_measured(self) -> None:
        objective = vk.objectives.ImportanceWeighted()
        metrics = {"mse": torchmetrics.MeanSquaredError()}
        model = tiny()
        found = evaluate(model, objective, DATA, samples=5, metrics=metrics)
        with vk.training.measures.measuring(model, 0):
            x_hat = model(DATA, samples=5).x_hat
        assert found["mse"] == pytest.approx((x_hat.mean(0) - DATA).square().mean().item(), 1e-5)

    def test_those_of_sets_see_the_data_and_the_reconstructions(self) -> None:
        class Features(torch.nn.Module):
            num_features = 4

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.flatten(1)[:, :4].double()

        def fid() -> torchmetrics.Metric:
            return torchmetrics.image.fid.FrechetInceptionDistance(Features(), normalize=True)

        model = tiny()
        found = evaluate(model, elbo(), DATA, batch_size=32, metrics={"fid": fid()})
        by_hand = fid()
        by_hand.update(DATA, real=True)
        with vk.training.measures.measuring(model, 0):
            by_hand.update(torch.cat([model(x).x_hat for x in DATA.split(32)]).detach(), real=False)
        assert found["fid"] == pytest.approx(by_hand.compute().item(), rel=1e-5)
        assert found["fid"] > 0

    def test_what_is_none_is_refused(self, refuses) -> None:
        mse = torchmetrics.MeanSquaredError()
        refuses(ValueError, lambda: run(metrics={"mse": mse}), "validation: expected data, where m")
        taken, bare = {"kl": mse}, {"mse": torch.nn.functional.mse_loss}
        model = tiny()
        before = copy.deepcopy(model.state_dict())
        for kind, metrics, words in (
            (ValueError, taken, "metrics: expected other"),
            (TypeError, bare, "metrics: expected metrics"),
            (TypeError, [mse], "metrics: expected metrics by name"),
        ):
            given = {"metrics": metrics, "validation": DATA, "progress": False, "epochs": 1}
            refuses(kind, lambda g=given: vk.fit(model, elbo(), DATA, **g), words)
        assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())


class TestTrackers:
    @pytest.mark.parametrize("failing", ["start", "finish"])
    def test_one_that_fails_leaves_no_other_open(self, failing: str) -> None:
        class Noted(GeneralTracker):
            name, requires_logging_directory, tracker = "noted", False, None

            def __init__(self, fails: str = ""):
                super().__init__()
                self.fails, self.calls = fails, []

            def start(self):
                self.note("start")

            def finish(self):
                self.note("finish")

            def note(self, what: str) -> None:
                self.calls.append(what)
                if what == self.fails:
                    raise ArithmeticError(what)

            def store_init_configuration(self, values):
                pass

            def log(self, values, step=None):
                pass

        others = Noted(), Noted()
        with pytest.raises(ArithmeticError, match=failing):
            run(log_with=[others[0], Noted(failing), others[1]], epochs=1)
        started = [others[0]] if failing == "start" else others
        assert [other.calls for other in started] == [["start", "finish"]] * len(started)

    def test_tensorboard(self, tmp_path) -> None:
        history = run(validation=DATA, log_with="tensorboard", log_dir=tmp_path)
        events = EventAccumulator(str(tmp_path / "vaekit")).Reload()
        for name in ("loss", "reconstruction", "kl"):
            for group in ("train", "validation"):
                scalars = events.Scalars(f"{group}/{name}")
                assert [scalar.step for scalar in scalars] == history.step
                values = getattr(history, group)[name]
                assert [scalar.value for scalar in scalars] == pytest.approx(values)
        (settings,) = tmp_path.rglob("hparams.yml")
        assert "batch_size: 32" in settings.read_text()

    def test_one_of_ones_own(self) -> None:
        class Kept(GeneralTracker):
            name, requires_logging_directory, tracker = "kept", False, None

            def __init__(self):
                super().__init__()
                self.calls = []

            def start(self):
                self.calls.append("start")

            def store_init_configuration(self, values):
                self.calls.append(values["seed"])

            def log(self, values, step=None):
                self.calls.append((step, sorted(values)))

            def finish(self):
                self.calls.append("finish")

        def fail(state) -> None:
            raise ArithmeticError

        rows = ["epoch", "learning_rate"]
        rows += [f"{group}/{name}" for group in ("train", "weight") for name in ("kl", "loss")]
        names = {"train/reconstruction", "weight/reconstruction", *rows} - {"weight/loss"}
        kept = Kept()
        run(log_with=[kept], epochs=2)
        assert kept.calls == ["start", 0, (3, sorted(names)), (6, sorted(names)), "finish"]
        broken = Kept()
        with pytest.raises(ArithmeticError):
            run(log_with=broken, callbacks=[fail])
        assert broken.calls[-1] == "finish"

    def test_what_is_none_is_refused(self, refuses, monkeypatch) -> None:
        refuses(ValueError, lambda: run(log_with="paper"), "log_with: expected one of 'aim', 'cl")
        refuses(TypeError, lambda: run(log_with=3), "log_with: expected the name of a tracker")
        monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
        refuses(ImportError, lambda: run(log_with="wandb"), "log_with='wandb' needs its package")
