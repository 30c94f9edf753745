import base64
import copy
import io
import math
import platform
import re
import sys
from functools import partial
from html.parser import HTMLParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vaekit as vk
from vaekit.plots import _measures, pages
from vaekit.plots._measures import Chosen

ONES = "\N{LATIN SMALL LETTER A}<b>&"


class Page(HTMLParser):
    """The headings, the tables' rows, the pictures and all addresses of a page."""

    void = ("meta", "img", "link", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings, self.rows, self.pictures, self.addresses = [], [], [], []
        self.places: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.places += [f"#{value}" for name, value in attrs if name == "id"]
        if tag == "img":
            self.pictures.append((dict(attrs)["alt"], dict(attrs)["src"]))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(text)
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1].append(text)

    def value(self, name: str) -> str:
        return next(row[1] for row in self.rows if row[0] == name)

    def meaning(self, name: str) -> str:
        return next(row[2] for row in self.rows if row[0] == name)

    def left_out(self) -> set[str]:
        """The names of all that the page says does not apply."""
        start = next(i for i, row in enumerate(self.rows) if row == ["what", "why"])
        return {name for row in self.rows[start + 1 :] for name in row[0].split("; ")}

    def why(self, name: str) -> str:
        assert "Left out" in self.headings
        return next(row[1] for row in self.rows if name in row[0].split("; "))


@pytest.fixture(scope="module")
def trained() -> tuple[vk.VAE, vk.datasets.ArrayDataset, vk.training.History]:
    torch.manual_seed(0)
    train, test = vk.datasets.digits(binarize="threshold")
    model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=3)
    history = vk.fit(model, objective, train, epochs=2, seed=0, progress=False)
    return model, test.subset(range(80)), history


@pytest.fixture
def _sketched(monkeypatch) -> None:
    """Draw all pictures, but paint none of them: most of the time goes there."""
    blank = io.BytesIO()
    plt.imsave(blank, np.zeros((2, 2)))

    def png(draw) -> bytes:
        try:
            draw()
            return blank.getvalue()
        finally:
            plt.close("all")

    monkeypatch.setattr(pages, "_png", png)


def test_a_page_holds_all_that_applies(trained, tmp_path) -> None:
    model, test, history = trained
    figures, state = plt.get_fignums(), torch.get_rng_state()
    path = vk.report(model, test, tmp_path / "new" / "page.html", history=history, samples=20)
    assert plt.get_fignums() == figures
    assert torch.equal(torch.get_rng_state(), state)
    page = Page(path)
    titles = [title for title, _ in page.pictures]
    assert titles[0] == "Training"
    for title in ("Reconstructions", "Samples", "Traversals", "The centre of each class"):
        assert title in titles
    assert "The manifold" not in titles
    assert "2 latent dimensions" in page.why("The manifold")
    assert page.value("parameters") == f"{sum(p.numel() for p in model.parameters()):,}"
    found = vk.metrics.negative_log_likelihood(model, test, 20)
    assert page.value("negative log-likelihood") == f"{found.nats} nats".replace("+-", "±")
    assert "+-" not in path.read_text()
    assert "Use of the latent space" in page.headings
    assert "dimensions in use" in path.read_text()
    bound = vk.metrics.elbo(model, test).elbo
    assert page.value("ELBO") == f"{bound.mean:.4g} ± {bound.standard_error:.2g} nats"
    assert page.value("measured on") == f"all {len(test)} elements"
    versions = f"vaekit {vk.__version__}, PyTorch {torch.__version__}, NumPy {np.__version__}, "
    versions += f"scikit-learn {version('scikit-learn')}, Python {platform.python_version()}"
    assert page.value("versions") == versions
    for title in ("Between two elements", "Nearest neighbours", "Latent space, by t-SNE"):
        assert title in titles
    assert ("Latent space, by UMAP" in titles) == (find_spec("umap") is not None)
    x, y = test[:]
    with torch.no_grad():
        z = model.encode(x).mean
    probe = vk.metrics.linear_probe(z, y).accuracy
    assert page.value("linear probe") == str(probe).replace("+-", "±")
    apart = vk.metrics.silhouette(z, y).score
    assert page.value("silhouette") == str(apart).replace("+-", "±")
    rate = vk.metrics.decompose_rate(model, test, draws=500)
    assert page.value("aggregated-posterior gap") == f"{rate.aggregated_gap} nats".replace(
        "+-", "±"
    )
    found = vk.metrics.neighbourhood_preservation(x, z)
    error = found.trustworthiness_error
    assert page.value("trustworthiness") == f"{found.trustworthiness:.4g} ± {error:.2g}"
    error = found.continuity_error
    assert page.value("continuity") == f"{found.continuity:.4g} ± {error:.2g}"
    for name in ("precision", "recall", "density", "coverage", "kernel distance"):
        value, error = map(float, page.value(name).split(" ± "))
        assert math.isfinite(value)
        assert error >= 0
    assert "LogisticRegression(max_iter=10000)" in page.meaning("linear probe")
    assert "KNeighborsClassifier()" in page.meaning("k-NN accuracy")
    assert "frechet_distance(data, samples" in page.why("Fréchet distance")
    assert "draws of p(x|z)" in page.meaning("precision")
    for name in ("MIG and modularity", "DCI", "FactorVAE score", "BetaVAE score"):
        assert "several labels" in page.why(name)
    assert page.why("Information of codes about factors") == page.why("SAP")
    scores = {"MIG and modularity", "SAP", "DCI", "IRS", "Explicitness", "FactorVAE score"}
    scores |= {"BetaVAE score", "Linear probe of each factor"}
    others = {"Fréchet distance", "The manifold", "Information of codes about factors"}
    others |= {"Latent space, by UMAP"} if find_spec("umap") is None else set()
    assert page.left_out() == scores | others


