import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit as vk
from vaekit.cli import main
from vaekit.datasets.tables import read_numbers

NARROW = ["--hidden", "16", "--latent-dim", "2"]
SHORT = ["--steps", "6", "--quiet"]
SMALL = [*NARROW, *SHORT]
PICTURES = ["curves", "kl", "latents", "reconstructions", "samples"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs") / "digits"
    command = ["train", "digits", "--binarize", "dynamic", "--out", str(folder), *SMALL]
    assert main(command) == 0
    return folder


def fails(capsys, *words: str) -> str:
    assert main(list(words)) == 1
    said: str = capsys.readouterr().err
    assert said.startswith(f"vaekit {words[0]}: ")
    assert "Traceback" not in said
    return said


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def test_a_run_is_a_folder(run: Path) -> None:
    found = {path.name for path in run.iterdir()}
    files = {"config.json", "history.json", "checkpoints", "model"}
    assert found == files | {f"{name}.png" for name in PICTURES}
    config = json.loads((run / "config.json").read_text())
    assert config["data"] == "digits"
    assert config["latent_dim"] == 2
    assert config["version"] == vk.__version__
    assert json.loads((run / "history.json").read_text())["step"] == [6]
    for name in PICTURES:
        assert width(run / f"{name}.png") > 100
    model = vk.VAE.from_pretrained(run / "model")
    assert model.sample(3).shape == (3, 1, 8, 8)


def test_it_is_the_run_that_functions_make(run: Path) -> None:
    torch.manual_seed(vk.training.fork_seed(0, "initialisation"))
    nets = vk.recipes.perceptrons((16,))
    model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, nets=nets)
    train, _ = vk.datasets.digits(binarize="dynamic")
    vk.fit(model, objective, train, steps=6, seed=0, progress=False)
    same = vk.VAE.from_pretrained(run / "model")
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_launcher_s_processes_write_one_run(run: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    folder = tmp_path / "run"
    words = ["-m", "vaekit", "train", "digits", "--binarize", "dynamic", "--out", str(folder)]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", *words, *SMALL],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps") == 1  # the first speaks for both
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.iterdir()}
    alone, both = (json.loads((each / "history.json").read_text()) for each in (run, folder))
    # The second draws noise of its own.
    assert both["train"]["loss"] == pytest.approx(alone["train"]["loss"], rel=0.05)


