"""What the hours of a training brought a 1-Lipschitz network, and what the graph of it proves about test images."""

from __future__ import annotations

import tempfile
from io import BytesIO
from itertools import accumulate
from pathlib import Path

from heatserve.benchmarks.kinds import KIND_RADII, measure_single_passes
from heatserve.benchmarks.records.lipschitz import LipschitzTrainingRecord, TrainedEpoch
from heatserve.benchmarks.records.record import made_now
from heatserve.benchmarks.report.formats import radius_name
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.sampling import sample_for
from heatserve.export.exporting import export_checkpoint
from heatserve.training import load_checkpoint
from heatserve.training.loop.log import log_path, read_epochs


def measure_lipschitz_training(
    checkpoint: Path, *, root: Path | None, images: int, seed: int, progress: Progress = unseen
) -> LipschitzTrainingRecord:
    """The curve of a training, from the log beside its checkpoint, and the certified accuracy of what it ended with.

    Args:
        checkpoint: of a network that is 1-Lipschitz by construction.
        root: folder of the data set that it was trained on, for one that has a folder.
        images: test images, drawn by `seed`.
        seed: decides the images.
        progress: is told of the layers and of the images.

    Raises:
        HeatserveError: there is no log, it has not every epoch, or the network is of another kind.
    """
    made = made_now(seed=seed)
    found = load_checkpoint(checkpoint)
    metadata = found.metadata
    epochs = trained_epochs(checkpoint, expected=metadata.epochs)
    with tempfile.TemporaryDirectory() as folder:
        model = export_checkpoint(checkpoint, repository=Path(folder), name="lipschitz", progress=progress)
        if not model.card.is_deterministic:
            raise HeatserveError(
                f"{checkpoint}: expected a network that is 1-Lipschitz by construction, got another one"
            )
        data = sample_for(model, metadata.dataset, "test", root=root, count=images, seed=seed)
        (row,) = measure_single_passes([model], data, seed=seed, progress=progress)
    return LipschitzTrainingRecord(
        **vars(made),
        architecture=metadata.architecture,
        dataset=metadata.dataset,
        checkpoint_sha256=found.sha256,
        graph_sha256=row.graph_sha256,
        hyperparameters=metadata.hyperparameters,
        epochs=epochs,
        data=row.data,
        radii=KIND_RADII,
        accuracy=row.accuracy,
        certified=row.certified,
    )


def trained_epochs(checkpoint: Path, *, expected: int) -> tuple[TrainedEpoch, ...]:
    """What the log beside a checkpoint says of each epoch.

    Raises:
        HeatserveError: names the log.
    """
    log, found = log_path(checkpoint), read_epochs(checkpoint)
    if len(found) != expected:
        raise HeatserveError(f"{log}: expected the log of {expected} epochs, as the checkpoint has, got {len(found)}")
    ends = accumulate(float(epoch["seconds"]) for epoch in found)
    try:
        return tuple(
            TrainedEpoch(seconds=round(end, 1), accuracy=float(one["accuracy"]), certified=float(one["certified"]))
            for end, one in zip(ends, found, strict=True)
        )
    except (KeyError, TypeError, ValueError):
        raise HeatserveError(f"{log}: expected the log of `train lipschitz`, got that of another training") from None


def draw_lipschitz_training(record: LipschitzTrainingRecord, path: Path) -> None:
    """Write a figure (SVG): shares of training images over hours, and what is proven of test images at the end."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 3.8), layout="constrained")
    hours = [epoch.seconds / 3600 for epoch in record.epochs]
    proven_at = dict(zip(record.radii, record.certified, strict=True))
    curves: tuple[tuple[str, list[float], float | None], ...] = (
        ("right", [epoch.accuracy for epoch in record.epochs], record.accuracy),
        (
            f"certified within {radius_name(record.epsilon)}",
            [epoch.certified for epoch in record.epochs],
            proven_at.get(record.epsilon),
        ),
    )
    for colour, (label, shares, proven) in enumerate(curves):
        axes.plot(hours, shares, color=f"C{colour}", label=f"training images, {label}")
        if proven is not None:  # another ε than all radii that were measured
            shown = f"test images, {label}: {100 * proven:.1f} %"
            axes.plot(hours[-1:], [proven], "o", color=f"C{colour}", label=shown)
    axes.set(
        title=f"{record.dataset}, {record.architecture}, {len(record.epochs)} epochs",
        xlabel="hours of training",
        ylabel="share of images",
        xlim=(0, None),
        ylim=(0, 1),
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())
