"""One synthetic radiograph: bones as hollow tubes in space (cm), projected, shaded by path length, exposed.

Extremity, body, finding and a generator go in; grey pixels and the finding's box come out. Only `+ - * /`,
square roots and integers touch the pixels, so that a seed gives the same picture on every machine.
"""

from mura.data.radiograph.findings import KINDS, Body, Finding, new_body, new_finding
from mura.data.radiograph.picture import Radiograph, draw_radiograph

__all__ = ["KINDS", "Body", "Finding", "Radiograph", "draw_radiograph", "new_body", "new_finding"]
