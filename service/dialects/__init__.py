"""One trainer or tool, one file: request → rows, results → answer, failures → its convention.

Pure: no sockets, no framework, no clock. `service.endpoints.rewards` does the HTTP.
"""

from service.dialects import (
    aws,
    azure_endpoint,
    eval_protocol,
    google,
    langfuse,
    nemo_gym,
    openrlhf,
    promptfoo,
    roll,
    slime,
)
from service.dialects.contract import Dialect

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT
    for module in (
        openrlhf,
        slime,
        nemo_gym,
        azure_endpoint,
        aws,
        google,
        promptfoo,
        langfuse,
        eval_protocol,
        roll,
    )
}

__all__ = ["DIALECTS", "Dialect"]
