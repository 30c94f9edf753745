"""
Bigger than memory: train from a file on disk
=============================================

Images in a memory-mapped file, which is eight times as large as what training may allocate. Each
batch is read from the file as it is asked for, and the kernel holds the process to the limit.
"""

# %%
# Settings
# --------
# Runs on Linux, whose kernel refuses memory beyond a limit (``RLIMIT_DATA``).

import argparse
import resource
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

import vaekit as vk

MIB = 2**20
parser = argparse.ArgumentParser(description="Train from a file that is larger than memory.")
parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the file (2)")
parser.add_argument("--limit", type=int, default=256, help="what training may allocate, MiB (256)")
parser.add_argument("--steps", type=int, default=600, help="batches of 256 images (600)")
parser.add_argument("--folder", type=Path, help="where the file goes; a temporary one if left out")
parser.add_argument("--in-memory", action="store_true", help="read it all, to see it refused")
args = parser.parse_args()
if sys.platform != "linux":
    parser.error("this example runs on Linux alone")
torch.manual_seed(0)

# %%
# A file of images
# ----------------
# Sprites of 64 x 64 pixels, drawn at random and written a few thousand at a time. ``np.load`` with
# ``mmap_mode`` reads nothing: it returns an array whose pages the kernel fetches when they are
# looked at, and drops again when it wants the memory for something else.

sprites = vk.datasets.sprites()
count = int(args.gigabytes * 2**30) // sprites.shape.numel()
folder = tempfile.TemporaryDirectory(dir=args.folder)
path = Path(folder.name) / "sprites.npy"
file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *sprites.shape))
for rows in torch.arange(count).split(4096):
    x, _ = sprites[torch.randint(len(sprites), rows.shape)]
    file[rows[0] : rows[-1] + 1] = 255 * x.numpy()
file.flush()
del file
size = path.stat().st_size / MIB
print(f"{count:,} images, {size:,.0f} MiB, in {path}")
data = vk.datasets.from_tensors(np.load(path, mmap_mode="r"))

# %%
# A model
# -------
# It takes one step before the limit is set, so that what that loads (libraries, threads, the
# optimiser's kernels) is not counted as the data's.

model, objective = vk.recipes.vae(
    vk.likelihoods.Bernoulli(data.shape), 10, nets=vk.recipes.perceptrons([64])
)
vk.fit(model, objective, data, steps=1, batch_size=256, seed=0, progress=False)

# %%
# The limit, and what is measured
# -------------------------------
# ``RssAnon`` is the memory that the process has for itself: nobody but the process can give it up.
# The pages of the file, ``RssFile``, are not part of it. They are the kernel's cache, which grows
# while there is room, and from which it takes whatever somebody needs; a limit on them would slow
# the reading, and stop nothing. ``VmData`` is what the process has allocated, whether touched or
# not. That is what the kernel limits: an allocation beyond it fails, at whatever moment.


def memory(kind: str) -> float:
    """Read how much memory of a kind the process has, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 1024


class Peak(threading.Thread):
    """Watches the process's own memory, a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = memory("RssAnon")
        self.ended = threading.Event()

    def run(self) -> None:
        """Note the highest until told to end."""
        while not self.ended.wait(0.01):
            self.highest = max(self.highest, memory("RssAnon"))


peak = Peak()
peak.start()
limit = int(memory("VmData") + args.limit) * MIB
resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
print(f"Python, PyTorch and the model have {peak.before:,.0f} MiB; {args.limit} MiB may be added")

# %%
# Train
# -----
# In random order over the whole file. ``--in-memory`` reads it all first, which is refused.

if args.in_memory:
    data = vk.datasets.from_tensors(np.load(path))
history = vk.fit(model, objective, data, steps=args.steps, batch_size=256, seed=0)
peak.ended.set()
peak.join()
added = peak.highest - peak.before
read = args.steps * 256 * data.shape.numel() / MIB
print(f"\n{history}\nread {read:,.0f} MiB, a batch at a time")
print(f"peak: {peak.highest:,.0f} MiB, {added:,.0f} MiB of them added, of {args.limit} allowed")
print(f"pages of files that the kernel may drop: {memory('RssFile'):,.0f} MiB")
folder.cleanup()
if added > args.limit:
    sys.exit(f"over the limit by {added - args.limit:,.0f} MiB")
