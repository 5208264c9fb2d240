"""The tables of `heatserve bench`, from the results that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


def latency_table(results: dict[str, Any]) -> Table:
    """Each way to answer one image, by shape."""
    table = Table(title=f"ms for one image, random weights; {_machine(results)}", title_justify="left")
    table.add_column("way", no_wrap=True)
    for heading in ("p50", "p90", "p99", "÷ plain", "n₀ passes ÷ p50"):
        table.add_column(heading, justify="right")
    for name, shape in results["shapes"].items():
        table.add_row(f"[bold]{name}[/] n₀={shape['n0']}")
        p50 = {way: times["p50"] for way, times in shape["milliseconds"].items()}
        for way, times in shape["milliseconds"].items():
            milliseconds = [f"{times[quantile]:.2f}" for quantile in ("p50", "p90", "p99")]
            slower = 1.0 if way == "plain" else shape["ratios"][f"{way} / plain"]["p50"]
            table.add_row(way, *milliseconds, f"{slower:.3f}", f"{p50['stochastic'] / p50[way]:.1f}")
        table.add_section()
    return table


def export_tables(results: dict[str, Any]) -> Group:
    """A table for each shape, then the engines that are absent, and why."""
    tables = [
        _export_table(f"{name}: ms for a request, p50; {_machine(results)}", rows)
        for name, rows in results["shapes"].items()
    ]
    return Group(*tables, *(Text(f"{engine} absent: {why}") for engine, why in results["absent"].items()))


def _export_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("batch", "engine", "variant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("plain", "certified", "÷ plain", "fp32 ÷ it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        plain, certified = (f"{row['milliseconds'][kind]['p50']:.4g}" for kind in ("plain", "certified"))
        slower, faster = f"{row['certified / plain']['p50']:.3f}", row["fp32 / variant"]
        last = faster and f"{faster['p50']:.2f}"
        table.add_row(str(row["batch"]), row["engine"], row["variant"], plain, certified, slower, last)
    return table


def _machine(results: Mapping[str, Any]) -> str:
    return f"{results['machine']['processor']}, {results['machine']['cores']} cores"


def print_training(name: str, results: dict[str, Any]) -> None:
    """The table of one shape, then what its steps compute."""
    shape, console = results["shapes"][name], Console(highlight=False)
    console.print(_training_table(name, results))
    differences = shape["gradient_differences"]
    console.print(
        f"relative difference of gradients: heat and naive {differences['heat and naive']:.1e}, "
        f"naive in both memory layouts {differences['naive in both layouts']:.1e}"
    )
    for found in shape["estimators"]:
        console.print(
            f"‖∇v‖² by {found['estimator']}, δ={found['delta']:g}: mean {found['mean']:.4g}, relative spread "
            f"{found['spread_of_an_image']:.1%} for an image, {found['spread_of_a_batch']:.1%} for a batch"
        )


def _training_table(name: str, results: dict[str, Any]) -> Table:
    shape, machine = results["shapes"][name], results["machine"]
    table = Table(
        title=f"{name}: one step of {shape['batch_size']} random images, random weights, κ={results['kappa']}; "
        f"{results['device_name'] or machine['processor']}, threads: {results['threads']}",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("variant", no_wrap=True)
    for heading in ("ms", "images/s", "speed-up", "÷ floor", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant, found in shape["variants"].items():
        peak = "–" if found["peak_mib"] is None else f"{found['peak_mib']:,.0f}"
        ratios = f"{found['speed_up']:.2f}", f"{found['ratio_to_floor']:.2f}"
        table.add_row(
            variant, f"{found['milliseconds']['median']:,.1f}", f"{found['images_per_second']:,.1f}", *ratios, peak
        )
    table.add_section()
    table.add_row("floor", f"{shape['floor']['milliseconds']:,.1f}")
    for part, found in shape["floor"]["parts"].items():
        table.add_row(f"  {found['count']} × {part}", f"{found['milliseconds']['median']:,.1f}")
    return table


def print_certify(results: dict[str, Any]) -> None:
    """The table of speeds with its ratios, then what was decided with how many votes."""
    speed, machine, console = results["speed"], results["machine"], Console(highlight=False)
    table = Table(
        title=f"noisy passes a second, {speed['architecture']}, random weights; {machine['processor']}, "
        f"{machine['cores']} cores",
        title_justify="left",
    )
    table.add_column("way", no_wrap=True)
    sizes = next(iter(speed["passes_per_second"].values())).keys()
    for heading in (*(f"batches of {size}" for size in sizes), "best ÷ torch loop"):
        table.add_column(heading, justify="right")
    best = {name: max(found.values()) for name, found in speed["passes_per_second"].items()}
    for name, found in speed["passes_per_second"].items():
        row = [f"{found[size]:,.0f}" for size in sizes]
        table.add_row(name, *row, f"{best[name] / best['torch loop']:.2f}")
    console.print(table)
    for name, ratio in speed["ratios"].items():
        console.print(f"{name}: {ratio:.3f}")
    if "deciding" not in results:
        return
    deciding = results["deciding"]
    console.print(
        f"\n{deciding['model']}, {deciding['data']['images']} test images: is the radius at least "
        f"{deciding['radius']:g}?"
    )
    for name, found in deciding["samplings"].items():
        decide, certify = found["decide"], found["certify"]
        console.print(
            f"{name}: {decide['yes']} yes, {decide['no']} no, {decide['undecided']} undecided; "
            f"{decide['mean_samples']:.0f} votes an image (median {decide['median_samples']:.0f}), "
            f"{decide['times_fewer']:.1f} times fewer than {deciding['n0'] + deciding['n']}; "
            f"{decide['passes_per_second']:,.0f} a second"
        )
        console.print(
            f"  Certify with n = {deciding['certify_n']}: mean radius {certify['mean_radius']:.4f} "
            f"({certify['mean_radius_grey_levels']:.1f} grey levels), certified accuracy at {deciding['radius']:g} "
            f"{certify['certified_accuracy']:.1%}; {certify['passes_per_second']:,.0f} passes a second"
        )


def calibration_table(results: Mapping[str, Any]) -> Table:
    """Each way to calibrate under each promise, at some radii."""
    shown = [index for index, radius in enumerate(results["radii"]) if radius in (0, 0.1, 0.25, 0.5)]
    table = Table(
        title="certified accuracy of the single pass minus that of Certify, in points, at L2 radius r",
        caption=f"Certify, n = {results['test_monte_carlo']['n']}: "
        + ", ".join(f"{100 * results['certify'][i]:.1f} % at {results['radii'][i]:g}" for i in shown),
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("promise", "α", "calibrated by"):
        table.add_column(heading)
    for heading in (*(f"r = {results['radii'][i]:g}" for i in shown), "overclaims"):
        table.add_column(heading, justify="right")
    for row in results["rows"]:
        start = (row["promise"], f"{row['alpha']:g}", row["way"])
        if "refused" in row:
            table.add_row(*start, *["–"] * len(shown), "refused")
            continue
        gaps = (f"{100 * (row['single_pass'][i] - results['certify'][i]):+.1f}" for i in shown)
        table.add_row(*start, *gaps, f"{row['overclaims']} of {row['positive']}")
    return table