def test_a_page_needs_no_other_file(trained, tmp_path) -> None:
    model, test, _ = trained
    page = Page(vk.report(model, test, tmp_path / "page.html", samples=2, title=ONES))
    assert page.headings[0] == ONES  # escaped, then read again
    start = "data:image/png;base64,"
    assert page.addresses
    links = [address for address in page.addresses if not address.startswith(start)]
    assert links == page.places
    assert len(links) == len(page.headings) - 1
    for _, source in page.pictures:
        picture = plt.imread(io.BytesIO(base64.b64decode(source.removeprefix(start))))
        assert min(picture.shape[:2]) > 50
        assert picture[..., :3].std() > 0.01  # something is drawn
    assert not re.search(r"(?<!data:)https?://|url\(", (tmp_path / "page.html").read_text())


def test_the_same_seed_gives_the_same_page(trained, tmp_path) -> None:
    model, test, _ = trained
    pages = [vk.report(model, test, tmp_path / f"{i}.html", samples=2) for i in range(2)]
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.usefixtures("_sketched")
def test_what_does_not_apply_is_said(tmp_path) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.autoencoder(vk.likelihoods.Gaussian(5), latent_dim=2)
    page = Page(vk.report(model, torch.randn(40, 5), tmp_path / "page.html"))
    assert "density" in page.why("The likelihood")
    assert "images" in page.why("Reconstructions")
    assert "one label for each element" in page.why("k-NN accuracy and linear probe")
    assert page.value("active units") == "2 of 2"
    assert page.value("data") == "values of shape (40, 5)"
    assert "Latent space" in [title for title, _ in page.pictures]


@pytest.mark.usefixtures("_sketched")
def test_an_estimate_that_rests_on_single_draws_is_said_to(trained, tmp_path) -> None:
    model, test, _ = trained
    for samples, few in ((2, True), (200, False)):
        page = Page(vk.report(model, test, tmp_path / "page.html", samples=samples))
        assert ("it lies too high" in page.meaning("negative log-likelihood")) == few


@pytest.mark.usefixtures("_sketched")
@pytest.mark.parametrize("binarize", ["none", "threshold"])
def test_a_cross_entropy_of_grey_levels_is_not_called_a_likelihood(binarize, tmp_path) -> None:
    torch.manual_seed(0)
    _, test = vk.datasets.digits(binarize=binarize)
    model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8), grey_levels=True), 2)
    page = Page(vk.report(model, test.subset(range(60)), tmp_path / "page.html", samples=2))
    said = {"no likelihood" in page.meaning(name) for name in ("ELBO", "negative log-likelihood")}
    assert said == {binarize == "none"}
    assert ("at most the log-likelihood" in page.meaning("ELBO")) == (binarize == "threshold")


