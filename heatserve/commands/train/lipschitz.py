"""`heatserve train lipschitz`."""

from __future__ import annotations

from dataclasses import replace

from heatserve.commands.options import ClassesFile, Crop, Root, ShorterSide, SkipUnreadable, name_data
from heatserve.commands.train.options import (
    Augment,
    BatchSize,
    CheckpointOut,
    Clip,
    Decay,
    Device,
    Epochs,
    LearningRate,
    LipschitzArchitecture,
    MarginEpsilon,
    Resume,
    Start,
    Teacher,
    TeacherCode,
    Temperature,
    Tensorboard,
    TrainingData,
    TrainingPrecision,
    TrainingSeed,
    WeightDecay,
    given,
)
from heatserve.commands.train.run import interruptible, open_parent, read_images, run_on, summarise


def lipschitz(
    *,
    data: TrainingData,
    out: CheckpointOut,
    architecture: LipschitzArchitecture = None,
    checkpoint: Teacher = None,
    teacher_architecture: TeacherCode = None,
    start: Start = None,
    root: Root = None,
    resize: ShorterSide = None,
    crop: Crop = None,
    classes: ClassesFile = None,
    skip_unreadable: SkipUnreadable = False,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    epsilon: MarginEpsilon = None,
    temperature: Temperature = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """Train a network whose logits are 1-Lipschitz: its own class has a radius that no input can spoof.

    No change of L2 norm below r changes the class if its logit is √2·r above all others. That holds for every image,
    without noise and without calibration. Training estimates the norms of the layers; what is exported has bounds that
    are proven.

    By default architecture and recipe take a minute (digits), two hours of two CPU cores, or a quarter of an hour of a
    GPU (CIFAR-10).

    **Example:** `heatserve train lipschitz --data digits --out runs/lipschitz.safetensors`
    """
    from heatserve.training import lipschitz_recipe, train_lipschitz

    data = name_data(data, resize=resize, crop=crop, classes=classes, skip=skip_unreadable)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    loss = given(epsilon=epsilon, temperature=temperature)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    preset, optimisation = lipschitz_recipe(data, run.device)
    teacher = checkpoint and open_parent(checkpoint, teacher_architecture)
    images = read_images(data, root)
    with interruptible():
        train_lipschitz(
            images,
            architecture or preset,
            out=out,
            teacher=teacher,
            start=start,
            optimisation=replace(optimisation, **recipe),
            seed=seed,
            run=run,
            **loss,
        )
    summarise(out, data, root)
