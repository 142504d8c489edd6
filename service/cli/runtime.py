"""What the sub-commands share: settings, definitions, ports, and their errors in plain words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from graders import registry
from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import DefinitionError, Finding, GraderError, RegistryError
from graders.ports import Ports
from graders.registry import BrokenDefinitionsError, Definition, Registry
from graders.sample import JsonValue
from graders.schema import Multi, Python
from graders.wording import placed
from service.auth import KeysError
from service.cli.failures import CommandError
from service.cli.rows import not_json
from service.settings import Settings, SettingsError, environment

if TYPE_CHECKING:
    from service.judge import Routes


@contextlib.asynccontextmanager
async def open_ports(settings: Settings, grader: CompiledGrader) -> AsyncIterator[Ports]:
    """Yield what ``grader`` asks outside of this process.

    Raises:
        CommandError: The settings name something that cannot be used.
    """
    if grader.is_pure:
        yield Ports()
        return
    from service import adapters  # noqa: PLC0415 - brings every client library along

    if not _has_python(grader):
        settings = msgspec.structs.replace(settings, sandbox="off")  # nothing to start
    async with contextlib.AsyncExitStack() as stack:
        try:
            built = adapters.build_adapters(settings)
            await stack.enter_async_context(adapters.running(built))
        except (adapters.AdapterError, GraderError) as error:
            raise CommandError(str(error)) from error
        yield built.ports


def _has_python(grader: CompiledGrader) -> bool:
    definition = grader.grader
    parts = definition.graders.values() if isinstance(definition, Multi) else [definition]
    return any(isinstance(part, Python) for part in parts)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what settings, keys and definitions raise into a `CommandError`."""
    try:
        yield
    except SettingsError as error:
        raise CommandError(*error.problems) from error
    except BrokenDefinitionsError as error:
        raise CommandError("the definitions cannot be used:", *str(error).split("\n")) from error
    except (KeysError, RegistryError) as error:
        raise CommandError(str(error)) from error


def read_settings(*, runner: bool = False) -> Settings:
    """Return the settings of the environment; a runner refuses those that are not its own.

    Raises:
        CommandError: They cannot be used.
    """
    with explained():
        return Settings.from_environment(runner=runner)


def read_routes(settings: Settings) -> Routes:
    """Return where judge models lead.

    Raises:
        CommandError: The routes file cannot be used.
    """
    from service.judge import RoutesError, load_routes  # noqa: PLC0415 - not every command needs it

    try:
        return load_routes(settings.judge_routes_file or None, environment())
    except RoutesError as error:
        raise CommandError(str(error)) from error


def compile_options(settings: Settings) -> Options:
    """Return how definitions are compiled here: as the service does."""
    from service.adapters import engine_options  # noqa: PLC0415 - not every command needs it

    return engine_options(settings)


def load_registry(settings: Settings, directory: Path | None = None) -> Registry:
    """Return the definitions in ``directory``, or those that the settings name.

    Raises:
        CommandError: A definition cannot be used.
    """
    from service.adapters import definition_directories  # noqa: PLC0415 - as above

    with explained():
        directories = [directory] if directory else definition_directories(settings)
        return registry.load(directories, compile_options(settings))


def is_file_argument(grader: str) -> bool:
    """Return whether a grader argument names a file instead of a definition."""
    return grader.endswith(".json") or "/" in grader


def find(grader: str, settings: Settings, directory: Path | None = None) -> Definition:
    """Return the definition that ``NAME`` or ``NAME@VERSION`` names, as `load_registry` finds it.

    Raises:
        CommandError: There is none.
    """
    name, _, version = grader.partition("@")
    loaded = load_registry(settings, directory)
    with explained():
        return loaded.get(name, version or registry.LATEST)


def read_document(path: Path) -> JsonValue:
    """Return the JSON in a file.

    Raises:
        CommandError: There is no such file, or it cannot be read.
        DefinitionError: It is not JSON.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        finding = Finding(pointer="", message=not_json(error), code="invalid_json")
        raise DefinitionError([finding]) from error


def compile_file(path: Path, settings: Settings) -> CompiledGrader:
    """Return the grader in a file; one without a name is called after the file.

    Raises:
        CommandError: The file cannot be read or used.
    """
    try:
        document = read_document(path)
        if isinstance(document, dict):
            document = {"name": path.stem, **document}
        return compile_grader(document, compile_options(settings), purpose="store")
    except DefinitionError as error:
        lines = [finding_line(path, f) for f in error.findings if f.severity == "error"]
        raise CommandError("the definition cannot be used:", *lines) from error


def finding_line(path: Any, finding: Finding) -> str:  # noqa: ANN401 - a path or a name
    """Return a finding with its place."""
    return f"{placed(path, finding.pointer)}: {finding.message}"