def test_evaluate(run: Path, capsys) -> None:
    assert main(["evaluate", str(run), "--samples", "10"]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert found["elements"] == 297
    assert found["reconstruction"] + found["kl"] == pytest.approx(-found["elbo"])
    assert found["nll"] < -found["elbo"]
    assert f"{found['nll']:.4f}" in said
    assert main(["evaluate", str(run), "--samples", "10"]) == 0
    assert json.loads((run / "evaluation.json").read_text()) == found


def test_sample(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["sample", str(run), "--number", "5"]) == 0
    assert np.load(run / "samples.npy").shape == (5, 1, 8, 8)
    (run / "samples.npy").unlink()
    assert main(["sample", str(run), "--out", str(tmp_path / "new" / "x.png")]) == 0
    assert width(tmp_path / "new" / "x.png") > 100
    assert "--out" in fails(capsys, "sample", str(run), "--out", str(tmp_path / "x.gif"))
    assert "no table" in fails(capsys, "sample", str(run), "--out", str(tmp_path / "x.csv"))


def test_samples_are_means_or_draws(run: Path) -> None:
    found = []
    for how in ([], ["--draw"]):
        assert main(["sample", str(run), "--number", "5", *how]) == 0
        found.append(np.load(run / "samples.npy"))
    (run / "samples.npy").unlink()
    means, draws = found
    assert set(np.unique(draws)) == {0, 1}
    assert ((means > 0) & (means < 1)).all()


def test_a_run_that_failed_before_it_began_may_be_begun_anew(tmp_path: Path, capsys) -> None:
    command = ["train", "digits", "--out", str(tmp_path / "run"), *SMALL]
    assert "Grey levels" in fails(capsys, *command, "--likelihood", "bernoulli")
    assert main([*command, "--binarize", "dynamic"]) == 0
    assert "without a run, or --resume" in fails(capsys, *command)


def test_a_run_that_was_cut_off_or_damaged(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "history.json").write_text('{"step": [1')
    assert "history.json" in fails(capsys, "report", str(folder))
    shutil.rmtree(folder / "model")
    for command in ("sample", "evaluate", "report"):
        said = fails(capsys, command, str(folder))
        assert f"a run that has ended, got {folder}, without a model" in said
        assert f"vaekit train --resume --out {folder}" in said
    (folder / "config.json").write_text('{"data": ')
    assert f"RUN: expected whole files, got {folder / 'config.json'}" in fails(
        capsys, "sample", str(folder)
    )


def test_a_single_number_is_no_data(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "one.npy", np.float32(3))
    said = fails(capsys, "train", str(tmp_path / "one.npy"), "--out", str(tmp_path / "run"), *SMALL)
    assert "data: expected an array of elements, got a single number" in said


def test_a_cell_without_a_number_is_named(tmp_path: Path, capsys) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n3,\n")
    said = fails(capsys, "train", str(path), "--out", str(tmp_path / "run"), *SMALL)
    assert "a cell that is empty is no number" in said
    assert ".." not in said


def test_report(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert "Report of digits" in (tmp_path / "page.html").read_text()


def test_a_run_goes_on(tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "run")
    command = ["train", "digits", "--recipe", "beta_vae", "--set", "beta=2", "--out", out]
    assert main([*command, *SMALL]) == 0
    assert "without a run, or --resume" in fails(capsys, *command, *SMALL)
    assert main(["train", "--out", out, "--resume", "--steps", "20", "--quiet"]) == 0
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history["step"][-1] == 20
    whole = str(tmp_path / "whole")
    command[-1] = whole
    assert main([*command, *SMALL, "--steps", "20"]) == 0
    models = [vk.VAE.from_pretrained(Path(each) / "model") for each in (out, whole)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rate", "0.1"], "--learning-rate: expected 0.001, as the run was begun with"),
        (["--batch-size", "7"], "--batch-size: expected 128"),
        (["--set", "beta=3"], "--set: expected {}, as"),
        (["mnist"], "data: expected digits, as the run was begun with"),
        (["--compile"], "--compile: expected False"),
    ],
)
def test_a_run_does_not_go_on_as_another(run: Path, words, said: str, capsys) -> None:
    command = "train", *words, "--out", str(run), "--resume", "--steps", "12", "--quiet"
    assert said in fails(capsys, *command)


def test_a_run_goes_on_as_it_was_begun_if_that_is_said(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "digits", "--out", out, *SMALL]) == 0
    again = ["digits", "--batch-size", "128", "--hidden", "16", "--epochs", "1", "--device", "cpu"]
    assert main(["train", *again, "--out", out, "--resume", "--quiet"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["epochs"], config["steps"]) == (1, None)


def test_a_loss_that_is_not_finite_leaves_the_history(tmp_path: Path, monkeypatch, capsys) -> None:
    values = vk.KL.forward
    calls: list[int] = []

    def spoil(self, out, x):
        calls.append(0)
        return values(self, out, x) * (float("nan") if len(calls) > 18 else 1)

    monkeypatch.setattr(vk.KL, "forward", spoil)
    out = tmp_path / "run"
    command = "train", "digits", "--out", str(out), "--epochs", "3", "--hidden", "8", "--quiet"
    assert "kl: expected a finite value" in fails(capsys, *command)
    assert len(json.loads((out / "history.json").read_text())["step"]) == 1
    calls.clear()
    (tmp_path / "other" / "history.json").mkdir(parents=True)
    said = fails(capsys, *command[:3], str(tmp_path / "other"), *command[4:])
    assert "no history: [Errno" in said  # beside what ended the run
    assert "kl: expected a finite value" in said


def test_data_that_have_changed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", TABLE)
    assert main(["train", "x.npy", "--out", "run", *SMALL]) == 0
    run = str(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", run, "--samples", "4"]) == 0
    np.save(tmp_path / "x.npy", TABLE[:-1])
    capsys.readouterr()
    said = "data: expected the 40 elements that the run was begun with, got 39"
    assert said in fails(capsys, "evaluate", run)
    assert said in fails(capsys, "train", "--out", run, "--resume", "--steps", "9")


@pytest.mark.parametrize(
    ("names", "columns", "said"),
    [
        ("b,a,c", [1, 0, 2], "the columns a, b, c, as the run was begun with, got b, a, c"),
        ("a,b", [0, 1], "the columns a, b, c, as the run was begun with, got a, b"),
        ("", [0, 1, 2], "the columns a, b, c, as the run was begun with, got none by name"),
    ],
)
def test_columns_that_have_changed(
    names: str, columns: list[int], said: str, tmp_path: Path, capsys
) -> None:
    path, out = tmp_path / "x.csv", tmp_path / "run"
    np.savetxt(path, TABLE, delimiter=",", header="a,b,c", comments="")
    assert main(["train", str(path), "--standardize", "--out", str(out), *SMALL]) == 0
    before = (out / "config.json").read_text()
    np.savetxt(path, TABLE[:, columns], delimiter=",", header=names, comments="")
    if not names:
        path.write_text(path.read_text().lstrip())
    assert f"data: expected {said}" in fails(capsys, "evaluate", str(out))
    assert said in fails(capsys, "train", "--out", str(out), "--resume", "--steps", "9")
    assert (out / "config.json").read_text() == before


def test_another_number_of_columns_without_names(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "x.npy"), "--standardize", "--out", out, *SMALL]) == 0
    np.save(tmp_path / "x.npy", TABLE[:, :2])
    said = "data: expected the 3 columns that the run was begun with, got 2"
    assert said in fails(capsys, "evaluate", out)


