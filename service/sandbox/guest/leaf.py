"""One call of one grader, in a process of its own that is already locked down.

Nothing the grader does to its interpreter may change how its result is read: what is needed after
user code has run is bound before, and only a type and one exact double cross the pipe, beside
bounded texts. The frame is binary (`FRAME`), so that the supervisor never parses anything a grader
composed.
"""

from __future__ import annotations

import ast
import builtins
import gc
import io
import json
import linecache
import marshal
import os
import random
import struct
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FRAME = struct.Struct("=4sBdIII")
MAGIC = b"GKR1"
VALUE, BAD_VALUE, EXCEPTION, MEMORY = 1, 2, 3, 4
RESULT_FD = 3
FILENAME = "grader.py"
MODULE = "grader"
MAX_MESSAGE_CHARS = 500
MAX_DETAILS_BYTES = 4096
_MAX_FRAMES = 8
_MAX_CAUSES = 3
_CAUSED = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
_SOURCE_LENGTH = struct.Struct("=I")


class Capture(io.RawIOBase):
    """A binary stream that keeps the first ``limit`` bytes and counts the rest.

    Attributes:
        kept: What is kept, in order.
    """

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes."""
        super().__init__()
        self.kept: list[bytes] = []
        self._left = limit

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Keep what fits and return the length of all of it."""
        size = memoryview(data).nbytes
        if self._left > 0:
            self.kept.append(bytes(data[: self._left]))
            self._left -= size
        return size


def pack(kind: int, value: float, details: bytes, stdout: bytes, stderr: bytes) -> bytes:
    """Return one result frame."""
    return (
        FRAME.pack(MAGIC, kind, value, len(details), len(stdout), len(stderr))
        + details
        + stdout
        + stderr
    )


def read_all(fd: int) -> bytes:
    """Return the whole content of a memfd, whatever its shared offset is."""
    size = os.fstat(fd).st_size
    whole = os.pread(fd, size, 0)
    while len(whole) < size:  # one read returns 2 GB at most
        part = os.pread(fd, size - len(whole), len(whole))
        if not part:
            break
        whole += part
    return whole


def text_of(source: bytes) -> str:
    """Return the text of a source file; editors put a mark before some."""
    return source.decode("utf-8-sig")


def write_frame(frame: bytes) -> None:
    """Write ``frame`` to the result pipe, however many writes it takes."""
    view = memoryview(frame)
    while view:
        view = view[os.write(RESULT_FD, view) :]


def compile_source(source: bytes) -> bytes:
    """Return the frame that answers a compile call.

    On success its details are the imported top-level names, comma-separated, and its stdout the
    code object, marshalled, with the source for tracebacks behind it.
    """
    try:
        text = text_of(source)
        tree = ast.parse(text, FILENAME)
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
        code = marshal.dumps(compile(tree, FILENAME, "exec", dont_inherit=True, optimize=0))
    except SyntaxError as error:
        where = f"{FILENAME}, line {error.lineno}: " if error.lineno else ""
        shown = f"    {(error.text or '').strip()[:MAX_MESSAGE_CHARS]}\n" if error.text else ""
        text = f"{shown}{type(error).__name__}: {where}{error.msg}"
        return pack(EXCEPTION, 0.0, text.encode(errors="replace"), b"", b"")
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        text = f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]
        return pack(EXCEPTION, 0.0, text.encode(errors="replace"), b"", b"")
    imported = ",".join(sorted(names)).encode(errors="replace")
    return pack(VALUE, 0.0, imported, _SOURCE_LENGTH.pack(len(code)) + code + source, b"")


def prepare_interpreter(seed: int | None) -> None:
    """Give this process its own randomness and garbage collector."""
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        vars(tempfile)["tempdir"] = None
    numpy_random = sys.modules.get("numpy.random")
    if seed is not None:
        _seed_random(seed)
        if numpy_random is not None:
            _seed_numpy(numpy_random, seed)
        else:
            sys.meta_path.insert(0, _SeedOnImport(seed))  # type: ignore[arg-type]
    elif numpy_random is not None:
        # Sixteen random bytes of our own: asking for none costs half a millisecond of entropy.
        numpy_random.seed(struct.unpack("=4I", os.urandom(16)))
    gc.enable()


