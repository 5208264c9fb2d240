"""Judging live answers by Certify, in the idle time of the process that votes.

Each answer with a positive radius is judged as its calibration judged images: by Certify, or the decision on one
radius, with the n₀, n, α and noise of the card, from fresh entropy. An overclaim is a radius above what is proven, or
another class. Whether an answer is judged depends on no result: none that is begun is given up for others, and results
are counted in the order in which the answers came, however many votes each took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import numpy as np

from heatserve.certification.anytime import RateWatch
from heatserve.certification.confirming import threshold
from heatserve.certification.drift import DriftWatch, input_cells
from heatserve.certification.monte_carlo import Certificate, alpha_left
from heatserve.certification.noise import FLOAT32, GRID, NoiseSource
from heatserve.certification.polls import Failure, Polls, Test
from heatserve.certification.radius import Float32Array
from heatserve.certification.sequential import Decision, decision
from heatserve.certification.tightening import certificate
from heatserve.certification.voting import Classifier
from heatserve.export.card import Card
from heatserve.export.card_parts import Calibration
from heatserve.export.reference import InputReference
from heatserve.serving.observed import families
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.pixels import explain_pixels
from heatserve.serving.shadow.folder import Alarm, AuditFolder
from heatserve.serving.vote_protocol import Sample

LEVEL = 0.001
"""Probability of a false alarm, for each of the two alarms, each graph and each start of a server."""
_MOST_OPEN = 16
_KEEP_SECONDS = 10.0  # between two times that what was seen is written

_Judgement = Certificate | Decision


class Auditor:
    """The shadow audit of one served graph. It belongs to the thread that votes.

    Attributes:
        rate: the watch of the rate of overclaims.
        drift: that of the inputs; None: there is no reference.
    """

    rate: RateWatch
    drift: DriftWatch | None

    def __init__(
        self,
        card: Card,
        part: Calibration,
        classifier: Classifier,
        *,
        reference: InputReference | None,
        folder: AuditFolder,
        recorder: Recorder,
        batch_size: int,
        log: Callable[[str], object],
    ) -> None:
        """Go on with what the folder says of this graph.

        Args:
            card: of the graph.
            part: the card's calibration, whose promise is watched.
            classifier: the base classifier f.
            reference: what inputs are compared with; None: they are not.
            folder: that of the server's audit.
            recorder: of this process.
            batch_size: most noisy images in one call of the classifier.
            log: takes what the operator should know.
        """
        self._card, self._part, self._folder = card, part, folder
        self._recorder, self._log = recorder, log
        self._numbers = count()
        self._turn = 0
        self._open = dict[int, Sample]()
        self._found = dict[int, bool | None]()
        """Whether answers overclaim that came after one which is not judged yet; None: that is not known."""
        self._polls = Polls[int, _Judgement](classifier, shape=card.input_shape, batch_size=batch_size)
        self.rate = RateWatch(part.alpha, level=LEVEL)
        self.drift = None
        if reference is not None and part.guard is not None:
            self.drift = DriftWatch(reference.counts, level=LEVEL, rng=np.random.default_rng())
        state = folder.read_state(card)
        if state is not None:
            self.rate.resume(state["rate"])
            if self.drift is not None and state["drift"] is not None:
                self.drift.resume(state["drift"])
        self._told = {alarm.about for alarm in self._alarms()}
        self._kept = time.monotonic()
        for family in (families.SHADOW_JUDGED, families.SHADOW_OVERCLAIMS, families.SHADOW_DROPPED):
            recorder.add(family, card.model, by=0)
        self._show()

    @property
    def is_busy(self) -> bool:
        """Whether answers wait for votes."""
        return len(self._polls) > 0

    def take(self, sample: Sample, image: Float32Array) -> None:
        """Compare an input with the reference and, where its answer has a positive radius, begin to judge it."""
        if explain_pixels(image[None]):
            return
        if self.drift is not None and self._part.guard is not None:
            self.drift.see(input_cells([sample.score], image[None], guard=self._part.guard)[0])
            self._show()
        if sample.radius <= 0:
            return
        if len(self._polls) >= _MOST_OPEN:
            self._recorder.add(families.SHADOW_DROPPED, self._card.model)
            return
        noise: NoiseSource = GRID if self._part.monte_carlo.sampling == GRID.key and GRID.suits(image) else FLOAT32
        fill = noise.copies(image, sigma=self._card.sigma, entropy=np.random.SeedSequence())
        number = next(self._numbers)
        self._polls.open(number, fill, self._test(noise))
        self._open[number] = sample

    def step(self) -> None:
        """Take one batch of votes."""
        for said in self._polls.step():
            if isinstance(said, Failure):
                self._log(f"audit of {self._card.model}: expected votes, found {said.error}")
                self._recorder.add(families.SHADOW_DROPPED, self._card.model)
                del self._open[said.key]
                self._found[said.key] = None
            elif said.is_final:
                self._found[said.key] = self._overclaims(self._open.pop(said.key), said.found)
        while self._turn in self._found:
            self._count(self._found.pop(self._turn))
            self._turn += 1

    def _test(self, noise: NoiseSource) -> Test[Certificate] | Test[Decision]:
        how, sigma = self._part.monte_carlo, self._card.sigma
        left = alpha_left(how.alpha, shape=self._card.input_shape, votes=how.n0 + how.n, sigma=sigma, noise=noise)
        if how.decides is None:
            return certificate(sigma=sigma, n0=how.n0, n=how.n, alpha=left)
        return decision(p=threshold(how.decides, sigma=sigma), n0=how.n0, n=how.n, alpha=left, top_k=1)

    def _overclaims(self, sample: Sample, found: _Judgement) -> bool:
        if isinstance(found, Certificate):
            label, proven = found.label, found.radius
        else:
            label, proven = found.classes[0], (self._part.monte_carlo.decides or 0.0) * bool(found.outcome)
        return label != sample.label or sample.radius > proven

    def _count(self, overclaims: bool | None) -> None:
        if overclaims is None:
            return
        self.rate.see(overclaims)
        self._recorder.add(families.SHADOW_JUDGED, self._card.model)
        self._recorder.add(families.SHADOW_OVERCLAIMS, self._card.model, by=int(overclaims))
        self._show()

    def _alarms(self) -> list[Alarm]:
        found = []
        if self.rate.alarmed:
            found.append(Alarm(self._card.model, "promise", self._problem_of_rate()))
        if self.drift is not None and self.drift.alarmed:
            found.append(Alarm(self._card.model, "inputs", self._problem_of_inputs(self.drift)))
        return found

    def _show(self) -> None:
        """Set the gauges, keep what was seen, and tell of an alarm once."""
        model, alarms = self._card.model, self._alarms()
        about = {alarm.about for alarm in alarms}
        self._recorder.set(families.SHADOW_RATE, self.rate.rate, model)
        self._recorder.set(families.SHADOW_RATE_LOWER, self.rate.lower, model)
        self._recorder.set(families.SHADOW_RATE_UPPER, self.rate.upper, model)
        self._recorder.set(families.SHADOW_ALARM, "promise" in about, model)
        # Also where nothing is compared: a version before this one may have left an alarm of its own there.
        self._recorder.set(families.DRIFT_EVIDENCE, self.drift.evidence if self.drift else 0.0, model)
        self._recorder.set(families.DRIFT_ALARM, "inputs" in about, model)
        if about == self._told and time.monotonic() - self._kept < _KEEP_SECONDS:
            return
        for alarm in alarms:
            if alarm.about not in self._told:
                self._log(alarm.described)
        self._keep(alarms)
        self._told, self._kept = about, time.monotonic()

    def _keep(self, alarms: list[Alarm]) -> None:
        state = {"rate": self.rate.state, "drift": self.drift.state if self.drift else None}
        try:
            if self.rate.alarmed and self._folder.settings.withdraws:
                self._folder.withdrawal(self._card).touch()
            for alarm in alarms:
                self._folder.write_alarm(self._card, alarm)
            self._folder.write_state(self._card, state)
        except OSError as error:  # the disk is full; it is tried again
            self._log(f"audit of {self._card.model}: {error.filename}: {error.strerror}")

    def _problem_of_rate(self) -> str:
        rate = self.rate
        what = (
            "radius 0 is answered from now on"
            if self._folder.settings.withdraws
            else "its radii are served as before, since `--withdraw-on-alarm` is not set"
        )
        return (
            f"expected overclaims of at most {rate.alpha:g} of the positive radii, as its "
            f"card promises, found {rate.successes} of {rate.trials} that Certify judged (at least {rate.lower:.3g} "
            f"and at most {rate.upper:.3g}; such data come with probability at most {LEVEL:g} where the promise "
            f"holds): {what}; calibrate it again on images like those that it gets"
        )

    def _problem_of_inputs(self, drift: DriftWatch) -> str:
        by_statistic = drift.by_statistic
        name = max(by_statistic, key=lambda statistic: by_statistic[statistic])
        return (
            f"expected inputs like its calibration images, found {drift.seen} whose {name} differs (such data come "
            f"with probability at most {LEVEL:g} where they are alike): its promise is about inputs like those; look "
            "at what is sent"
        )