def archive(damaged: bool) -> bytes:
    """An archive of numbers, compressed; or one whose numbers were damaged, not its list."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(1000.0))
    content = bytearray(file.getvalue())
    content[60:200] = bytes(140) if damaged else content[60:200]
    return bytes(content)


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(1000.0))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("x.npz", b"PK\x03\x04no", []),
        ("x.npz", archive(damaged=True), []),
        ("x.npz", b"no archive at all", []),
        ("x.npy", b"", []),
        ("x.npy", b"no array at all", []),
        ("x.npy", array()[:-100], []),
        ("x.csv", "a,b\n1,2\n3,\u00fc\n".encode("latin-1"), []),
        ("x.csv", b'"' + b"a" * 200_000 + b'"\n1\n', []),
    ],
)
def test_a_damaged_file_of_numbers(
    tmp_path: Path, name: str, content: bytes, more: list[str], capsys
) -> None:
    (tmp_path / name).write_bytes(content)
    command = "train", str(tmp_path / name), *more, "--out", str(tmp_path / "run")
    said = fails(capsys, *command)
    assert "data: expected a" in said
    assert name in said
    assert "load it" not in said  # as numpy advises, which would run what is in it
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("a,b\n1,2\n3\n", ["--label", "b"], "2 cells in each line, separated by commas, as the f"),
        ("a,b\n1,2\n3\n", [], "with 1 in line 3"),
        ("a,b\n1,2\n\n1,2,3\n", [], "with 3 in line 4. One without a name? Name it in the first"),
        ("a;b\n1,5;2\n", [], "1 cells in each line, separated by commas, as the first has, got"),
        ("a;b\n1,5;2\n", [], "Cells are separated by commas alone."),
        ("a,b\n", [], "at least one row of numbers, got none"),
        ("a,b\n1,2\n1,\n", [], "could not convert string '' to float64 in line 3, column 2"),
        ("1,2\n\n1,x\n", [], "could not convert string 'x' to float64 in line 3, column 2"),
        ("\na,b\n1,2\n1,x\n", [], "could not convert string 'x' to float64 in line 4, column 2"),
    ],
)
def test_a_table_whose_lines_do_not_fit(
    content: str, more: list[str], said: str, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    found = fails(capsys, "train", str(path), *more, "--out", str(tmp_path / "run"), *SMALL)
    assert f"data: expected {said}" in found or said in found
    assert "Warning" not in found


def test_an_archive_of_several_arrays(tmp_path: Path, capsys) -> None:
    np.savez(tmp_path / "x.npz", features=np.zeros((20, 3)), y=np.arange(20))
    words = "train", str(tmp_path / "x.npz"), "--out", str(tmp_path / "run"), *SMALL
    assert "data: expected an array called x, or one alone" in fails(capsys, *words)
    assert main([*words, "--label", "y"]) == 0


def test_what_may_not_be_meant_is_noted(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 2)) * [1, 1e4])
    words = ["train", str(tmp_path / "x.npy"), *SMALL, "--out"]
    assert main([*words, str(tmp_path / "wide")]) == 0
    assert "--standardize brings them to one" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "standard"), "--standardize"]) == 0
    assert not capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal([0, 1.7e9], [1, 1e3], (50, 2)))
    assert main([*words, str(tmp_path / "times")]) == 0
    assert "the columns have deviations from" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8, 3)))
    assert main([*words, str(tmp_path / "maps")]) == 0
    assert "(8, 8, 3) have 8 channels, if images: those come first" in capsys.readouterr().err


def test_where_a_run_cannot_be_written(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    words = "train", "digits", "--out", str(tmp_path / "file")
    assert "--out: expected a folder, got a file" in fails(capsys, *words)
    said = fails(capsys, "report", str(run), "--out", str(tmp_path / "page.txt"))
    assert "--out: its ending: expected one of '.html'" in said


def test_places_that_cannot_be_written_to(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    for ending in ("npy", "html"):
        (tmp_path / f"folder.{ending}").mkdir()
    for command, out, said in (
        (["train", "digits", *SMALL], "file/run", "a place that can be written to"),
        (["sample", str(run)], "file/x.npy", "a place that can be written to"),
        (["report", str(run)], "file/x.html", "a place that can be written to"),
        (["sample", str(run)], "folder.npy", "a file, got a folder"),
        (["report", str(run)], "folder.html", "a file, got a folder"),
    ):
        got = fails(capsys, *command, "--out", str(tmp_path / out))
        assert f": --out: expected {said}" in got
        assert str(tmp_path / out) in got


def test_results_that_cannot_be_written(run: Path, tmp_path: Path, capsys) -> None:
    trained, measured = tmp_path / "trained", tmp_path / "measured"
    (trained / "history.json").mkdir(parents=True)
    said = fails(capsys, "train", "digits", *SMALL, "--out", str(trained))
    wanted = "expected a place that can be written to, got"
    assert f": --out: {wanted} {trained} (Is a directory)" in said
    assert [*(trained / "checkpoints").iterdir()]
    shutil.copytree(run, measured)
    (measured / "evaluation.json").unlink(missing_ok=True)
    (measured / "evaluation.json").mkdir()
    said = fails(capsys, "evaluate", str(measured), "--samples", "2")
    assert f": RUN: {wanted} {measured} (Is a directory)" in said


@pytest.mark.parametrize("content", [["a", "b"], np.array(["2000-01-01"] * 2, "M8[D]"), [1j, 2]])
def test_what_has_no_deviation(content, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "x.npy", np.array([content] * 9))
    words = "train", str(tmp_path / "x.npy"), "--standardize", "--out", str(tmp_path / "run")
    assert "data: expected an array of real numbers, got" in fails(capsys, *words)


def test_numbers_of_draws_and_of_samples(run: Path, capsys) -> None:
    assert "--samples: expected a whole" in fails(capsys, "evaluate", str(run), "--samples", "0")
    assert "--number: expected a whole" in fails(capsys, "sample", str(run), "--number", "0")


@pytest.mark.parametrize("option", [["--latent-dim", "5"], ["--hidden", "8"], ["--network", "mlp"]])
def test_options_that_a_recipe_does_not_take(option: list[str], tmp_path: Path, capsys) -> None:
    words = "train", "digits", "--recipe", "two_layer_vae", *option, "--out", str(tmp_path / "run")
    said = fails(capsys, *words)
    assert f"{option[0]}: expected none but with another recipe than two_layer_vae" in said
    assert "(--set) are: latent_dims, hidden, got" in said


def test_no_compiler(tmp_path: Path) -> None:
    words = ["-m", "vaekit", "train", "digits", "--compile", "--out", str(tmp_path / "run"), *SMALL]
    environment = os.environ | {"CXX": "/none", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "vaekit train: --compile: torch says: " in done.stderr


def test_a_first_line_of_numbers_that_lacks_one(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.csv").write_text("1,,3\n4,5,6\n7,8,9\n")
    said = fails(capsys, "train", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"))
    assert (
        "data: expected a first line of names or of numbers, got x.csv, with '' in column 2" in said
    )


def test_cells_of_nan_are_the_datas(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,nan\n2,3\n")
    said = fails(capsys, "train", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"))
    assert "data: expected no NaN" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--size", "8"], "--size: expected none but for a folder of images, got 8"),
        (["digits", "--channels", "1"], "--channels: expected none but for a folder"),
        (["digits", "--test-share", "0.2"], "--test-share: expected none but for a folder or a f"),
        (["digits", "--label", "y"], "--label: expected none but for a file of numbers"),
        (["digits", "--filters", "8"], "--filters: expected none but with --network conv"),
        (["digits", "--validation-share", "0.2"], "--validation-share: expected none but with"),
    ],
)
def test_options_that_would_not_be_looked_at(tmp_path: Path, words, said: str, capsys) -> None:
    assert said in fails(capsys, "train", *words, "--out", str(tmp_path / "run"))


def test_no_matplotlib(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    said = fails(capsys, "sample", str(run), "--out", str(tmp_path / "x.png"))
    assert 'A picture needs matplotlib: pip install "vaekit[plots]"' in said


@pytest.mark.parametrize("words", [["digits"], ["--resume"]])
def test_a_folder_of_something_else(tmp_path: Path, words: list[str], capsys) -> None:
    (tmp_path / "config.json").write_text('{"of": "another program"}')
    said = fails(capsys, "train", *words, "--out", str(tmp_path), *SMALL[:4])
    assert "config.json, of something else" in said
    assert "another program" in (tmp_path / "config.json").read_text()


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path, monkeypatch) -> None:
    out, values = tmp_path / "run", vk.Reconstruction.forward

    pressed = []

    def press(self, out, x):
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return values(self, out, x)

    with monkeypatch.context() as patch:
        patch.setattr(vk.Reconstruction, "forward", press)
        assert main(["train", "digits", "--out", str(out), *SMALL]) == 130
    assert json.loads((out / "history.json").read_text())["stopped"] == "interrupted"
    assert main(["train", "--out", str(out), "--resume", "--quiet"]) == 0
    assert json.loads((out / "history.json").read_text())["step"][-1] == 6


def images(folder: Path) -> str:
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


TABLE = np.random.default_rng(0).normal(size=(40, 3))


def test_a_folder_of_images(tmp_path: Path, capsys) -> None:
    folder, out = images(tmp_path / "images"), str(tmp_path / "run")
    assert "--size" in fails(capsys, "train", folder, "--out", out, *SMALL)
    command = ["train", folder, "--size", "16", "--network", "conv", "--filters", "4", "8"]
    said = fails(capsys, *command, "--out", f"{folder}/runs/run", *SMALL)
    assert f"--out: expected a folder outside of {folder}" in said
    assert main([*command, "--out", out, *SMALL]) == 0
    assert vk.VAE.from_pretrained(Path(out) / "model").sample(2).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "named csv"])
def test_a_file_of_numbers(tmp_path: Path, kind: str, capsys) -> None:
    path, out = tmp_path / f"table.{kind.split()[-1]}", tmp_path / "run"
    header = "a,b,c" if kind == "named csv" else ""
    {
        "npy": lambda: np.save(path, TABLE),
        "npz": lambda: np.savez(path, x=TABLE),
    }.get(kind, lambda: np.savetxt(path, TABLE, delimiter=",", header=header, comments=""))()
    assert main(["train", str(path), "--out", str(out), *SMALL]) == 0
    assert vk.VAE.from_pretrained(out / "model").sample(2).shape == (2, 3)
    assert not (out / "reconstructions.png").exists()  # these are no images
    assert not capsys.readouterr().err  # nor is it said of a table that it is none
    assert (out / "curves.png").exists()


FLOWERS = [[length, "short" if length < 5 else "long", 1000 + length] for length in range(40)]


def flowers(path: Path) -> str:
    rows = [["length", "kind", "area"], *FLOWERS]
    path.write_text("".join(f'{a},"{b}",{c}\n' for a, b, c in rows))
    return str(path)


def test_a_column_of_labels_and_columns_of_other_units(tmp_path: Path, monkeypatch, capsys) -> None:
    seen: list[vk.datasets.ArrayDataset] = []
    monkeypatch.setattr(
        "vaekit.cli.fit",
        lambda *given, **options: seen.append(given[2]) or vk.fit(*given, **options),
    )
    table, out = flowers(tmp_path / "table.csv"), str(tmp_path / "run")
    command = ["train", table, "--label", "kind", "--standardize", "--out", out]
    assert main([*command, *SMALL]) == 0
    (data,) = seen
    assert data.classes == ("long", "short")
    x, labels = data[torch.arange(len(data))]
    assert x.shape == (36, 2)
    assert torch.allclose(x.mean(0), torch.zeros_like(x[0]), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.ones_like(x[0]))
    assert x[labels == 1, 0].max() < x[labels == 0, 0].min()
    # What is drawn and measured is in the units of the file.
    assert main(["sample", out, "--number", "200"]) == 0
    drawn = np.load(tmp_path / "run" / "samples.npy")
    assert 900 < np.median(drawn[:, 1]) < 1150
    table = tmp_path / "samples.csv"
    assert main(["sample", out, "--number", "200", "--out", str(table)]) == 0
    assert table.read_text().splitlines()[0] == "length,area"
    assert np.array_equal(np.loadtxt(table, delimiter=",", skiprows=1), drawn)
    assert main(["evaluate", out, "--samples", "10"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    units = json.loads((tmp_path / "run" / "config.json").read_text())["units"]
    model = vk.VAE.from_pretrained(Path(out) / "model")
    order = torch.Generator().manual_seed(vk.training.fork_seed(0, "split"))
    rows = torch.randperm(40, generator=order)[:4]
    values = np.array([[a, c] for a, _, c in FLOWERS], dtype=float)[rows.numpy()]
    standard = (values - units["mean"]) / units["scale"]
    bound = vk.metrics.elbo(model, vk.datasets.from_tensors(standard), seed=0).elbo.mean
    assert found["elbo"] == pytest.approx(bound - np.log(units["scale"]).sum(), abs=1e-4)
    assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--standardize"], "--standardize: expected none but for a file of numbers"),
        (["digits", "--label", "kind"], "--label: expected none but for a file of numbers"),
        (["table.csv", "--label", "color"], "--label: expected one of"),
        (["table.csv"], "A column of words may be a --label"),
        (["words.csv", "--label", "kind"], "at least one column of numbers"),
    ],
)
def test_labels_and_units_that_do_not_fit(
    words: list[str], said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    flowers(tmp_path / "table.csv")
    (tmp_path / "words.csv").write_text("kind\nlong\nshort\n")
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, "train", *words, "--out", "run", *SMALL)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_column_that_is_constant_but_for_rounding(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[:, 1] = 0.1
    np.savetxt(tmp_path / "table.csv", table, delimiter=",")
    command = ["train", str(tmp_path / "table.csv"), "--standardize"]
    assert main([*command, "--out", str(tmp_path / "run"), *SMALL]) == 0
    units = json.loads((tmp_path / "run" / "config.json").read_text())["units"]
    assert units["scale"][1] == 1
    assert main(["sample", str(tmp_path / "run"), "--draw"]) == 0
    drawn = np.load(tmp_path / "run" / "samples.npy")
    assert set(drawn[:, 1]) == {0.1}
    assert drawn[:, 0].std() > 0.1


def test_a_value_whose_square_overflows(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[3, 1] = -1.797e308
    np.save(tmp_path / "x.npy", table)
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "x.npy"), "--standardize", "--out", str(out), *SMALL]) == 0
    assert np.isfinite(json.loads((out / "config.json").read_text())["units"]["scale"]).all()
    assert main(["evaluate", str(out), "--samples", "4"]) == 0
    assert np.isfinite(json.loads((out / "evaluation.json").read_text())["elbo"])


@pytest.mark.parametrize("ending", ["csv", "npy"])
def test_columns_far_from_zero_come_back_to_the_digit(ending: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal([1.7e9, 0], [30, 1], (50, 2)))
    out, samples = tmp_path / "run", tmp_path / f"samples.{ending}"
    assert main(["train", str(tmp_path / "x.npy"), "--standardize", "--out", str(out), *SMALL]) == 0
    assert main(["sample", str(out), "--draw", "--out", str(samples)]) == 0
    drawn = np.load(samples) if ending == "npy" else np.loadtxt(samples, delimiter=",")
    assert len(np.unique(drawn[:, 0])) == 64  # single precision knows multiples of 128 there
    assert 10 < drawn[:, 0].std() < 90


def test_a_table_as_other_programs_write_it(tmp_path: Path, monkeypatch) -> None:
    """With a mark before the first line, and words that numpy would cut off at #."""
    seen: list[vk.datasets.ArrayDataset] = []
    monkeypatch.setattr(
        "vaekit.cli.fit",
        lambda *given, **options: seen.append(given[2]) or vk.fit(*given, **options),
    )
    path, kinds = tmp_path / "table.csv", ["C", "C#", "é"]
    lines = ["kind,a,b", *(f"{kinds[i % 3]},{i},{i * i}" for i in range(30))]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    command = ["train", str(path), "--label", "kind", "--out", str(tmp_path / "run")]
    assert main([*command, *SMALL]) == 0
    assert seen[0].classes == tuple(kinds)
    path.write_text("\n".join("1,2" for _ in range(30)), encoding="utf-8-sig")
    assert main(["train", str(path), "--out", str(tmp_path / "other"), *SMALL]) == 0
    assert len(seen[1]) == 27


