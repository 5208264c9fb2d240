"""`heatserve train heat`, `noise`, `smoothadv`, `madry` and `average`: from a trained network to another one."""

from __future__ import annotations

from dataclasses import replace

from heatserve.commands.options import OwnCode, Root
from heatserve.commands.train.options import (
    Augment,
    AverageDistance,
    AverageTarget,
    BatchSize,
    CheckpointOut,
    Clip,
    Coefficient,
    Consistency,
    Decay,
    Delta,
    Device,
    DrawsAtOnce,
    Epochs,
    Epsilon,
    Estimator,
    From,
    FrozenBase,
    HeatDistance,
    HeatPenalty,
    Kappa,
    LabelFree,
    LearningRate,
    NoisyShare,
    Normalisation,
    OwnData,
    Preset,
    Reinitialise,
    Resume,
    Samples,
    Sigma,
    Steps,
    Tensorboard,
    TimeSteps,
    TrainingPrecision,
    TrainingSeed,
    WeightDecay,
    given,
)
from heatserve.commands.train.run import fine_tune, open_parent, run_on
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    SmoothAdvParameters,
    heat_preset,
)


def heat(
    *,
    checkpoint: From,
    out: CheckpointOut,
    architecture: OwnCode = None,
    sigma: Sigma,
    data: OwnData = None,
    root: Root = None,
    seed: TrainingSeed = 0,
    preset: Preset = None,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    kappa: Kappa = None,
    delta: Delta = None,
    estimator: Estimator = None,
    distance: HeatDistance = None,
    penalty: HeatPenalty = None,
    noisy_share: NoisyShare = None,
    normalisation: Normalisation = None,
    coefficient: Coefficient = None,
    time_steps: TimeSteps = None,
    reinitialise: Reinitialise = None,
    draws_at_once: DrawsAtOnce = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """Fine-tune a network into its own Gaussian average: Algorithm 1, equations (3), (10), (15); no labels.

    The result is only *close* to the average. `heatserve calibrate` measures how close; until then every certified
    radius is 0.

    **Example:** `heatserve train heat --from runs/baseline.safetensors --sigma 0.25 --out runs/heat.safetensors`
    """
    loss = given(kappa=kappa, delta=delta, estimator=estimator, distance=distance, penalty=penalty)
    loss |= given(noisy_share=noisy_share, normalisation=normalisation, coefficient=coefficient)
    loss |= given(time_steps=time_steps, reinitialise=reinitialise, draws_at_once=draws_at_once)
    parameters = replace(heat_preset(preset, sigma) if preset else HeatParameters(sigma=sigma), **loss)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    parent = open_parent(checkpoint, architecture)
    fine_tune(parent, parameters, recipe, out=out, data=data, root=root, seed=seed, run=run)


def noise(
    *,
    checkpoint: From,
    out: CheckpointOut,
    architecture: OwnCode = None,
    sigma: Sigma,
    data: OwnData = None,
    root: Root = None,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    label_free: LabelFree = NoiseParameters.label_free,
    samples: Samples = NoiseParameters.samples,
    consistency: Consistency = NoiseParameters.consistency,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """RandomizedSmoothing's training: cross entropy on noisy images, with labels or with `--label-free`.

    **Example:** `heatserve train noise --from runs/baseline.safetensors --sigma 0.25 --label-free --out
    runs/noise.safetensors`
    """
    parameters = NoiseParameters(sigma=sigma, label_free=label_free, samples=samples, consistency=consistency)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    parent = open_parent(checkpoint, architecture)
    fine_tune(parent, parameters, recipe, out=out, data=data, root=root, seed=seed, run=run)


def smoothadv(
    *,
    checkpoint: From,
    out: CheckpointOut,
    architecture: OwnCode = None,
    sigma: Sigma,
    data: OwnData = None,
    root: Root = None,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    epsilon: Epsilon = SmoothAdvParameters.epsilon,
    steps: Steps = SmoothAdvParameters.steps,
    samples: Samples = SmoothAdvParameters.samples,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """SmoothAdv: adversarial training of the average over noise, with labels.

    **Example:** `heatserve train smoothadv --from runs/baseline.safetensors --sigma 0.25 --epsilon 0.5 --out
    runs/smoothadv.safetensors`
    """
    parameters = SmoothAdvParameters(sigma=sigma, epsilon=epsilon, steps=steps, samples=samples)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    parent = open_parent(checkpoint, architecture)
    fine_tune(parent, parameters, recipe, out=out, data=data, root=root, seed=seed, run=run)


def madry(
    *,
    checkpoint: From,
    out: CheckpointOut,
    architecture: OwnCode = None,
    data: OwnData = None,
    root: Root = None,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    epsilon: Epsilon = MadryParameters.epsilon,
    steps: Steps = MadryParameters.steps,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """Madry's adversarial training in the L2 ball, with labels.

    **Example:** `heatserve train madry --from runs/baseline.safetensors --epsilon 0.5 --out runs/madry.safetensors`
    """
    parameters = MadryParameters(epsilon=epsilon, steps=steps)
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    parent = open_parent(checkpoint, architecture)
    fine_tune(parent, parameters, recipe, out=out, data=data, root=root, seed=seed, run=run)


def average(
    *,
    checkpoint: From,
    out: CheckpointOut,
    architecture: OwnCode = None,
    sigma: Sigma,
    data: OwnData = None,
    root: Root = None,
    seed: TrainingSeed = 0,
    device: Device = None,
    resume: Resume = False,
    tensorboard: Tensorboard = None,
    samples: Samples = AverageParameters.samples,
    target: AverageTarget = AverageParameters.target,
    distance: AverageDistance = AverageParameters.distance,
    consistency: Consistency = AverageParameters.consistency,
    frozen_base: FrozenBase = AverageParameters.frozen_base,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    decay: Decay = None,
    weight_decay: WeightDecay = None,
    clip: Clip = None,
    precision: TrainingPrecision = None,
    augment: Augment = None,
) -> None:
    """Train a network under noise and, beside it, the single pass that answers with its average; no labels.

    OUT is the single pass; the network that Monte Carlo certifies is written beside it as `.base`.

    **Example:** `heatserve train average --from runs/baseline.safetensors --sigma 0.25 --out runs/average.safetensors`
    """
    parameters = AverageParameters(
        sigma=sigma,
        samples=samples,
        target=target,
        distance=distance,
        consistency=consistency,
        frozen_base=frozen_base,
    )
    recipe = given(epochs=epochs, batch_size=batch_size, lr=lr, decay=decay, weight_decay=weight_decay, clip=clip)
    recipe |= given(precision=precision, augment=augment)
    run = run_on(device, resume=resume, tensorboard=tensorboard)
    parent = open_parent(checkpoint, architecture)
    fine_tune(parent, parameters, recipe, out=out, data=data, root=root, seed=seed, run=run)
