"""`heatserve train baseline`."""

from __future__ import annotations

from dataclasses import replace

from heatserve.commands.options import ClassesFile, Crop, Root, ShorterSide, SkipUnreadable, name_data
from heatserve.commands.train.options import (
    Architecture,
    Augment,
    BatchSize,
    CheckpointOut,
    Clip,
    Decay,
    Device,
    Epochs,
    LearningRate,
    Resume,
    Tensorboard,
    TrainingData,
    TrainingPrecision,
    TrainingSeed,
    WeightDecay,
    given,
)
from heatserve.commands.train.run import check_exportable, interruptible, read_images, run_on, summarise


def baseline(
    *,
    data: TrainingData,
    architecture: Architecture,
    out: CheckpointOut,
    root: Root = None,
    resize: ShorterSide = None,
    crop: Crop = None,
    classes: ClassesFile = None,
    skip_unreadable: SkipUnreadable = False,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """Train an undefended network with cross entropy: the f that smoothing starts from.

    The images of the calibration split are never trained on.

    **Example:** `heatserve train baseline --data digits --architecture digits_cnn --out runs/baseline.safetensors`
    """
    from heatserve.training import baseline_optimisation, train_baseline

    data = name_data(data, resize=resize, crop=crop, classes=classes, skip=skip_unreadable)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    optimisation = replace(baseline_optimisation(data), **recipe)
    images = read_images(data, root)
    check_exportable(architecture, images)
    with interruptible():
        train_baseline(images, architecture, out=out, optimisation=optimisation, seed=seed, run=run)
    summarise(out, data, root)