@pytest.mark.usefixtures("_sketched")
def test_a_conditional_model_has_a_page(tmp_path) -> None:
    torch.manual_seed(0)
    _, test = vk.datasets.digits(binarize="threshold")
    model, _ = vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, 10)
    page = Page(vk.report(model, test, tmp_path / "page.html", samples=2))
    titles = [title for title, _ in page.pictures]
    assert {"Reconstructions", "Traversals", "Latent space"} <= set(titles)
    assert "Samples" in titles
    assert "context" in page.why("The manifold")


@pytest.fixture
def sprites() -> tuple[vk.VAE, vk.datasets.FactorDataset]:
    torch.manual_seed(0)
    data = vk.datasets.sprites().select(
        scale=[1, 5], orientation=[0, 10], x=[0, 16, 31], y=[0, 16, 31]
    )
    return vk.recipes.vae(vk.likelihoods.Bernoulli((1, 64, 64)), latent_dim=3).model, data


def test_factors_have_scores_and_a_table_of_information(sprites, tmp_path) -> None:
    model, data = sprites
    page = Page(vk.report(model, data, tmp_path / "page.html", samples=2))
    titles = [title for title, _ in page.pictures]
    for title in ("principal components", "t-SNE"):
        assert f"Latent space, by {title}" in titles
    assert "Information of codes about factors" in titles
    assert "one label for each element" in page.why("The centre of each class")
    x, y = data[:]
    with torch.no_grad():
        z = model.eval().encode(x).mean
    for name, score in (
        ("MIG", vk.metrics.mig(z, y)),
        ("modularity", vk.metrics.modularity(z, y)),
        ("SAP", vk.metrics.sap(z, y)),
        ("explicitness", vk.metrics.explicitness(z, y)),
    ):
        assert page.value(name) == f"{score.score:.4g} ± {score.standard_error:.2g}"
    assert page.value("IRS") == f"{vk.metrics.irs(z, y).score:.4g}"
    assert "no standard error" in page.meaning("IRS")
    mixed = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))]
    for name, score in (("IRS", vk.metrics.irs), ("modularity", vk.metrics.modularity)):
        assert f"by chance {score(mixed, y).score:.2f}" in page.meaning(name)
    forest = RandomForestClassifier(random_state=0)
    dci = vk.metrics.dci(z, y, classifier=forest)
    assert page.value("DCI disentanglement") == f"{dci.disentanglement:.4g}"
    assert page.value("DCI completeness") == f"{dci.completeness:.4g}"
    told = f"{dci.informativeness:.4g} ± {dci.informativeness_error:.2g}"
    assert page.value("DCI informativeness") == told
    for name, classifier in (
        ("SAP", "LinearSVC(C=0.01, class_weight='balanced'"),
        ("DCI disentanglement", repr(forest)),
        ("explicitness", "LogisticRegression(max_iter=10000)"),
        ("FactorVAE score", "majority vote"),
        ("BetaVAE score", "LogisticRegression(max_iter=10000)"),
        ("accuracy of scale", "LogisticRegression(max_iter=10000)"),
    ):
        assert classifier in page.meaning(name)
    for name in data.factor_names:
        assert " ± " in page.value(f"accuracy of {name}")


def _mean(model: vk.VAE, x: Tensor) -> Tensor:
    return model.encode(x).mean


@pytest.mark.usefixtures("_sketched")
def test_data_made_to_order_have_scores_by_votes(sprites, tmp_path, monkeypatch) -> None:
    model, data = sprites
    monkeypatch.setattr(_measures, "_DECODED", 64 * 4096 * 150)  # two thirds to train on
    page = Page(vk.report(model, data, tmp_path / "page.html", samples=2, seed=3))
    model.eval()
    kind = {"batch": 64, "seed": 3}
    represent = partial(_mean, model)
    score = vk.metrics.factor_vae_score(
        data, represent, train=100, test=50, variance_of=3200, **kind
    ).score
    assert page.value("FactorVAE score") == str(score).replace("+-", "±")
    assert "50 votes of 64 elements, by 100 others" in page.meaning("FactorVAE score")
    score = vk.metrics.beta_vae_score(data, represent, train=50, test=25, **kind).score
    assert page.value("BetaVAE score") == str(score).replace("+-", "±")
    assert "25 votes of 64 pairs, by 50 others" in page.meaning("BetaVAE score")


