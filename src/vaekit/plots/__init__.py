"""Pictures of models, latent spaces and training, as functions that take and return axes.

They need matplotlib, and some of them scikit-learn: ``pip install "vaekit[plots]"``. A model is
looked at in evaluation mode and without gradients, and its mode and torch's random state are left
as they were; `samples` alone draws from the global generator, unless it is given one.
"""

from vaekit.plots.charts import curves, rate_distortion, roc
from vaekit.plots.latents import (
    aggregated_posterior,
    kl_bars,
    latent_scatter,
    mutual_information,
)
from vaekit.plots.pages import report
from vaekit.plots.pictures import (
    error_map,
    images,
    nearest_neighbours,
    reconstructions,
    samples,
)
from vaekit.plots.walks import (
    class_centres,
    class_interpolation,
    interpolate,
    interpolation,
    manifold,
    traversals,
)

__all__ = [
    "aggregated_posterior",
    "class_centres",
    "class_interpolation",
    "curves",
    "error_map",
    "images",
    "interpolate",
    "interpolation",
    "kl_bars",
    "latent_scatter",
    "manifold",
    "mutual_information",
    "nearest_neighbours",
    "rate_distortion",
    "reconstructions",
    "report",
    "roc",
    "samples",
    "traversals",
]
