"""Where images for judges may lie: the upstream fetches what a call names, from its own network.

A template may put a sample's text where an image's URL belongs, and many an upstream stands beside
other services of ours. So a URL must be a public one of http or https, or the image itself
(``data:``): no address of a private network however it is written, nor this machine's name. What
other names resolve to only the upstream knows; its egress is for a network policy to bound.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from typing import Final
from urllib.parse import urlsplit

from graders.errors import JudgeUnavailableError
from graders.ports import JudgeCall
from service.endpoint_caller import AddressRefusedError, AddressRule

_AMBIGUOUS: Final = re.compile(r"[\x00-\x20\x7f\\]")  # parsers differ about these
_LOCAL: Final = "localhost"


def check_images(call: JudgeCall, rule: AddressRule) -> None:
    """Return if every image of ``call`` lies where it may.

    Raises:
        JudgeUnavailableError: One does not; trying again cannot help.
    """
    for message in call.messages:
        content = message["content"]
        if isinstance(content, str):
            continue
        for part in content:
            if part["type"] == "image_url" and not _is_public(part["image_url"]["url"], rule):
                raise JudgeUnavailableError(
                    "an image for the judge is at no public http or https address, and holds no "
                    "image itself (data:)",
                    retryable=False,
                    kind="image_refused",
                )


def _is_public(url: str, rule: AddressRule) -> bool:
    if url[:5].lower() == "data:":
        return True
    if _AMBIGUOUS.search(url):
        return False
    try:
        parts = urlsplit(unicodedata.normalize("NFKC", url))
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or not host:
        return False
    try:
        if host == _LOCAL or host.endswith(f".{_LOCAL}"):
            rule.check("127.0.0.1")
        elif (address := _address(host)) is not None:
            rule.check(address)
    except AddressRefusedError:
        return False
    return True


def _address(host: str) -> str | None:
    """Return the address that ``host`` is, in its canonical form; None for a name."""
    if ":" in host:
        return host
    try:
        # Takes 127.1, 0x7f.0.0.1 and 2130706433 as well, as C libraries do.
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
