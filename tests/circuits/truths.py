"""All hand-built models, on every host that can load them."""

from functools import cache

from tests.circuits.truth import Truth
from tests.circuits.truths_of_attention import (
    feature_driven_query,
    grouped_query_attention,
    induction,
    softmax_saturation,
)
from tests.circuits.truths_of_features import (
    and_gate,
    backup,
    cancellation,
    jumprelu_saturation,
    linear_chain,
    relu_saturation,
)
from tests.circuits.truths_of_norms import (
    post_norm,
    rms_norm,
)


@cache
def truths() -> list[Truth]:
    """All of them."""
    return [
        linear_chain(skip=False),
        linear_chain(skip=True),
        induction(),
        feature_driven_query(),
        and_gate(),
        backup(),
        cancellation(),
        softmax_saturation(),
        relu_saturation(),
        jumprelu_saturation(),
        rms_norm(balanced=True),
        rms_norm(balanced=False),
        grouped_query_attention(),
        post_norm(),
    ]


TRUTHS = [(truth, host) for truth in truths() for host in truth.hosts]