@pytest.mark.parametrize("content", ["\n0,1,2\n3,4,1\n5,6,0\n", '\n\n0,"1\n",2\n3,4,1\n5,6,0\n'])
def test_a_table_that_begins_with_an_empty_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    values, labels, _, columns = read_numbers(path, "2")
    assert values.tolist() == [[3, 4], [5, 6]]
    assert labels.tolist() == [1, 0]
    assert columns == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "columns", "rows", "said"),
    [
        ("0,1,2\n.5,2,3\n4,5,6\n", ["0", "1", "2"], 2, "0,1,2, is taken for the columns' names."),
        (
            "0,1,2\n3,2,3\n4,5,6\n",
            [],
            3,
            "0,1,2, is taken for an element; if it is of names, make words",
        ),
        ("0,1\n.5,.9\n1,.4\n", [], 3, "0,1, is taken for an element"),
        ("400,402\n.5,.9\n1,.4\n", [], 3, "400,402, is taken for an element"),
        ("0,1,1\n3,2,3\n4,5,6\n", [], 3, ""),
        ("0.0,1,2\n.5,2,3\n4,5,6\n", [], 3, ""),
    ],
)
def test_a_first_line_of_whole_numbers(
    content: str, columns: list[str], rows: int, said: str, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    values, *_, found = read_numbers(path, None)
    assert (len(values), found) == (rows, columns)
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert (f"data: the first line of x.csv, {said}" in capsys.readouterr().err) == bool(said)


@pytest.mark.parametrize(
    ("labels", "numbers", "named"),
    [
        (["3", "-1", "3"], [3, -1, 3], False),
        (["3.0", "1", "2e0"], [3, 1, 2], False),
        (["0.5", "1", "2"], [0.5, 1, 2], False),
        (["9007199254740993", "9007199254740992", "0"], [2**53 + 1, 2**53, 0], False),
        (["9223372036854775808", "9223372036854775809", "1"], [1, 2, 0], True),
        (["inf", "1e400", "1"], [2, 1, 0], True),
        (["9007199254740993.0", "9007199254740992.0", "1"], [2, 1, 0], True),
    ],
)
def test_labels_that_are_numbers_stay_apart(labels, numbers, named, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["x,id", *(f"1,{label}" for label in labels)]))
    _, found, names, _ = read_numbers(path, "id")
    assert found.tolist() == numbers
    assert names == (sorted(labels) if named else ())


