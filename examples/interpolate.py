"""
Interpolate and edit
====================

What lies between two images, and what direction in the latent space slants a digit or makes it
bolder. Nothing here is trained for it: the paths, the neighbours and the directions are read off a
VAE's codes.
"""

# %%
# Settings
# --------

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from scipy.sparse.csgraph import dijkstra
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

import vaekit as vk

parser = argparse.ArgumentParser(description="Interpolate between digits and edit them.")
parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
parser.add_argument("--epochs", type=int, help="times through the data (digits 200, MNIST 15)")
parser.add_argument("--latents", type=int, default=10, help="number of latent dimensions")
parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
parser.add_argument("--out", type=Path, default=Path("runs/interpolate"), help="where pictures go")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(args.seed)

load = vk.datasets.mnist if args.data == "mnist" else vk.datasets.digits
train, _ = load(binarize="dynamic")
grey, test = load()
model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli(train.shape), args.latents)
model.to(args.device)
epochs = (15 if args.data == "mnist" else 200) if args.epochs is None else args.epochs
history = vk.fit(model, objective, train, epochs=epochs, seed=args.seed)
print(history)

# %%
# From one image to another
# -------------------------
# Test images of two classes, and the posterior means between theirs, on a straight line and on an
# arc. Draws from a normal prior of many dimensions have nearly all the same distance from the
# middle; a straight path cuts through the middle, where few codes lie, an arc goes around. Look at
# the columns in the middle, where the ring of the 0 fades at the lower left and the stroke of the 7
# comes up. The third way is to mix the pictures themselves, without a model. On images this small
# the three look much alike.

images, labels = test[:]
ones, others = images[labels == 0][:4], images[labels == 7][:4]
steps = 9
share = torch.linspace(0, 1, steps).view(1, steps, 1, 1, 1)
mixed = (1 - share) * ones[:, None] + share * others[:, None]
figure, axes = plt.subplots(3, 1, figsize=(6, 8.4), layout="constrained")
vk.plots.interpolation(model, ones, others, steps, ax=axes[0])
axes[0].set_title("on a straight line between the codes")
vk.plots.images(mixed.flatten(0, 1), columns=steps, ax=axes[1])
axes[1].set_title("the pictures themselves, mixed")
vk.plots.interpolation(model, ones, others, steps, "spherical", ax=axes[2])
axes[2].set_title("on an arc between the codes")
figure.savefig(args.out / "paths.png", dpi=150)

# %%
# So a table tells what is half way, of many pairs: how far the code is from the middle, and how far
# the image is from the training image most like it. The arc keeps about the distance of its ends,
# the line loses more than a quarter of it. The mixture is farther from any digit than what is
# decoded, which on the arc and on the line is about as far.

given, everything = model.encode(test).mean.cpu(), grey[:][0].flatten(1)
count = min(int((labels == label).sum()) for label in (0, 7))
a, b = (given[labels == label][:count] for label in (0, 7))
straight, arc = (vk.plots.interpolate(a, b, 3, method)[:, 1] for method in ("linear", "spherical"))
halfway = {
    "an end": (a, None),
    "half way on the line": (straight, None),
    "half way on the arc": (arc, None),
    "the pictures, mixed": (None, (images[labels == 0][:count] + images[labels == 7][:count]) / 2),
}
print(f"\n{'':22}{'norm of code':>14}{'distance':>10}")
for name, (z, made) in halfway.items():
    norm = f"{z.norm(dim=1).mean():14.2f}" if z is not None else " " * 14
    made = model.decode(z.to(args.device)).detach().cpu() if made is None else made
    distance = torch.cdist(made.flatten(1), everything).amin(1).mean()
    print(f"{name:22}{norm}{distance:10.2f}")

# %%
# From class to class, by neighbours
# ----------------------------------
# A path between two groups need not be straight. This one starts at an image of one class and goes
# from neighbour to neighbour to one of the other: the shortest path over the graph that joins each
# training code with its nearest. Every picture is a training image, so each step is a likely one.
# Look at where the class changes, as the lines printed say it does: the images on both sides are
# alike, more or less, and the way may lead through other classes.

