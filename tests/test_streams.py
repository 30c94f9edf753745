"""Data that outgrow memory reach fit through the ordinary DataLoader: as files, maps and shards."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import elbo, tiny
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, ToTensor

import vaekit as vk

hugging_face = pytest.importorskip("datasets", reason="it goes with no lowest version of the rest")
webdataset = pytest.importorskip("webdataset")

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # webdataset's
]
COUNT, SHARDS, BATCH = 96, 4, 16
OPTIONS = {"seed": 0, "progress": False}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Bytes of digits, no two alike, and their labels."""
    train, _ = vk.datasets.digits()
    x, labels = train[:COUNT]
    x = (x * 255).to(torch.uint8)
    assert len(x.unique(dim=0)) == COUNT
    return x, labels


def png(picture: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture[0].numpy()).save(file, "PNG")
    return file.getvalue()


def image_folder(folder: Path, x: Tensor, labels: Tensor, workers: int) -> DataLoader:
    for index, (picture, label) in enumerate(zip(x, labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        (folder / str(label) / f"{index}.png").write_bytes(png(picture))
    files = ImageFolder(folder, Compose([Grayscale(), ToTensor()]))
    return DataLoader(files, BATCH, shuffle=True, num_workers=workers, generator=torch.Generator())


def memory_map(folder: Path, x: Tensor, labels: Tensor, workers: int) -> DataLoader:
    np.save(folder / "x.npy", x.numpy())
    mapped = vk.datasets.from_tensors(np.load(folder / "x.npy", mmap_mode="r"), labels)
    return DataLoader(mapped, BATCH, shuffle=True, num_workers=workers, generator=torch.Generator())


def tar_files(folder: Path, x: Tensor, labels: Tensor, workers: int) -> DataLoader:
    for shard, rows in enumerate(torch.arange(len(x)).chunk(SHARDS)):
        with webdataset.TarWriter(str(folder / f"digits-{shard}.tar")) as tar:
            for row in rows.tolist():
                tar.write({"__key__": f"{row}", "png": png(x[row]), "cls": int(labels[row])})
    urls = str(folder / f"digits-{{0..{SHARDS - 1}}}.tar")
    stream = webdataset.WebDataset(urls, shardshuffle=False).shuffle(20, seed=0).decode("torchl")
    stream = stream.to_tuple("png", "cls").map_tuple(lambda x: x.view(1, 8, 8))
    return DataLoader(stream, BATCH, num_workers=workers, generator=torch.Generator())


def arrow_files(folder: Path, x: Tensor, labels: Tensor, workers: int) -> DataLoader:
    images = [{"bytes": png(picture), "path": None} for picture in x]
    kinds = {"image": hugging_face.Image(), "label": hugging_face.Value("int64")}
    table = {"image": images, "label": labels.tolist()}
    table = hugging_face.Dataset.from_dict(table, hugging_face.Features(kinds))
    table.save_to_disk(folder, num_shards=SHARDS)
    # As parquet files are; those are waited for, five seconds each time.
    stream = hugging_face.load_dataset(
        "arrow", data_files=str(folder / "*.arrow"), split="train", streaming=True
    )
    stream = stream.shuffle(seed=0, buffer_size=20).with_format("torch")
    generator = torch.Generator()
    return DataLoader(stream, BATCH, num_workers=workers, generator=generator, collate_fn=scaled)


def scaled(elements: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Make a batch of what Hugging Face's data sets return, whose images are bytes."""
    images, labels = (torch.stack([each[key] for each in elements]) for key in ("image", "label"))
    return images / 255, labels


SOURCES = [image_folder, memory_map, tar_files, arrow_files]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_it_is_the_training_on_the_same_batches(
    source: Any, workers: int, pictures: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, labels = pictures
    loader = source(tmp_path, x, labels, workers)
    state = loader.generator.get_state()
    batches = [vk.datasets.unpack(batch) for batch in loader]
    loader.generator.set_state(state)

    came = torch.cat([batch.x for batch in batches])
    assert came.dtype == torch.float32
    order = (came[:, None] == x / 255).flatten(2).all(-1).int()
    assert (order.sum(0) == 1).all()  # each once, whoever read it
    assert torch.cat([batch.y for batch in batches]).equal(labels[order.argmax(1)])

    streamed, held = (tiny(likelihood=vk.likelihoods.Gaussian((1, 8, 8))) for _ in range(2))
    history = vk.fit(streamed, elbo(), loader, epochs=1, **OPTIONS)
    assert history.step == [len(batches)]
    vk.fit(held, elbo(), batches, epochs=1, **OPTIONS)
    for one, other in zip(streamed.parameters(), held.parameters(), strict=True):
        assert torch.equal(one, other)


class Halves(IterableDataset):
    """A stream of 40 elements that does not tell how many there are."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.linspace(0, 1, 40 * 64).view(40, 1, 8, 8).round())


def table(columns: tuple[str, str] = ("x", "y"), kind: str | None = "torch") -> Any:
    """Return forty binary images of Hugging Face's, which are a ``Dataset`` but not torch's."""
    x = torch.stack(list(Halves()))
    held = dict(zip(columns, (x.numpy(), np.arange(40)), strict=True))
    shape = hugging_face.Array3D((1, 8, 8), "float32")
    kinds = hugging_face.Features({columns[0]: shape, columns[1]: hugging_face.Value("int64")})
    return hugging_face.Dataset.from_dict(held, kinds).with_format(kind)


def test_a_table_of_hugging_face_is_a_data_set_and_not_batches_of_one() -> None:
    data, model, same = table(), tiny(), tiny()
    assert vk.datasets.size(data) == 40
    history = vk.fit(
        model, elbo() + vk.TotalCorrelation(), data, epochs=2, batch_size=16, **OPTIONS
    )
    assert history.step == [3, 6]
    arrays = torch.utils.data.TensorDataset(torch.stack(list(Halves())), torch.arange(40))
    vk.fit(same, elbo() + vk.TotalCorrelation(), arrays, epochs=2, batch_size=16, **OPTIONS)
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_hugging_face_returns_must_be_tensors_of_known_names(streaming: bool, refuses) -> None:
    def fit(data: Any) -> None:
        data = data.to_iterable_dataset() if streaming else data
        vk.fit(tiny(), elbo(), data, steps=2, **OPTIONS)

    fit(table())
    refuses(TypeError, lambda: fit(table(kind=None)), "batch: expected tensors", "with_format")
    words = ("batch: expected a mapping with 'x'", "'image', 'label'", "Rename")
    refuses(ValueError, lambda: fit(table(("image", "label"))), *words)


@pytest.mark.parametrize("wrap", [lambda stream: stream, lambda stream: DataLoader(stream, 8)])
def test_a_stream_of_unknown_length(wrap: Any, refuses) -> None:
    stream = wrap(Halves())
    assert vk.datasets.size(stream) is None
    history = vk.fit(tiny(), elbo(), stream, steps=7, batch_size=8, **OPTIONS)
    assert history.step[-1] == 7  # into the second epoch
    history = vk.fit(tiny(), elbo(), stream, epochs=2, batch_size=8, **OPTIONS)
    assert history.step == [5, 10]

    def fit(size: int | None) -> vk.training.History:
        objective = elbo() + vk.TotalCorrelation(dataset_size=size)
        return vk.fit(tiny(), objective, stream, epochs=1, batch_size=8, **OPTIONS)

    refuses(ValueError, lambda: fit(None), "dataset_size: expected a number", "do not tell")
    assert fit(40).step == [5]


class Watched:
    """Batches of a loader, whose labels are written down as they are read."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.passes = loader, []

    def __iter__(self) -> Iterator[Any]:
        self.passes.append([])
        for batch in self.loader:
            self.passes[-1] += batch["y"].tolist()
            yield batch


@pytest.mark.parametrize("workers", [0, 2])
def test_hugging_face_shuffles_anew_where_it_is_told_the_pass(workers: int) -> None:
    class Telling(Watched):
        """Hands on which pass begins."""

        def set_epoch(self, epoch: int) -> None:
            self.loader.dataset.set_epoch(epoch)

    for kind in (Watched, Telling):
        stream = table().to_iterable_dataset(num_shards=4).shuffle(seed=0, buffer_size=20)
        batches = kind(DataLoader(stream, 8, num_workers=workers))
        vk.fit(tiny(), elbo(), batches, epochs=2, **OPTIONS)
        first, second = batches.passes
        assert sorted(first) == sorted(second) == list(range(40))
        assert (first != second) == (kind is Telling)


def test_a_sampler_is_told_the_epoch() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(40).float()[:, None])
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    seen: list[list[float]] = []

    class Spy(DataLoader):
        def __iter__(self):
            seen.append([])
            for (batch,) in super().__iter__():
                seen[-1] += batch[:, 0].tolist()
                yield batch

    model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(1), 1)
    vk.fit(model, objective, Spy(data, 8, sampler=sampler), epochs=3, **OPTIONS)
    assert len({tuple(order) for order in seen}) == 3
    assert all(sorted(order) == list(range(40)) for order in seen)


def test_every_worker_reads_a_stream_that_does_not_divide_it() -> None:
    # As the guide warns; webdataset and Hugging Face divide their shards, see above.
    assert sum(len(x) for x in DataLoader(Halves(), 8, num_workers=2)) == 80


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux's kernel")
@pytest.mark.parametrize("held", [False, True], ids=["mapped", "in memory"])
def test_training_stays_under_a_limit_that_the_data_exceed(held: bool, tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / "examples" / "bigger_than_memory.py"
    options = ["--gigabytes", "0.25", "--limit", "128", "--steps", "20", "--folder", str(tmp_path)]
    command = [sys.executable, str(example), *options, *["--in-memory"] * held]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "65,536 images, 256 MiB" in done.stdout
    if held:
        assert done.returncode == 1
        assert "Unable to allocate 256. MiB" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    added, allowed = re.search(r"(\d+) MiB of them added, of (\d+) allowed", done.stdout).groups()
    assert int(added) <= int(allowed) == 128
    assert not list(tmp_path.iterdir())
