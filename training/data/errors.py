"""The error of data sets and image files, without torch: a client raises it too."""

from __future__ import annotations

from heatserve.certification.errors import HeatserveError


class DataError(HeatserveError):
    """A data set, a split, a folder or an image file is missing or not what was expected."""
