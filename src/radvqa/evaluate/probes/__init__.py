"""Probes: further questions about the same pictures that show whether answers hang together.

Each asks for answers through ``ask`` and returns a ``ProbeResult``. Paraphrases need no further questions: see
``radvqa.evaluate.consistency``.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from radvqa.evaluate.probes.absent import absent
from radvqa.evaluate.probes.contradiction import contradiction
from radvqa.evaluate.probes.dialogue import dialogue
from radvqa.evaluate.probes.mirror import mirror
from radvqa.evaluate.probes.order import order
from radvqa.evaluate.probes.result import Ask, ProbeResult
from radvqa.sample import Prediction, VqaSample

__all__ = ["PROBES", "Ask", "ProbeResult"]

PROBES: Mapping[str, Callable[[Sequence[VqaSample], Sequence[Prediction], Ask], ProbeResult]] = MappingProxyType(
    {"contradiction": contradiction, "mirror": mirror, "absent": absent, "order": order, "dialogue": dialogue}
)
"""From samples and their predictions on the real pictures (same order) to what the probe found."""