def _seed_random(seed: int) -> None:
    """Seed the module's generator, and those that are made or seeded without a seed later."""
    random.seed(seed)
    seeds, seed_with = random.Random(seed), random.Random.seed  # noqa: S311

    def seeded(self: random.Random, a: object = None, version: int = 2) -> None:
        seed_with(self, seeds.getrandbits(128) if a is None else a, version)  # type: ignore[arg-type]

    random.Random.seed = seeded  # type: ignore[method-assign]
    random.seed = random._inst.seed  # noqa: SLF001


def _seed_numpy(numpy_random: types.ModuleType, seed: int) -> None:
    numpy_random.seed([seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
    # Unseeded default_rng() and SeedSequence() draw from this name of theirs.
    sys.modules["numpy.random.bit_generator"].randbits = random.Random(seed).getrandbits  # type: ignore[attr-defined]  # noqa: S311


class _SeedOnImport:
    """A finder that finds nothing itself, but seeds numpy.random when that gets imported late."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: object = None,  # noqa: ARG002
    ) -> object:
        """Return numpy.random's own spec with seeding added, None for any other module."""
        if name != "numpy.random":
            return None
        import importlib.machinery  # noqa: PLC0415 - already loaded by the import system

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_seed(module: types.ModuleType) -> None:
            load(module)
            _seed_numpy(module, self._seed)

        spec.loader.exec_module = load_and_seed  # type: ignore[method-assign]
        return spec


class Runner:
    """What a call needs around its grader, made in the zygote before any grader is known.

    Every page that a leaf touches costs, so the less a leaf has to make, the better.
    """

    def __init__(self, max_output_bytes: int) -> None:
        """Take over this process's standard streams.

        Args:
            max_output_bytes: Kept of each.
        """
        out, err = Capture(max_output_bytes), Capture(max_output_bytes)
        self._report = _Reporter(out, err)
        sys.stdout = io.TextIOWrapper(out, "utf-8", "backslashreplace", write_through=True)
        sys.stderr = io.TextIOWrapper(err, "utf-8", "backslashreplace", write_through=True)
        # Asked for its lines, linecache asks for the source: most graders never show theirs.
        linecache.cache[FILENAME] = (self._report.text,)
        self._decode = json.JSONDecoder().raw_decode
        module = types.ModuleType(MODULE)
        module.__file__ = FILENAME
        self._module = module

    def run(self, program: bytes, payload: bytes) -> Callable[[], bytes]:
        """Run a grader, once, and return a function that makes the frame of its result.

        Args:
            program: What `compile_source` put into stdout.
            payload: JSON text ``{"sample": …, "item": …}``.
        """
        report, module = self._report, self._module
        (length,) = _SOURCE_LENGTH.unpack_from(program)
        end = _SOURCE_LENGTH.size + length
        report.source = program[end:]
        try:
            code = marshal.loads(program[_SOURCE_LENGTH.size : end])  # noqa: S302 - we are the box
            call, _ = self._decode(payload.decode())
            sys.modules[MODULE] = module
            exec(code, module.__dict__)  # noqa: S102 - what this process is for
            grade = module.__dict__.get("grade")
            if grade is None or not callable(grade):
                return report.no_grade()
            value = grade(call["sample"], call["item"])
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are results too
            return report.raised(error)
        return report.returned(value)


class _Reporter:
    """Makes frames with nothing but what was bound before user code ran."""

    def __init__(self, out: Capture, err: Capture) -> None:
        self._out, self._err = out.kept, err.kept
        self.source = b""
        self._pack, self._str, self._type, self._len = (
            pack,
            builtins.str,
            builtins.type,
            builtins.len,
        )
        self._isinstance, self._float, self._int = builtins.isinstance, builtins.float, builtins.int
        self._base_exception, self._memory_error = builtins.BaseException, builtins.MemoryError
        self._overflow = builtins.OverflowError
        # What a subclass says about itself is not asked.
        own = vars(builtins.BaseException)
        self._cause, self._context, self._suppressed, self._steps = (
            own[name].__get__
            for name in ("__cause__", "__context__", "__suppress_context__", "__traceback__")
        )

    def text(self) -> str:
        """Return the source."""
        return text_of(self.source)

    def _frame(self, kind: int, value: float, details: str) -> Callable[[], bytes]:
        text = details.encode(errors="replace")
        if self._len(text) > MAX_DETAILS_BYTES:
            text = b"..." + text[3 - MAX_DETAILS_BYTES :]
        frame = self._pack(kind, value, text, b"".join(self._out), b"".join(self._err))
        return lambda: frame

    def no_grade(self) -> Callable[[], bytes]:
        return self._frame(EXCEPTION, 0.0, "the source defines no callable named grade")

    def returned(self, value: object) -> Callable[[], bytes]:
        isinstance_, exact, type_ = self._isinstance, None, self._type(value)
        try:
            if isinstance_(value, self._float):
                exact = self._float.__float__(value)  # type: ignore[arg-type]
            elif isinstance_(value, self._int):
                exact = self._int.__float__(value)  # type: ignore[arg-type]
            elif self._is_numpy_number(type_):
                exact = self._float(value)  # type: ignore[arg-type]
        except self._overflow:
            return self._frame(
                BAD_VALUE, 0.0, f"grade returned an {self._name(type_)} too large for a float"
            )
        except self._base_exception as error:
            return self.raised(error)
        if self._type(exact) is not self._float:
            return self._frame(BAD_VALUE, 0.0, f"grade returned {self._name(type_)}, not a number")
        return self._frame(VALUE, exact, "")  # type: ignore[arg-type]

    def _is_numpy_number(self, type_: type) -> bool:
        return any(
            base.__module__ == "numpy" and base.__name__ in ("bool", "bool_", "integer", "floating")
            for base in type_.__mro__
        )

    def _name(self, type_: type) -> str:
        try:
            return self._str(self._type.__dict__["__name__"].__get__(type_))[:100]
        except self._base_exception:
            return "an object"

    def raised(self, error: BaseException) -> Callable[[], bytes]:
        kind = MEMORY if self._isinstance(error, self._memory_error) else EXCEPTION
        return self._frame(kind, 0.0, self._earlier(error) + self._described(error))

    def _earlier(self, error: BaseException) -> str:
        """Return the exceptions that led to ``error``, the first first, as Python shows them."""
        parts: list[str] = []
        while self._len(parts) < _MAX_CAUSES:
            cause, joint = self._cause(error), _CAUSED
            if cause is None and not self._suppressed(error):
                cause, joint = self._context(error), _DURING
            if cause is None:
                break
            parts.insert(0, f"{self._described(cause)}\n\n{joint}\n\n")
            error = cause
        return "".join(parts)

    def _described(self, error: BaseException) -> str:
        try:
            message = self._str(error)[:MAX_MESSAGE_CHARS]
        except self._base_exception:
            message = "<unprintable>"
        name = self._name(self._type(error))
        last = f"{name}: {message}" if message else name
        return self._traceback(error) + last

    def _traceback(self, error: BaseException) -> str:
        frames = []
        # Not splitlines: a form feed does not end a line of Python.
        lines = self.text().replace("\r\n", "\n").replace("\r", "\n").split("\n")
        step = self._steps(error)
        while step is not None:
            code = step.tb_frame.f_code
            if code.co_filename == FILENAME:
                number = step.tb_lineno or 0
                line = lines[number - 1].strip()[:200] if 0 < number <= self._len(lines) else ""
                frames.append(
                    f'  File "{FILENAME}", line {number}, in {code.co_name}\n    {line}\n'
                )
            step = step.tb_next
        if not frames:
            return ""
        if self._len(frames) > _MAX_FRAMES:
            half = _MAX_FRAMES // 2
            frames[half:-half] = [f"  ... {self._len(frames) - _MAX_FRAMES} more\n"]
        return "Traceback (most recent call last):\n" + "".join(frames)
