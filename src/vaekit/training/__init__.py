"""The training loop, on accelerate."""

from vaekit.storage import DamagedFileError
from vaekit.training.checkpoints import Checkpoints, load_checkpoint
from vaekit.training.history import History, NonFiniteLossError
from vaekit.training.loop import fit
from vaekit.training.measures import evaluate
from vaekit.training.randomness import fork_seed
from vaekit.training.rows import TrainingState

__all__ = [
    "Checkpoints",
    "DamagedFileError",
    "History",
    "NonFiniteLossError",
    "TrainingState",
    "evaluate",
    "fit",
    "fork_seed",
    "load_checkpoint",
]
