import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import killed_processes
import processes
import pytest
import torch
from torch.utils.data import DataLoader


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory) -> list[dict[str, object]]:
    """What each process of a launcher ended with."""
    folder = tmp_path_factory.mktemp(f"processes-{request.param}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={request.param}", processes.__file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = [folder / f"{rank}.pt" for rank in range(request.param)]
    return [torch.load(path, weights_only=False) for path in paths]


@pytest.fixture(scope="module")
def alone():
    """The same in one process, each run once."""
    return {name: processes.trained(name) for name in processes.OBJECTIVES}


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory) -> dict[str, object]:
    """What one process by itself ends with."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, processes.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "alone.pt", weights_only=False)


def _same(ranks, name: str, alone) -> None:
    """Hold what every process ended with to what one alone does."""
    losses, weights = alone
    for rank in ranks:
        found, others = rank[name]
        torch.testing.assert_close(others, weights, rtol=0, atol=1e-12)
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)


class TestGradients:
    @pytest.mark.parametrize("parts", [1, 3])
    @pytest.mark.parametrize("name", processes.OBJECTIVES)
    def test_those_of_one_process(self, ranks, alone, name, parts) -> None:
        _same(ranks, f"{name}, {parts}", alone[name])

    @pytest.mark.parametrize("parts", [1, 3])
    @pytest.mark.parametrize("name", ["elbo", "iwae", "stratified", "mmd", "factor"])
    def test_those_of_weights_that_are_spread(self, ranks, alone, name, parts) -> None:
        _same(ranks, f"{name}, {parts}, spread", alone[name])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_loader_of_ones_own(self, ranks, workers) -> None:
        loader = DataLoader(processes.data(), max(processes.SIZES))
        _same(ranks, f"loader, {workers}", processes.trained("stratified", source=loader))

    @pytest.mark.parametrize("name", processes.OTHERWISE)
    def test_in_another_layout_or_precision_or_compiled(self, ranks, otherwise, name) -> None:
        if len(ranks) == 4:
            return  # trained by two alone
        losses, weights = otherwise[name]
        # Of half precision, the gradients of each process are rounded before they are added up.
        near = {"rtol": 1e-4, "atol": 2e-4} if name == "bf16" else {"rtol": 1e-10, "atol": 1e-10}
        for rank in ranks:
            torch.testing.assert_close(rank[name][0], losses, **near)
            torch.testing.assert_close(rank[name][1], weights, **near)

    def test_what_goes_on_around_them(self, ranks) -> None:
        train, validation, weights = processes.around()
        assert train["rate"][-1] < train["rate"][0]
        for rank in ranks:
            found, measured, others = rank["around"]
            torch.testing.assert_close(others, weights, rtol=0, atol=1e-12)
            torch.testing.assert_close(found, train, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(measured, validation, rtol=1e-10, atol=1e-10)

    def test_batches_of_ones_own(self, ranks) -> None:
        batches = [*DataLoader(processes.data(), max(processes.SIZES))]
        _same(ranks, "batches", processes.trained("mmd", source=batches))


class TestDivided:
    """Data of which each process is given a part of its own."""

    def test_batches_are_those_of_all(self, ranks) -> None:
        _same(ranks, "dealt", processes.trained("mmd", source=processes.batches()))

    def test_elements_that_a_sampler_deals_out(self, ranks) -> None:
        order = processes.interleaved(len(ranks))
        elements = torch.utils.data.Subset(processes.data(), range(16))
        loader = DataLoader(elements, 8, sampler=order)
        _same(ranks, "sampled", processes.trained("stratified", source=loader))

    def test_arrays_in_an_order_of_their_own(self, ranks) -> None:
        losses, weights = ranks[0]["of arrays"]
        steps = {2: 2, 4: 1}[len(ranks)]
        assert all(len(row) == steps for row in losses.values())
        for rank in ranks:
            torch.testing.assert_close(rank["of arrays"][1], weights, rtol=0, atol=0)


class TestSharing:
    def test_all_end_alike(self, ranks) -> None:
        first, *others = (rank["sharing"] for rank in ranks)
        for other in others:
            for name in ("alone", "averaged", "held", "partly"):
                torch.testing.assert_close(other[name], first[name], rtol=0, atol=0)
            for name in ("validation", "metrics"):
                assert other[name] == first[name]

    def test_noise_is_each_ones_own(self, ranks) -> None:
        states = [rank["sharing"]["noise"] for rank in ranks]
        assert not any(torch.equal(*pair) for pair in combinations(states, 2))

    def test_a_run_goes_on_bit_for_bit(self, ranks) -> None:
        for rank in ranks:
            shared = rank["sharing"]
            torch.testing.assert_close(shared["resumed"], shared["alone"], rtol=0, atol=0)
            whole, resumed = shared["validation"]  # which has a row where it was cut off
            assert {name: row[-1] for name, row in whole.items()} == {
                name: row[-1] for name, row in resumed.items()
            }

    def test_the_first_alone_may_have_validation_data(self, ranks) -> None:
        for rank in ranks:
            measured, weights, stopped, steps = rank["sharing"]["only"]
            torch.testing.assert_close(weights, rank["sharing"]["alone"], rtol=0, atol=0)
            assert len(measured["mse"]) == len(measured["loss"]) > 0
            assert (measured, stopped, steps) == (
                ranks[0]["sharing"]["only"][0],
                *ranks[0]["sharing"]["only"][2:],
            )

    def test_a_shuffled_loader_goes_on_and_repeats(self, ranks) -> None:
        first, *others = ranks[0]["sharing"]["shuffled"]
        for rank in ranks:
            for weights in (*others, *rank["sharing"]["shuffled"]):
                torch.testing.assert_close(weights, first, rtol=0, atol=0)

    def test_the_first_is_asked_and_all_stop(self, ranks) -> None:
        assert [rank["sharing"]["asked"] for rank in ranks] == [[0, 0]] + [[]] * (len(ranks) - 1)
        assert {tuple(rank["sharing"]["steps"]) for rank in ranks} == {(1, 2)}

    def test_all_end_where_one_is_interrupted(self, ranks) -> None:
        # Told of it as the next step ends.
        assert {rank["sharing"]["interrupted"] for rank in ranks} == {("interrupted", 4)}

    def test_errors_are_everyones(self, ranks) -> None:
        what = "data: expected the same batches in every process"
        for rank in ranks:
            callback, batches, loader, holed, tracker, *others = rank["sharing"]["errors"]
            counted, fewer, other, *unread = others
            assert counted.startswith("batches of data: expected 3 in every process")
            assert other.startswith("clip_grad_norm: expected 1.0 in every process")
            assert "got 2.0 in process 1" in other
            assert unread == ["data: element 15 cannot be read"] * 2
            assert fewer.startswith("data: expected batches of one size in every process")
            assert "one of 0 and one of 8" in fewer
            assert callback.endswith("the callback's own")
            assert "NaN" in holed
            assert tracker.startswith("log_with: expected one of")
            assert batches.startswith(what)
            assert loader.startswith(what)


class TestSpread:
    """Weights of which each process holds a piece."""

    def test_each_has_a_piece(self, ranks) -> None:
        for rank in ranks:
            _, _, held, _ = rank["spread"]["spread"]
            assert all(own <= -(-count // 2) for count, own in held)
        for pieces in zip(*(rank["spread"]["spread"][2] for rank in ranks), strict=True):
            assert sum(own for _, own in pieces) == pieces[0][0]
        assert ranks[0]["spread"]["replicated"][2] == []

    @pytest.mark.parametrize("how", ["spread", "recomputed", "resumed"])
    def test_the_weights_of_the_others(self, ranks, how) -> None:
        for rank in ranks:
            history, weights, _, measured = rank["spread"][how]
            plain, others, _, before = rank["spread"]["replicated"]
            torch.testing.assert_close(weights, others, rtol=0, atol=1e-10)
            torch.testing.assert_close(measured, before, rtol=0, atol=1e-10)
            assert history.step[-1] == plain.step[-1]

    def test_a_layer_is_whole_while_it_works_alone(self, ranks) -> None:
        for rank in ranks:
            pieces = rank["spread"]["pieces"]  # of a layer, as the next one begins
            assert len(pieces) >= 9
            assert all(pieces)

    def test_a_run_goes_on_bit_for_bit(self, ranks) -> None:
        for rank in ranks:
            shared = rank["spread"]
            torch.testing.assert_close(shared["resumed"][1], shared["spread"][1], rtol=0, atol=0)

    def test_a_checkpoint_holds_them_whole(self, ranks) -> None:
        for rank in ranks:
            shared = rank["spread"]
            torch.testing.assert_close(shared["loaded"], shared["resumed"][1], rtol=0, atol=0)

    def test_torch_puts_them_together(self, ranks) -> None:
        for index, rank in enumerate(ranks):
            whole = rank["spread"]["spread"][1] if index == 0 else {}
            torch.testing.assert_close(rank["spread"]["together"], whole, rtol=0, atol=0)
        anew = ranks[0]["spread"]["anew"]
        torch.testing.assert_close(anew, ranks[0]["spread"]["spread"][1], rtol=0, atol=0)

    def test_the_best_are_put_back(self, ranks) -> None:
        for rank in ranks:
            plain, shared = rank["spread"]["patient"]
            assert shared[0].stopped == plain[0].stopped == "early"
            torch.testing.assert_close(shared[1], plain[1], rtol=0, atol=1e-10)

    def test_callbacks_are_asked_in_all(self, ranks) -> None:
        asked = [rank["spread"]["asked"] for rank in ranks]
        assert len(asked[0]) > 0
        assert all(each == asked[0] for each in asked)

    def test_what_does_not_go_with_them_is_refused(self, ranks) -> None:
        for rank in ranks:
            ema, compiled, last, holed, *others = rank["spread"]["errors"]
            optimizer, device, measured, saved = others
            assert measured.startswith("elements of validation: expected 19 in every process")
            assert ema.startswith("ema: expected None")
            assert compiled.startswith("compile: expected False")
            assert last.startswith("channels_last: expected False")
            assert "NaN" in holed
            assert optimizer.startswith("optimizer: expected a function")
            assert device.startswith("shard: expected a device")
            assert "expected a whole tensor, got a piece" in saved


def test_processes_that_took_themselves_to_be_alone_are_connected(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from accelerate import PartialState\n"
        "import torch\n"
        "print('each is one of', PartialState().num_processes)\n"
        "import processes\n"
        "processes.trained('elbo')\n"
        "assert torch.distributed.get_world_size() == 2\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(processes.__file__).parent)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "each is one of 2" in done.stdout:
        pytest.skip("this accelerate connects them on a processor, so that none was alone")


def test_an_error_of_one_process_ends_all_though_they_wait_for_its_weights(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch, vaekit as vk\n"
        "class Dies(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise MemoryError('only here')\n"
        "        return x\n"
        "latent = vk.GaussianLatent(3)\n"
        "encoder = vk.Encoder(torch.nn.Sequential(Dies(), torch.nn.Linear(8, 6)), latent)\n"
        "likelihood = vk.likelihoods.Gaussian(8)\n"
        "decoder = vk.Decoder(vk.networks.mlp(3, [8], 8), likelihood)\n"
        "objective = vk.Reconstruction() + vk.KL()\n"
        "vk.fit(vk.VAE(encoder, decoder), objective, torch.zeros(64, 8), steps=3, shard=True)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode != 0
    assert "MemoryError: only here" in done.stderr


def test_a_process_that_is_killed_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    launchers = {
        "torchrun": "torch.distributed.run --standalone --nproc-per-node=2",
        "accelerate": "accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1 "
        "--main_process_port=0 --mixed_precision=no --dynamo_backend=no",
    }

    def launch(launcher: str, folder: str, *kill: int) -> subprocess.CompletedProcess[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        words = [*launchers[launcher].split(), killed_processes.__file__, str(tmp_path / folder)]
        command = [sys.executable, "-m", *words, *map(str, kill)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def ends(folder: str) -> list[str]:
        return [path.read_text() for path in sorted((tmp_path / folder).glob("*.txt"))]

    alone = launch("torchrun", "alone")
    assert alone.returncode == 0, alone.stderr
    assert launch("torchrun", "killed", 1, 10).returncode != 0
    assert ends("killed") == []
    resumed = launch("accelerate", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert ends("killed") == ends("alone")
    began = [(tmp_path / "killed" / f"{rank}.began").read_text() for rank in (0, 1)]
    assert began == ["9", "9"]
    first, second = ends("alone")
    assert first == second
    assert first.startswith("20 ")
