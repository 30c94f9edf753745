import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import vaekit as vk

ONES = "\N{LATIN SMALL LETTER A}<b>&"


class Page(HTMLParser):
    """The headings, the tables' rows, the pictures and all addresses of a page."""

    void = ("meta", "img", "link", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings, self.rows, self.pictures, self.addresses = [], [], [], []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
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

    def why(self, name: str) -> str:
        return next(row[1] for row in self.rows if row[0] == name and "Left out" in self.headings)


@pytest.fixture(scope="module")
def trained() -> tuple[vk.VAE, vk.datasets.ArrayDataset, vk.training.History]:
    torch.manual_seed(0)
    train, test = vk.datasets.digits(binarize="threshold")
    model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=3)
    history = vk.fit(model, objective, train, epochs=2, seed=0, progress=False)
    return model, test, history


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
    assert page.value("negative log-likelihood") == f"{found.nats} nats"
    assert "Use of the latent space" in page.headings
    assert "dimensions in use" in path.read_text()
    assert page.value("ELBO") == f"{vk.metrics.elbo(model, test).elbo} nats"


def test_a_page_needs_no_other_file(trained, tmp_path) -> None:
    model, test, _ = trained
    page = Page(vk.report(model, test, tmp_path / "page.html", samples=2, title=ONES))
    assert page.headings[0] == ONES  # escaped, then read again
    start = "data:image/png;base64,"
    assert page.addresses
    assert all(address.startswith(start) for address in page.addresses)
    for _, source in page.pictures:
        picture = plt.imread(io.BytesIO(base64.b64decode(source.removeprefix(start))))
        assert min(picture.shape[:2]) > 50
        assert picture[..., :3].std() > 0.01  # something is drawn
    assert not re.search(r"(?<!data:)https?://|url\(", (tmp_path / "page.html").read_text())


def test_the_same_seed_gives_the_same_page(trained, tmp_path) -> None:
    model, test, _ = trained
    pages = [vk.report(model, test, tmp_path / f"{i}.html", samples=2) for i in range(2)]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_what_does_not_apply_is_said(tmp_path) -> None:
    torch.manual_seed(0)
    model, _ = vk.recipes.autoencoder(vk.likelihoods.Gaussian(5), latent_dim=2)
    page = Page(vk.report(model, torch.randn(40, 5), tmp_path / "page.html"))
    assert "density" in page.why("The likelihood")
    assert "images" in page.why("Reconstructions")
    assert "labels" in page.why("k-NN accuracy") or "label" in page.why("k-NN accuracy")
    assert page.value("active units") == "2 of 2"
    assert page.value("data") == "values of shape (40, 5)"
    assert "Latent space" in [title for title, _ in page.pictures]


def test_a_conditional_model_has_a_page(tmp_path) -> None:
    torch.manual_seed(0)
    _, test = vk.datasets.digits(binarize="threshold")
    model, _ = vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, 10)
    page = Page(vk.report(model, test, tmp_path / "page.html", samples=2))
    titles = [title for title, _ in page.pictures]
    assert {"Reconstructions", "Traversals", "Latent space"} <= set(titles)
    assert "context" in page.why("Samples")


def test_bad_input_is_named_before_anything_is_written(trained, tmp_path, refuses) -> None:
    model, test, _ = trained
    path = tmp_path / "new" / "page.html"
    refuses(TypeError, lambda: vk.report(nn.Linear(1, 1), test, path), "model", "VAE", "Linear")
    refuses(TypeError, lambda: vk.report(model, iter([test[:5]]), path), "data", "several times")
    refuses(TypeError, lambda: vk.report(model, 3, path), "data", "int")
    refuses(ValueError, lambda: vk.report(model, test, path, samples=0), "samples", "0")
    refuses(IsADirectoryError, lambda: vk.report(model, test, tmp_path), "path", "folder")
    assert not path.parent.exists()
