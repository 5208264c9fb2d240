"""What `heatserve tune` tried and chose, as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from heatserve.serving.tuning.tune import TuningResult

_HEADINGS = (
    "instances\n× threads",
    "preferred\nbatch",
    "delay\nµs",
    "\ncallers",
    "images\n/s",
    "p50\nms",
    "p99\nms",
    "callers'\ncores",
    "within\ntarget",
)


def tuning_table(tuning: TuningResult) -> Table:
    """One row per load that a setting was tried under; the choice in bold."""
    table = Table(
        title=f"{tuning.model}: the 99th percentile (p99) is to be within {tuning.target:.3g} ms",
        caption="\nIn bold: the choice. A request waits at most the delay for others to share its batch. Where the "
        "callers' cores are near 1, the callers were the bottleneck and not the server.",
        title_justify="left",
        caption_justify="left",
        caption_style="italic",
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in tuning.trials:
        setting, load = trial.setting, trial.load
        table.add_row(
            f"{setting.instances} × {setting.threads}",
            *map(str, (setting.preferred_batch, setting.queue_delay_us, load.concurrency)),
            f"{load.images_per_second:.0f}",
            f"{load.p50:.2f}",
            f"{load.p99:.2f}",
            f"{load.caller_cores:.2f}",
            "yes" if trial.meets_target else "no",
            style="bold" if trial == tuning.choice else None,
        )
    return table
