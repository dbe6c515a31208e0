"""Published protocols by name, each rewritten from its rules with its defects. Ours is none of them."""

from collections.abc import Mapping
from types import MappingProxyType

from radvqa.evaluate.protocols.inspect_evals import INSPECT_EVALS
from radvqa.evaluate.protocols.llava_med import LLAVA_MED_BATCH, LLAVA_MED_PRE_FIX, LLAVA_MED_RUN_EVAL
from radvqa.evaluate.protocols.lmms_eval import LMMS_EVAL_SLAKE
from radvqa.evaluate.protocols.medevalkit import MEDEVALKIT_SLAKE, MEDEVALKIT_VQA_RAD
from radvqa.evaluate.protocols.medvint import MEDVINT
from radvqa.evaluate.protocols.multimedeval import MULTIMEDEVAL
from radvqa.evaluate.protocols.mumc import MUMC, MUMC_RELEASED
from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.evaluate.protocols.token_f1 import MEDGEMMA_TOKEN_F1
from radvqa.evaluate.protocols.vlmevalkit import VLMEVALKIT

__all__ = ["PROTOCOLS", "Metric", "Protocol", "mean_metric"]

_ALL: tuple[Protocol, ...] = (
    LLAVA_MED_RUN_EVAL,
    LLAVA_MED_PRE_FIX,
    LLAVA_MED_BATCH,
    MEDEVALKIT_SLAKE,
    MEDEVALKIT_VQA_RAD,
    LMMS_EVAL_SLAKE,
    VLMEVALKIT,
    MUMC,
    MUMC_RELEASED,
    MULTIMEDEVAL,
    MEDVINT,
    MEDGEMMA_TOKEN_F1,
    INSPECT_EVALS,
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""In the order of the tables."""