@pytest.mark.usefixtures("_sketched")
def test_scores_by_votes_need_data_made_to_order(sprites, tmp_path, monkeypatch, refuses) -> None:
    model, data = sprites

    conditional = vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 64, 64)), 2, 10).model
    words = ("model: expected one that takes no context", "got one that takes it")
    refuses(ValueError, lambda: _measures._votes(conditional, Chosen(data, 9, 0), 1), *words)

    def left_out(data: Any) -> list[str]:
        page = Page(vk.report(model, data, tmp_path / "page.html", samples=2))
        return [page.why(name) for name in ("FactorVAE score", "BetaVAE score")]

    for why in left_out(data.subset(range(60))):
        assert "every combination of the factors" in why
        assert "got 60 of 108" in why
    for why in left_out(data[:]):
        assert "factor_sizes and images(indices)" in why
    monkeypatch.setattr(_measures, "_DECODED", 64 * 4095 * 60)
    factor, beta = left_out(data)
    assert "at most 4,095 values" in factor
    assert "vaekit.metrics.factor_vae_score(data, lambda" in factor
    assert "got 4,096" in factor
    assert "at most 2,047 values" in beta
    assert "vaekit.metrics.beta_vae_score(data, lambda" in beta


@pytest.mark.usefixtures("_sketched")
def test_of_few_values_the_frechet_distance_is_shown(tmp_path) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
    x = torch.randn(30, 3)
    page = Page(vk.report(model, x, tmp_path / "page.html", samples=2))
    value, error = map(float, page.value("Fréchet distance").split(" ± "))
    assert value > 0
    assert error > 0
    page = Page(vk.report(model, x[:29], tmp_path / "page.html", samples=2))
    why = "at least 30 elements, 10 for each of their 3 values, got 29."
    assert why in page.why("Fréchet distance")


@pytest.mark.usefixtures("_sketched")
def test_factors_of_one_value_are_left_out(sprites, tmp_path) -> None:
    model, data = sprites
    part = data.select(shape=1, scale=0)
    page = Page(vk.report(model, part, tmp_path / "page.html", samples=2))
    names = [row[0] for row in page.rows]
    assert "accuracy of x" in names
    assert "accuracy of shape" not in names
    assert "MIG" in names
    one = data.select(shape=1, scale=0, orientation=0, x=0, y=0)
    page = Page(vk.report(model, one, tmp_path / "page.html", samples=2))
    assert "a factor of more than one value" in page.why("IRS")


def _forms(x: Tensor, y: Tensor) -> dict[str, Any]:
    pairs = TensorDataset(x, y)
    return {
        "tensor": x,
        "array": x.numpy(),
        "batch": (x, y),
        "mapping": {"x": x, "y": y.tolist()},
        "data set": vk.datasets.from_tensors(x, y),
        "pairs": pairs,
        "loader": DataLoader(pairs, 7),
        "batches": [(x[:9], y[:9]), (x[9:], y[9:])],
    }


@pytest.mark.parametrize("form", _forms(torch.zeros(9, 2), torch.zeros(9)))
@pytest.mark.parametrize("at_most", [12, 100])
def test_of_data_of_every_form_a_part_is_chosen(form: str, at_most: int) -> None:
    x = torch.arange(40.0)[:, None].expand(-1, 2).contiguous()
    chosen = Chosen(_forms(x, torch.arange(40))[form], at_most, seed=0)
    count = min(at_most, 40)
    assert chosen.count == count

    def read(data: Any) -> Tensor:
        batches = list(vk.datasets.batches(data))
        for batch in batches:
            if batch.y is not None:
                assert np.array_equal(np.asarray(batch.y), batch.x[:, 0])
        return torch.cat([batch.x[:, 0] for batch in batches])

    all_of_it, mixed = read(chosen.data), read(chosen.some())
    assert all_of_it.tolist() == sorted(mixed.tolist())
    assert len(all_of_it.unique()) == count
    in_order = form in ("loader", "batches")
    assert (mixed.tolist() == all_of_it.tolist()) == in_order
    assert read(chosen.some(2, 11)).tolist() == mixed[2:11].tolist()
    assert read(chosen.some(5)).tolist() == mixed[5:].tolist()
    if in_order:
        assert chosen.said == f"the first {count} elements"
        assert all_of_it.tolist() == list(range(count))
    elif at_most == 12:
        assert chosen.said == "12 of 40 elements, drawn at random"
        assert all_of_it.tolist() != list(range(count))
    else:
        assert chosen.said == "all 40 elements"


