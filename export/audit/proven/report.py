"""What a terminal shows of the audit of a deterministic certificate, and the sentences that its page shares."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from heatserve.export.audit.proven.audit import ProvenAudit
from heatserve.export.audit.report import percent, result_table

MEANING = (
    "PASS means: the operators of the served file are of a kind of which a proof can be made; the proof was made again "
    "from its bytes alone, and the card says nothing else; the served file answers as its operators say; and no attack "
    "found an image within a served radius that is answered with another class. No probability is in it: one such "
    "image, and it fails. What it rests on is that the engine adds and multiplies in float64 as IEEE 754 says."
)


def proven_headline(audit: ProvenAudit) -> str:
    """The verdict in one line."""
    return f"{'PASS' if audit.verdict.passed else 'FAIL'}: {audit.card.model}, version {audit.version}"


def proven_findings(audit: ProvenAudit) -> list[str]:
    """Why it passed or failed: sentences."""
    sentences = list(audit.verdict.reasons)
    if audit.bound:
        sentences.append(
            f"Proven again: {len(audit.bound.layers)} layers, none of which moves two images further apart; rounding "
            f"moves logits by at most {audit.bound.logits_error:.2g}; {audit.bound.slack:.2g} is taken off each "
            f"radius, and {audit.bound.slack_needed:.2g} would do."
        )
    attacked, successes = (
        sum(getattr(search, name) for search in audit.searches) for name in ("positive", "successes")
    )
    sentences.append(f"Attacked: {attacked} images with a positive radius; {successes} successes. {audit.attack}.")
    return sentences


def search_rows(audit: ProvenAudit) -> list[tuple[str, ...]]:
    """For each kind of start: images, positive radii, successes, the median and largest radius, and what is nearest."""
    return [
        (
            search.start,
            f"{search.images}",
            f"{search.positive}",
            f"{search.successes}",
            _number(search.median_radius),
            _number(search.largest_radius),
            _number(search.nearest),
            _number(search.median_nearest),
        )
        for search in audit.searches
    ]


SEARCH_HEADINGS = (
    "start",
    "images",
    "radius > 0",
    "broken",
    "median",
    "largest",
    "nearest / r",
    "its median",
)
SEARCH_CAPTION = (
    "raised: after steepest ascent of the radius r; broken: an image of another class was found within r; median and "
    "largest: of r; nearest / r: the distance of the nearest image of another class that was found, in units of r"
)


def layer_rows(audit: ProvenAudit) -> list[tuple[str, ...]]:
    """For each layer: its shape, its step, the norm that was proven and an estimate from below."""
    return [
        (
            f"{number}",
            "×".join(map(str, layer.shape)),
            f"{layer.step:.6g}",
            f"{layer.norm_at_most:.6f}",
            f"{layer.norm_at_least:.6f}",
        )
        for number, layer in enumerate(audit.bound.layers if audit.bound else (), start=1)
    ]


LAYER_HEADINGS = ("layer", "H×W×C", "step", "norm, proven at most", "at least, by Lanczos")


def certified_rows(audit: ProvenAudit) -> list[tuple[str, str]]:
    """Radius, and the share of images that are certified there; up to the first at which none is."""
    shares = [at.share for at in audit.answers.certified]
    shown = audit.answers.certified[: shares.index(0) + 1] if 0 in shares else audit.answers.certified
    return [(f"{at.radius:.4g}", percent(at.share)) for at in shown]


def proven_report(audit: ProvenAudit) -> Group:
    """Verdict, what it means, the promise, what was attacked, and the layers."""
    answers, passed = audit.answers, audit.verdict.passed
    parts: list[RenderableType] = [
        Text(proven_headline(audit), style="bold green" if passed else "bold red"),
        *(Text(f"  {sentence}") for sentence in proven_findings(audit)),
        Text(MEANING),
        Text(f"promise {audit.card.promise}"),
        Text(f"judged  graph sha256 {audit.card.graph_sha256}"),
        Text(
            f"answers {answers.data.images} images of split {answers.data.split!r} of {answers.data.dataset}: "
            f"{percent(answers.clean_accuracy)} right"
        ),
        Text(""),
    ]
    searched = result_table("attacks within the served radius", *SEARCH_HEADINGS, caption=SEARCH_CAPTION)
    shares = result_table("certified accuracy at L2 radius r, pixels in [0,1]", "r ≥", "certified")
    layers = result_table("layers, as the bytes of the graph have them", *LAYER_HEADINGS)
    for table, rows in (
        (searched, search_rows(audit)),
        (shares, certified_rows(audit)),
        (layers, layer_rows(audit)),
    ):
        for row in rows:
            table.add_row(*row)
        parts += [table] if rows else []
    return Group(*parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
