"""What `heatserve tune` tried and chose, as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from heatserve.serving.tuning.tune import Tuning


def tuning_table(tuning: Tuning) -> Table:
    """One row per load that a setting was tried under; the choice in bold."""
    table = Table(
        title=f"{tuning.model}: 99th percentile within {tuning.target:.3g} ms",
        caption="cores: instances × threads; batch: preferred, in images\n"
        "delay: µs that requests wait for it; asking: cores that the callers took",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE,
    )
    for heading in ("cores", "batch", "delay", "callers", "images/s", "p50 ms", "p99 ms", "asking", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in tuning.trials:
        setting, load = trial.setting, trial.load
        table.add_row(
            f"{setting.instances}×{setting.threads}",
            *map(str, (setting.preferred_batch, setting.queue_delay_us, load.concurrency)),
            f"{load.images_per_second:.0f}",
            f"{load.p50:.2f}",
            f"{load.p99:.2f}",
            f"{load.caller_cores:.2f}",
            "yes" if trial.meets_target else "no",
            style="bold" if trial == tuning.choice else None,
        )
    return table
