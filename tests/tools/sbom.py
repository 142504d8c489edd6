"""Write a bill of materials (CycloneDX JSON) of what each of our images installs.

Everything comes from the locks: names, versions and the digests of the files that pip may install;
licences and dependencies from the metadata of what is installed here, where it is. The same locks
give the same bytes.

    python -m tests.tools.sbom build/sbom
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service import __version__
from tests.tools.licences import declared_licence
from tests.tools.locks import Pin, read_pins

ROOT: Final = Path(__file__).parents[2]
LICENCE: Final = "Apache-2.0"


def subjects() -> dict[str, Path]:
    """Return what there is a bill of, and the lock that says what is in it."""
    requirements = {"gradekeeper": "serve.txt", "gradekeeper-runner": "runner.txt"}
    found = {name: ROOT / "requirements" / lock for name, lock in requirements.items()}
    for lock in sorted((ROOT / "service" / "sandbox" / "images").glob("*/[fm]*.txt")):
        found[f"graders-{lock.parent.name}-{lock.stem}"] = lock
    return {name: lock for name, lock in found.items() if lock.exists()}


def bill(name: str, pins: Iterable[Pin]) -> str:
    """Return the bill of ``name``, which installs ``pins``."""
    pins = sorted((pin for pin in pins if pin.is_for_here), key=lambda pin: pin.name)
    licences = LicenseFactory()
    product = Component(
        name=name,
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=name,
        licenses=[licences.make_with_expression(LICENCE)],
    )
    parts = {pin.name: _part(pin, licences) for pin in pins}
    contents = "\n".join(f"{pin.name}=={pin.version} {','.join(pin.sha256)}" for pin in pins)
    bom = Bom(components=parts.values(), serial_number=uuid5(NAMESPACE_URL, f"{name}\n{contents}"))
    bom.metadata.component = product
    bom.metadata.timestamp = None  # type: ignore[assignment] # the same locks give the same bytes
    needed = _needed(pins)
    wanted = {need for needs in needed.values() for need in needs}
    bom.register_dependency(product, [parts[part] for part in parts if part not in wanted])
    for part, needs in needed.items():
        bom.register_dependency(parts[part], [parts[need] for need in sorted(needs)])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _part(pin: Pin, licences: LicenseFactory) -> Component:
    purl = PackageURL("pypi", name=pin.name, version=pin.version)
    about = _installed(pin)
    declared = declared_licence(about.metadata) if about is not None else ""
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.sha256],
        licenses=[licences.make_from_string(declared)] if declared else [],
    )


def _installed(pin: Pin) -> Distribution | None:
    """Return what is installed here of this very version."""
    try:
        found = distribution(pin.name)
    except PackageNotFoundError:
        return None
    return found if found.version == pin.version else None


def _needed(pins: Sequence[Pin]) -> dict[str, set[str]]:
    """Return what each of ``pins`` needs of the others, with the extras that anybody asks for."""
    requires = {
        pin.name: [Requirement(line) for line in (about.requires if about else None) or ()]
        for pin in pins
        for about in [_installed(pin)]
    }
    extras: dict[str, set[str]] = {name: {""} for name in requires}
    for asked in map(Requirement, distribution("gradekeeper").requires or ()):
        extras.get(canonicalize_name(asked.name), set()).update(asked.extras)
    needed: dict[str, set[str]] = {name: set() for name in requires}
    settled = False
    while not settled:
        settled = True
        for name, requirements in requires.items():
            for need in requirements:
                part = canonicalize_name(need.name)
                if part in needed and _applies(need, extras[name]):
                    settled = settled and part in needed[name] and need.extras <= extras[part]
                    needed[name].add(part)
                    extras[part] |= need.extras
    return needed


def _applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": name}) for name in extras)


def main(folder: str) -> int:
    """Write every bill into ``folder``."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    for name, lock in subjects().items():
        file = home / f"{name}.cdx.json"
        file.write_text(bill(name, read_pins(lock.read_text("utf-8"))), "utf-8")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
