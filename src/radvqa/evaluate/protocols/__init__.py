"""Published protocols by name, each rewritten from its rules with its defects. Ours is none of them."""

from collections.abc import Mapping
from types import MappingProxyType

from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric

__all__ = ["PROTOCOLS", "Metric", "Protocol", "mean_metric"]

_ALL: tuple[Protocol, ...] = ()

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""In the order of the tables."""
