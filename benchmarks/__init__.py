"""Benchmarks: everything that measures speed, tightness and attacks, and the pages of results.

    from heatserve.benchmarks import AttackSettings, attack_model, open_target

- `latency`, `engines`, `votes`, `heat_step`: what a certificate, a vote and a training step cost.
- `load`: a served model under callers and arrivals, its floors, and what each tier proves and costs.
- `calibration`: certified accuracy under one promise, of each way to calibrate.
- `attack`: adversarial distances, inputs whose served radius is wrong, and defences (needs `heatserve[bench]`).
- `paper`: the paper's tables and figures on any data set.
- `records`: what all of them write, as dataclasses; `pages`: docs/results/*.md, rendered from what is kept.

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.benchmarks.attack.measure import attack_model
    from heatserve.benchmarks.attack.settings import AttackSettings
    from heatserve.benchmarks.attack.target import open_target
    from heatserve.benchmarks.records.attack import AttackRecord
    from heatserve.benchmarks.records.record import read_record

__all__ = ["AttackRecord", "AttackSettings", "attack_model", "open_target", "read_record"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AttackRecord": "heatserve.benchmarks.records.attack",
        "AttackSettings": "heatserve.benchmarks.attack.settings",
        "attack_model": "heatserve.benchmarks.attack.measure",
        "open_target": "heatserve.benchmarks.attack.target",
        "read_record": "heatserve.benchmarks.records.record",
    },
)
