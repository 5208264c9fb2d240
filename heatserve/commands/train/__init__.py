"""`heatserve train`: one plain function for each method, whose options are the fields of its parameters."""

from __future__ import annotations

import typer

from heatserve.commands.train.baseline import baseline
from heatserve.commands.train.lipschitz import lipschitz
from heatserve.commands.train.methods import average, heat, madry, noise, smoothadv

train = typer.Typer(
    name="train",
    no_args_is_help=True,
    help="Train a baseline; smooth a trained network, or harden it in one of the other ways; train a Lipschitz one.",
)
for command in (baseline, heat, noise, smoothadv, madry, average, lipschitz):
    train.command()(command)