def test_a_tracker_that_is_not_there_leaves_the_folder_free(tmp_path: Path, capsys) -> None:
    command = "train", "digits", "--out", str(tmp_path / "run"), *SMALL
    assert "--log-with" in fails(capsys, *command, "--log-with", "tensorbord")
    assert main(command) == 0


def test_labels_of_an_archive(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    np.savez(tmp_path / "table.npz", kind=labels, values=TABLE)
    command = ["train", str(tmp_path / "table.npz"), "--label", "kind"]
    assert main([*command, "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert vk.VAE.from_pretrained(tmp_path / "run" / "model").sample(2).shape == (2, 3)


def test_options_reach_training(tmp_path: Path, monkeypatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(
        "vaekit.cli.fit", lambda *data, **options: given.update(options) or vk.fit(*data, **options)
    )
    words = "--validate-every 2 --patience 5 --clip-grad-norm 3.5 --accumulate 2 --ema 0.9"
    more = "--precision bf16 --checkpoint-every 1 --log-with tensorboard"
    command = ["train", "digits", *words.split(), *more.split(), "--out", str(tmp_path / "run")]
    pytest.importorskip("tensorboard")
    assert main([*command, *SMALL]) == 0
    expected = {"validate_every": 2, "patience": 5, "clip_grad_norm": 3.5, "accumulate": 2}
    expected |= {"ema": 0.9, "precision": "bf16", "log_with": "tensorboard"}
    assert {name: given[name] for name in expected} == expected
    assert list((tmp_path / "run" / "logs").rglob("events.*"))
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history["step"] == [2, 4, 6]


def test_weights_are_not_chosen_on_the_test_data(tmp_path: Path, monkeypatch) -> None:
    given: list[object] = []

    def fit(model, objective, train, *, validation, **options):
        given.append((train, validation))
        return vk.fit(model, objective, train, validation=validation, **options)

    monkeypatch.setattr("vaekit.cli.fit", fit)
    rows = np.arange(100.0).repeat(3).reshape(100, 3)
    np.save(tmp_path / "rows.npy", rows)
    command = ["train", str(tmp_path / "rows.npy"), *SMALL, "--out"]
    more = ["--patience", "2", "--validation-share", "0.2"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    assert main([*command, str(tmp_path / "patient"), *more]) == 0
    (train, test), (kept, watched) = (
        [set(next(iter(vk.datasets.batches(each, 100))).x[:, 0].tolist()) for each in pair]
        for pair in given
    )
    assert len(train) == 90
    assert len(kept) == 72
    assert kept.isdisjoint(watched)
    assert kept | watched == train  # and nothing of what is measured in the end
    assert train.isdisjoint(test)
    refused = main([*command, str(tmp_path / "none"), "--patience", "2", "--validation-share", "1"])
    assert refused == 1


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("categorical_vae", ["--hidden", "16", "--set", "variables=2", "--set", "classes=3"]),
        ("iwae", [*NARROW, "--samples", "3"]),
        ("sigma_vae", NARROW),
        ("ladder_vae", ["--set", "latent_dims=[4,2]", "--set", "hidden=[16,8]"]),
        ("autoencoder", NARROW),
        ("vq_vae", NARROW),
        ("wae", NARROW),
    ],
)
def test_recipes(tmp_path: Path, recipe: str, options: list[str], capsys) -> None:
    out = tmp_path / "run"
    assert main(["train", "digits", "--recipe", recipe, "--out", str(out), *SHORT, *options]) == 0
    assert isinstance(vk.VAE.from_pretrained(out / "model"), vk.VAE)
    assert main(["evaluate", str(out), "--samples", "4"]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert {"reconstruction", "elements"} <= found.keys()
    assert ("nll" in found) != ("no likelihood: " in capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "data: expected one of digits, mnist"),
        ([], "data: expected a name"),
        (["digits", "--set", "beta"], "--set: expected OPTION=NUMBER, got 'beta'"),
        (["digits", "--set", "beta=x"], "--set: expected OPTION=NUMBER"),
        (
            ["digits", "--set", "gamma=1"],
            "--set: expected none, for vae takes no options, got gamma",
        ),
        (["digits", "--recipe", "beta_vae", "--set", "gamma=1"], "--set of beta_vae: expected one"),
        (["digits", "--recipe", "categorical_vae"], "options (--set) are: variables, classes"),
        (["digits", "--recipe", "iwae"], "--samples: expected a number of draws"),
        (["digits", "--latent-dim", "0"], "--latent-dim: expected a whole number above 0"),
        (["digits", "--checkpoint-every", "0"], "--checkpoint-every: expected a whole number"),
        (["digits", "--batch-size", "0"], "--batch-size: expected a whole number above 0"),
        (["digits", "--seed", "9" * 20], "--seed: expected a whole number from -2**63"),
        (["digits", "--likelihood", "bernoulli"], "data: expected only zeros and ones"),
        (["digits", "--likelihood", "bernoulli"], "choose --likelihood grey_bernoulli"),
        (["digits", "--epochs", "2"], "epochs: expected either"),
        (["digits", "--cuda-graph"], "--cuda-graph: expected False on cpu, got True"),
        (["digits", "--device", "nope"], "--device: expected a device that is there, got 'nope'"),
        (["--resume"], "RUN: expected the folder of a run"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(words, said: str, tmp_path: Path, capsys) -> None:
    found = fails(capsys, "train", *SMALL, *words, "--out", str(tmp_path / "run"))
    assert said in found
    assert not (tmp_path / "run" / "model").exists()
    # What was asked for wrongly is asked for again, in the same folder.
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *SMALL]) == 0


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    said = fails(capsys, "train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"))
    assert "It holds no plain numbers" in said


@pytest.mark.parametrize("command", ["evaluate", "sample", "report"])
def test_a_folder_that_is_no_run(command: str, tmp_path: Path, capsys) -> None:
    assert "RUN: expected the folder of a run" in fails(capsys, command, str(tmp_path))


def test_samples_need_no_data(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    assert main(["train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), *SMALL]) == 0
    (tmp_path / "x.npy").unlink()
    assert main(["sample", str(tmp_path / "run")]) == 0


def test_usage(capsys) -> None:
    for words, code in ((["--help"], 0), (["train", "--help"], 0), ([], 2), (["train", "x"], 2)):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == code
    assert "beta_tcvae" in capsys.readouterr().out


def test_usage_is_not_listed_before_what_is_wrong_with_it(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "digits", "--out", "run", "--recipe", "vea"])
    said = capsys.readouterr().err
    assert said.startswith("vaekit train: argument --recipe: invalid choice: 'vea'")
    assert said.endswith("See vaekit train --help.\n")
    assert said.count("\n") == 1


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "vaekit", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"vaekit {vk.__version__}\n"


def test_a_process_of_its_own_takes_denormal_numbers_for_zero() -> None:
    lines = [
        "import contextlib, sys, torch",
        "from vaekit.cli import main",
        "tiny = torch.tensor([1e-39])",
        "def run(*given):",
        "    with contextlib.suppress(SystemExit):",
        "        main(*given)",
        "    return bool(tiny.double() > 0), bool(tiny * 1 > 0)",
        "sys.argv = ['vaekit', '--version']",
        "called, owned = run(['--version']), run()",
        "assert called == (True, True), called",
        "assert owned[1] is not torch.set_flush_denormal(True), owned",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(run: Path, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "history.json").read_bytes()
    said = fails(capsys, "train", "--resume", "--out", str(folder), "--steps", "9")
    assert "--out: expected a run with its checkpoints" in said
    assert (folder / "history.json").read_bytes() == before


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_shows_steps_unless_it_is_to_be_quiet(tmp_path: Path, capsys, quiet) -> None:
    words = ["--steps", "3", *NARROW, *["--quiet"] * quiet]
    assert main(["train", "digits", "--binarize", "threshold", "--out", str(tmp_path), *words]) == 0
    assert ("3/3" in capsys.readouterr().err) is not quiet


def test_ctrl_c_before_training(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaekit.cli._data", interrupted)
    assert main(["train", "digits", "--out", str(tmp_path), *SMALL]) == 130


@pytest.mark.parametrize("history", ['{"step": 5}', "[1]", '{"other": []}'])
def test_a_history_that_is_none(run: Path, tmp_path: Path, capsys, history: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "history.json").write_text(history)
    assert "RUN: expected a" in fails(capsys, "report", str(folder))


def test_a_recipe_that_is_none(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"recipe": "other"}))
    assert "recipe" in fails(capsys, "train", "--resume", "--out", str(folder), "--steps", "9")


def test_more_than_there_is_memory_for(run: Path, capsys) -> None:
    assert "memory" in fails(capsys, "sample", str(run), "--number", str(10**13))
    assert "--seed: expected" in fails(capsys, "sample", str(run), "--seed", "9" * 30)
