"""
Interpolate and edit
====================

What lies between two images, and what direction in the latent space makes a digit bolder. Nothing
here is trained for it: the paths, the neighbours and the directions are read off a VAE's codes.
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
epochs = args.epochs or (15 if args.data == "mnist" else 200)
history = vk.fit(model, objective, train, epochs=epochs, seed=args.seed)
print(history)

# %%
# From one image to another
# -------------------------
# Test images of two classes, and the posterior means between theirs, on a straight line and on an
# arc. Draws from a normal prior of many dimensions have nearly all the same distance from the
# middle; a straight path cuts through the middle, where few codes lie, an arc goes around. Beside
# them a mixture of the two pictures, which is two digits at once.

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
# From class to class, by neighbours
# ----------------------------------
# A path between two groups need not be straight. This one starts at an image of one class and goes
# from neighbour to neighbour to one of the other: the shortest path over the graph that joins each
# training code with its nearest. Every picture is a training image, so each step is a likely one.


few = slice(0, 1000)
codes, (x, y) = model.encode(grey[few][0].to(args.device)).mean.detach().cpu(), grey[few]
graph = kneighbors_graph(codes, 6, mode="distance")
graph.data **= 2  # so that two short steps are nearer than a long one
paths = []
for a, b in ((0, 7), (1, 8), (3, 4)):
    here, goal = (int((y == label).nonzero()[0]) for label in (a, b))
    _, after = dijkstra(graph, directed=False, indices=goal, return_predecessors=True)
    path = [here]
    while path[-1] != goal and after[path[-1]] >= 0:
        path.append(int(after[path[-1]]))
    paths.append(path)
longest = max(map(len, paths))
shown = torch.ones(len(paths), longest, *x.shape[1:])
for row, path in zip(shown, paths, strict=True):
    row[: len(path)] = x[path]
figure, ax = plt.subplots(figsize=(0.8 * longest, 2.8), layout="constrained")
vk.plots.images(shown.flatten(0, 1), columns=longest, ax=ax)
ax.set_title("training images, each a neighbour of the one before")
figure.savefig(args.out / "neighbours.png", dpi=150)

# %%
# Editing
# -------
# The mean code of the bold digits less that of the thin ones is a direction; a step along it should
# make any digit bolder, and leave it the digit it is. The table says what happens to the ink (the
# mean of the pixels) and how often the nearest training code still is of the same class.

all_codes, (_, all_labels) = model.encode(grey).mean.cpu(), grey[:]
ink = grey[:][0].flatten(1).mean(1)
bold, thin = ink > ink.quantile(0.8), ink < ink.quantile(0.2)
direction = all_codes[bold].mean(0) - all_codes[thin].mean(0)
with torch.no_grad():
    given = model.encode(images.to(args.device)).mean
    print(f"\n{'step':>6}{'ink':>8}{'same class':>13}")
    rows = []
    for step in (-1.0, -0.5, 0.0, 0.5, 1.0):
        moved = given + step * direction.to(given)
        made = model.decode(moved)
        rows.append(made[:10].cpu())
        nearest = torch.cdist(moved.cpu(), all_codes).argmin(1)
        same = (all_labels[nearest] == labels).double().mean()
        print(f"{step:6.1f}{made.mean():8.3f}{same:13.2f}")

figure, ax = plt.subplots(figsize=(7, 3.7), layout="constrained")
vk.plots.images(torch.cat(rows), columns=10, ax=ax)
ax.set_title("thinner above, as it is in the middle, bolder below")
figure.savefig(args.out / "edited.png", dpi=150)
print(f"wrote {args.out}/paths.png, neighbours.png and edited.png")
plt.show()
