"""`heatserve conformance`."""

from __future__ import annotations

from typing import Annotated

import typer

from heatserve.commands.options import Json, Out, deliver, seed_option, tell_page

BROKEN = 3
"""Exit code of an engine that does not mean what the certificate says; 1 and 2 are errors."""


def conformance(
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", help="One of those in the table; several times for several; by default all."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Hard cases for each of the graphs.")] = 1000,
    seed: Annotated[int, seed_option("the hard cases")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Does every engine on this machine mean what the certificate says? Compare each with float64.

    Graphs whose logits are known, ties and extremes among them, for 2, 10 and 1000 classes; every invalid pixel.
    No radius may be above its float64 value for the engine's own probabilities. Engines that are absent are named.

    **Exit codes:** 0 all promises kept, 3 one was broken or a graph refused, 1 an error, or no engine is here.

    **Example:** `heatserve conformance --engine onnxruntime --examples 100`
    """
    from heatserve.certification.provenance import provenance
    from heatserve.export.calibration.report import progress_bar
    from heatserve.serving.conformance.conform import conform_all
    from heatserve.serving.conformance.engines import engines_named
    from heatserve.serving.conformance.report import conformance_table

    findings, absent = conform_all(engines_named(engines), examples=examples, seed=seed, progress=progress_bar)
    results = {
        **provenance("onnx", "onnxruntime", "numpy", "scipy", "nvidia-pytriton"),
        "seed": seed,
        "examples": examples,
        "engines": {name: found.to_dict() for name, found in findings.items()},
        "absent": absent,
    }
    deliver(results, lambda: conformance_table(findings, absent), as_json=as_json, out=out)
    tell_page(out, "conformance")
    if not all(found.passed for found in findings.values()):
        raise typer.Exit(BROKEN)