few = slice(0, 1000)
codes, (x, y) = model.encode(grey[few][0].to(args.device)).mean.detach().cpu(), grey[few]
graph = kneighbors_graph(codes, 6, mode="distance")
graph.data **= 2  # so that two short steps are nearer than a long one
pairs, paths = ((0, 7), (1, 8), (3, 4)), []
for pair in pairs:
    here, goal = (int((y == label).nonzero()[0]) for label in pair)
    _, after = dijkstra(graph, directed=False, indices=goal, return_predecessors=True)
    path = [here]
    while path[-1] != goal and after[path[-1]] >= 0:
        path.append(int(after[path[-1]]))
    paths.append(path)
    print(
        f"from {pair[0]} to {pair[1]} through classes "
        + " ".join(str(int(y[each])) for each in path)
    )
longest = max(map(len, paths))
shown = torch.ones(len(paths), longest, *x.shape[1:])
for row, path in zip(shown, paths, strict=True):
    row[: len(path)] = x[path]
figure, ax = plt.subplots(figsize=(0.8 * longest + 0.8, 2.8), layout="constrained")
names = [f"{start} to {end}" for start, end in pairs]
vk.plots.images(shown.flatten(0, 1), columns=longest, rows=names, ax=ax)
ax.set_title("training images, each a neighbour of the one before")
figure.savefig(args.out / "neighbours.png", dpi=150)

# %%
# Editing
# -------
# Two attributes are measured on the training images: the ink (the mean of the pixels) and the slant
# (by how many pixels to the right a stroke leans for each pixel up). Within each class, the mean
# code of the fifth that has most of an attribute, less that of the fifth that has least, is a
# direction; the mean over the classes is what they have in common, and holds little of what makes a
# class. A step along it should change the attribute and leave the digit what it is.


def ink(x: Tensor) -> Tensor:
    """Return the mean of the pixels of each image."""
    return x.flatten(1).mean(1)


def slant(x: Tensor) -> Tensor:
    """Return the slope of the column over the row, from the bottom up, by least squares."""
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
    up = torch.arange(x.shape[2], 0.0, -1)[:, None].expand(x.shape[2:])
    right = torch.arange(float(x.shape[3])).expand(x.shape[2:])
    up, right = (each - (weight * each).sum((1, 2), keepdim=True) for each in (up, right))
    return (weight * up * right).sum((1, 2)) / (weight * up * up).sum((1, 2))


def direction(attribute: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
    """Return the difference that much and little of an attribute make within a class."""
    found = []
    for label in labels.unique():
        inside, values = codes[labels == label], attribute[labels == label]
        much, little = values >= values.quantile(0.8), values <= values.quantile(0.2)
        found.append(inside[much].mean(0) - inside[little].mean(0))
    return torch.stack(found).mean(0)


# %%
# The table says how far the attribute goes with the step, beside how it varies among the test
# images, and what that costs: how often the nearest training code is still of the class of the
# image. In the picture there is one test image of each class. Slant is plain to see: two steps take
# it past nine test images in ten, but about half of the codes are then nearest to one of another
# class; after one step it is fewer than one in five. Ink is harder to see: from two steps down to
# two up it goes through most of that range, and more than four in five keep their class.

all_codes, (all_images, all_labels) = model.encode(grey).mean.cpu(), grey[:]
each = torch.stack([(labels == label).nonzero()[0, 0] for label in labels.unique()])
steps_taken = (-2.0, -1.0, 0.0, 1.0, 2.0)
figure, axes = plt.subplots(1, 2, figsize=(13, 3.9), layout="constrained")
for ax, (name, measure) in zip(axes, {"ink": ink, "slant": slant}.items(), strict=True):
    along = direction(measure(all_images), all_codes, all_labels)
    low, high = measure(images).quantile(torch.tensor([0.1, 0.9])).tolist()
    print(f"\n{name}: of four test images in five from {low:.3f} to {high:.3f}")
    print(f"{'step':>6}{name:>8}{'same class':>13}")
    rows = []
    for step in steps_taken:
        moved = given + step * along
        made = model.decode(moved.to(args.device)).detach().cpu()
        rows.append(made[each])
        same = (all_labels[torch.cdist(moved, all_codes).argmin(1)] == labels).double().mean()
        print(f"{step:6.1f}{measure(made).mean():8.3f}{same:13.2f}")
    names = [f"{step:+.0f}" if step else "as it is" for step in steps_taken]
    vk.plots.images(torch.cat(rows), columns=len(each), rows=names, ax=ax)
    ax.set_title(f"steps along the direction of {name}")
figure.savefig(args.out / "edited.png", dpi=120)
print(f"wrote {args.out}/paths.png, neighbours.png and edited.png")