def test_a_part_keeps_the_names_of_the_classes() -> None:
    class Named(TensorDataset):
        classes = ("no", "yes")

    chosen = Chosen(Named(torch.rand(9, 2), torch.arange(9) % 2), 4, seed=0)
    assert chosen.data.classes == chosen.some(1).classes == ("no", "yes")


@pytest.mark.usefixtures("_sketched")
def test_a_large_data_set_is_measured_in_part_and_in_batches(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.vae(vk.likelihoods.Gaussian(6), latent_dim=2)
    sizes, encode = [], model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda x, *rest: sizes.append(len(x)) or encode(x, *rest)
    )
    data = (torch.randn(5000, 6), torch.arange(5000) % 3)
    page = Page(vk.report(model, data, tmp_path / "page.html", at_most=1500, samples=2))
    assert page.value("measured on") == "1,500 of 5,000 elements, drawn at random"
    assert max(sizes) <= 512
    assert "draws of p(x|z)" in page.meaning("precision")  # of a table, whose rows have noise


@pytest.mark.usefixtures("_sketched")
def test_of_images_the_means_are_looked_at(tmp_path) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.vae(vk.likelihoods.Gaussian((1, 8, 8)), latent_dim=2)
    page = Page(vk.report(model, torch.rand(40, 1, 8, 8), tmp_path / "page.html", samples=2))
    assert "means of p(x|z), which vary less than data" in page.meaning("precision")


@pytest.mark.usefixtures("_sketched")
def test_what_takes_long_is_measured_on_fewer(trained, tmp_path, monkeypatch) -> None:
    model, test, _ = trained
    monkeypatch.setattr(_measures, "_DECODED", 64 * 2 * 50)
    monkeypatch.setattr(_measures, "_SMALL", 63)
    page = Page(vk.report(model, test, tmp_path / "page.html", samples=2))
    assert page.meaning("negative log-likelihood").startswith("of 50 elements, by 2 draws")
    why = page.why("Precision, recall, density and coverage")
    assert "at most 63 values" in why
    assert "got 64" in why


@pytest.mark.usefixtures("_sketched")
def test_umap_is_drawn_where_it_is_installed(trained, tmp_path, monkeypatch) -> None:
    model, test, _ = trained
    stand_in = ModuleType("umap")
    stand_in.UMAP = lambda **kwargs: SimpleNamespace(fit_transform=lambda points: points[:, :2])
    monkeypatch.setitem(sys.modules, "umap", stand_in)
    page = Page(vk.report(model, test[:40], tmp_path / "page.html", samples=2))
    assert "Latent space, by UMAP" in [title for title, _ in page.pictures]


@pytest.mark.usefixtures("_sketched")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_data_have_a_page(trained, tmp_path, n) -> None:
    model, test, _ = trained
    page = Page(vk.report(model, test[:n], tmp_path / "page.html", samples=2))
    assert "nan" not in page.value("ELBO")
    assert "Reconstructions" in [title for title, _ in page.pictures]


def test_bad_input_is_named_before_anything_is_written(trained, tmp_path, refuses) -> None:
    model, test, _ = trained
    path = tmp_path / "new" / "page.html"
    refuses(TypeError, lambda: vk.report(nn.Linear(1, 1), test, path), "model", "VAE", "Linear")
    refuses(TypeError, lambda: vk.report(model, iter([test[:5]]), path), "data", "several times")
    refuses(TypeError, lambda: vk.report(model, 3, path), "data", "int")
    refuses(ValueError, lambda: vk.report(model, test, path, samples=0), "samples", "0")
    refuses(ValueError, lambda: vk.report(model, test, path, at_most=0), "at_most", "0")
    refuses(IsADirectoryError, lambda: vk.report(model, test, tmp_path), "path", "folder")
    spoilt = copy.deepcopy(model)
    next(spoilt.parameters()).data[0, 0] = torch.nan
    refuses(ValueError, lambda: vk.report(spoilt, test, path), "encoder.net.layers.0.weight", "NaN")
    wrong = test[:][0][:, :, :4]
    with pytest.raises(Exception, match="64"):  # torch's own, of a layer that takes 64 values
        vk.report(model, wrong, path)
    assert not path.parent.exists()
