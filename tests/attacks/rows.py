"""The attack list as data. Ids as in the design's list; every row is a grader and what must come of it.

A row expects ``blocked`` (the grader saw each of its attempts refused and returns 1.0), a number, or one of
several outcomes. ``item`` holds the targets that the driver sets up (`driver.Targets`).
"""

from __future__ import annotations

import msgspec

BLOCKED = "value 1.0"
OWN_FAILURE = ("exception", "no_result", "memory", "timeout", "bad_value", "output")


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """One hostile grader.

    Attributes:
        id: Row of the attack list, with a letter where a row is several programs.
        source: The grader, after `prelude`.
        expect: Allowed results: outcomes, or ``value`` with the number.
        processes: What is expected instead under the profile that allows children; None for the same.
        without_mounts: What is expected instead without a mount namespace; None for the same.
        afterwards: A grader that looks for traces in the next call, and returns 1.0 when there is none.
        differs: Whether a second run must give another value.
        full: Whether it needs the full image.
    """

    id: str
    source: str
    expect: tuple[str, ...] = (BLOCKED,)
    processes: tuple[str, ...] | None = None
    without_mounts: tuple[str, ...] | None = None
    afterwards: str = ""
    differs: bool = False
    full: bool = False


_PRELUDE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
DENIED = {errno.EPERM, errno.EACCES, errno.ENOSYS, ABSENT}
def refused(function, *args):
    try:
        function(*args)
    except OSError as error:
        # Any other errno means that the kernel got as far as looking at the arguments.
        if error.errno in DENIED:
            return True
        raise
    return False
def all_refused(*calls):
    through = []
    for i, (function, *args) in enumerate(calls):
        try:
            if not refused(function, *args):
                through.append(i)
        except Exception as error:
            through.append((i, repr(error)))
    if through:
        raise AssertionError(f"got through: {through}")
    return 1.0
def syscall(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""


def prelude(*, names_hidden: bool) -> str:
    """Return what stands before every attack.

    Args:
        names_hidden: Whether foreign files and processes have no name in there at all.
    """
    absent = "*(errno.ENOENT, errno.ESRCH, errno.EROFS)" if names_hidden else "errno.EPERM"
    return _PRELUDE.replace("ABSENT", absent)


_G = "def grade(sample, item):\n    "

# A fork bomb runs into the zygote's count of its family, or first into the kernel's of its user.
_COUNTED = ("output", "exception")


def _blocked(id_: str, *calls: str, before: str = "", full: bool = False) -> Attack:
    body = "".join(f"    {line}\n" for line in before.splitlines())
    listed = ", ".join(f"({call})" for call in calls)
    return Attack(
        id=id_,
        source=f"def grade(sample, item):\n{body}    return all_refused({listed},)\n",
        full=full,
    )


NETWORK = (
    _blocked(
        "N01", "socket.create_connection, ('127.0.0.1', item['tcp']), 1", before="import socket"
    ),
    _blocked(
        "N02",
        "lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', item['udp'])),",
        before="import socket",
    ),
    Attack(
        id="N03",
        source="import socket\n" + _G + "try:\n        socket.getaddrinfo('example.com', 80)\n"
        "    except socket.gaierror:\n        return 1.0\n    return 0.0\n",
    ),
    _blocked("N04", "lambda: socket.socket(1, 1).connect(item['unix']),", before="import socket"),
    _blocked(
        "N05", "lambda: socket.socket(1, 1).connect(item['abstract']),", before="import socket"
    ),
    _blocked(
        "N05b",
        "lambda: socket.socketpair(1, 2)[0].sendto(b'x', item['unix']),",
        before="import socket",
    ),
    _blocked(
        "N05c",
        "socket.socketpair()[0].connect, item['unix']",
        "socket.socketpair()[0].sendto, b'x', item['abstract']",
        "lambda: socket.send_fds(socket.socketpair()[0], [b'x'], [0]),",
        before="import socket",
    ),
    _blocked("N06", "lambda: socket.create_server(('127.0.0.1', 0)),", before="import socket"),
    _blocked(
        "N07",
        *(
            f"syscall, item['nr']['socket'], {family}, {kind}, {protocol}"
            for family, kind, protocol in (
                (16, 3, 0),
                (38, 5, 0),
                (40, 1, 0),
                (2, 3, 1),
                (17, 3, 0),
                (10, 1, 0),
                (30, 5, 0),
                (44, 3, 0),
            )
        ),
    ),  # fmt: skip  # noqa: RUF028
    _blocked(
        "N08",
        *(f"syscall, {number}, 8, ctypes.create_string_buffer(120)" for number in (425, 426, 427)),
    ),
    Attack(
        id="N09",
        source="import mmap\n" + _G + "page = mmap.mmap(-1, 4096, prot=7)\n"
        "    page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n    return 0.0\n",
        expect=("no_result",),
    ),
    Attack(
        id="N10",
        source=_G + "libc.syscall(ctypes.c_long(0x40000000 + 39))\n    return 0.0\n",
        expect=("no_result",),
    ),
)

FILES = (
    _blocked("F01", "open, '/etc/shadow'", "open, '/etc/hostname'", "open, item['public']"),
    _blocked("F02", "open, item['private']", "os.open, item['private'], os.O_RDONLY"),
    Attack(
        id="F03",
        source=_G + "for path in ('/', '/home', '/var', '/root', item['folder']):\n"
        "        try:\n            names = os.listdir(path)\n        except OSError:\n            continue\n"
        "        if path != '/' or 'var' in names:\n            return 0.0\n    return 1.0\n",
    ),
    _blocked("F04", "open, item['folder'] + '/planted', 'w'", "open, item['public'], 'a'", "os.mkdir, item['folder'] + '/d'",
             "os.unlink, item['public']", "os.rename, item['public'], item['folder'] + '/renamed'"),
    Attack(
        id="F05",
        source=_G + "for attack in (lambda p: os.chmod(p, 0o777), lambda p: os.utime(p, (1, 1)), lambda p: os.truncate(p, 0),\n"
        "                   lambda p: os.chown(p, 1, 1), lambda p: os.setxattr(p, 'user.x', b'1')):\n"
        "        for path in (item['public'], item['private']):\n"
        "            try:\n                attack(path)\n            except OSError:\n                pass\n    return 1.0\n",
    ),
    Attack(
        id="F06",
        source=_G + "names = []\n    for make, name in ((os.symlink, 's'), (os.link, 'h')):\n"
        "        try:\n            make(item['private'], name)\n            names.append(name)\n        except OSError:\n            pass\n"
        "    return all_refused(*((open, name) for name in names))\n",
    ),
    _blocked("F07", "os.listdir, os.path.join('..', '0' if not os.getcwd().endswith('/0') else '1')",
             "os.listdir, '..'", "open, '../zygote/x', 'w'"),
    _blocked("F08", "open, '/dev/shm/x', 'w'", "open, '/tmp/x', 'w'", "open, '/var/tmp/x', 'w'"),
    Attack(id="F09", source="import tempfile\n" + _G + "open('own', 'w').write('x' * 100)\n"
           "    with tempfile.NamedTemporaryFile() as file:\n        file.write(b'x')\n    os.makedirs('a/b/c')\n"
           "    os.rename('own', 'a/moved')\n    return float(len(open('a/moved').read()) == 100)\n"),
    _blocked(
        "F10",
        "syscall, item['nr']['mount'], b'none', b'.', b'tmpfs', 0, 0", "syscall, item['nr']['unshare'], 0x10000000",
        "syscall, item['nr']['unshare'], 0x40000000", "os.chroot, '.'",
        "syscall, item['nr']['pivot_root'], b'.', b'.'", "syscall, item['nr']['setns'], 0, 0",
        "syscall, item['nr']['open_tree'], -100, b'/', 1",
    ),
    _blocked("F11", "syscall, item['nr']['open_by_handle_at'], -100, ctypes.create_string_buffer(136), 0",
             "syscall, item['nr']['name_to_handle_at'], -100, b'/', ctypes.create_string_buffer(136), 0, 0"),
    # Residual without a mount namespace: existence and size can be seen (1.0), contents cannot.
    Attack(id="F12", source=_G + "try:\n        os.stat(item['public'])\n    except OSError:\n        return 1.0\n    return 0.25\n",
           without_mounts=("value 0.25",)),
    _blocked("F13", "os.open, '/proc/self/root' + item['private'], 0", "os.listdir, '/proc/1/root/home'",
             "os.open, '/proc/self/cwd/../../../../../../../' + item['private'], 0"),
    # Directories without rights, now and then links to a file that the service may change: what gives itself
    # rights to the one must not do so to the other.
    Attack(id="F15", source=_G + "import time\n    names = range(600)\n    for n in names:\n        os.mkdir(f'd{n}', 0)\n"
           "        os.symlink(item['public'], f's{n}')\n    pairs = [(f'd{n}'.encode(), f's{n}'.encode()) for n in names]\n"
           "    before, end = os.stat(item['public']).st_mode if os.path.exists(item['public']) else 0, time.time() + 2\n"
           "    while time.time() < end:\n        for d, s in pairs * 20:\n            libc.renameat2(-100, d, -100, s, 2)\n"
           "        for d, _ in pairs:\n            os.rmdir(d)\n            os.mkdir(d, 0)\n"
           "        if before and os.stat(item['public']).st_mode != before:\n            return 0.0\n    return 1.0\n"),
    _blocked("F14", "os.mknod, 'device', 0o20666, os.makedev(1, 1)", "os.mkfifo, 'pipe'"),
)  # fmt: skip

PROCESSES = (
    _blocked("P01", "open, '/proc/1/environ' if os.getpid() != 1 else '/nowhere', 'rb'"),
    _blocked("P02", "open, f\"/proc/{item['pid']}/environ\", 'rb'", "open, f\"/proc/{os.getppid()}/environ\", 'rb'"),
    Attack(id="P03", source=_G + "text = repr(dict(os.environ))\n    try:\n        text += open('/proc/self/environ').read()\n"
           "    except OSError:\n        pass\n    return float('SECRET' not in text)\n"),
    _blocked("P04", "open, f\"/proc/{os.getppid()}/mem\", 'rb'", "open, f\"/proc/{item['pid']}/mem\", 'rb'",
             "open, f\"/proc/{item['pid']}/maps\""),
    _blocked("P05", "os.listdir, f\"/proc/{item['pid']}/fd\"", 'os.listdir, f"/proc/{os.getppid()}/fd"',
             "os.listdir, f\"/proc/{item['pid']}/cwd/\""),
    _blocked("P06", *(f"syscall, item['nr']['ptrace'], {request}, {pid}, 0, 0" for request in (16, 0x4206)
                      for pid in ("item['pid']", "os.getppid()"))),
    _blocked("P07", "syscall, item['nr']['process_vm_readv'], item['pid'], 0, 0, 0, 0, 0",
             "syscall, item['nr']['process_vm_readv'], os.getppid(), 0, 0, 0, 0, 0",
             "syscall, item['nr']['process_vm_writev'], os.getppid(), 0, 0, 0, 0, 0"),
    _blocked("P08", "os.pidfd_open, os.getppid()", "os.pidfd_open, item['pid']", "syscall, 438, 0, 0, 0"),
    # The marker is in the source and the sample of another call that ran before in the same tier.
    Attack(
        id="P09",
        # A pattern that does not contain what it finds.
        source="import re\nmarker = re.compile(b'M[A]RKER-OF-[A]NOTHER-CALL')\n" + _G + "found = 0\n"
        "    for line in open('/proc/self/maps'):\n"
        "        where, rights = line.split()[:2]\n"
        "        start, end = (int(part, 16) for part in where.split('-'))\n"
        "        if rights.startswith('rw') and end - start < 1 << 28:\n"
        "            found += len(marker.findall(ctypes.string_at(start, end - start)))\n"
        "    return 1.0 if found == 0 else 0.0\n",
    ),
)  # fmt: skip

SIGNALS = (
    Attack(
        id="S01",
        source="import signal\n" + _G + "targets = [item['pid'], os.getppid(), *([1] if os.getpid() != 1 else [])]\n"
        "    nr = item['nr']\n    calls = []\n    for pid in targets:\n"
        "        for number in (9, 19, 15, 0):\n"
        "            calls += [(os.kill, pid, number), (syscall, nr['tgkill'], pid, pid, number),\n"
        "                      (syscall, nr['tkill'], pid, number)]\n"
        "        group = os.getpgid(pid) if os.path.exists(f'/proc/{pid}') else 0\n"
        "        calls += [(os.killpg, group, 9)] if group > 1 else []\n"
        "        calls += [(lambda pid=pid: signal.pidfd_send_signal(os.pidfd_open(pid), 9),)]\n"
        "    return all_refused(*calls)\n",
    ),
    # With children allowed a grader may end itself and its own.
    Attack(id="S02", source=_G + "return all_refused((os.kill, -1, 9), (os.kill, 0, 9))\n", processes=("no_result",)),
    _blocked("S03", "syscall, item['nr']['rt_sigqueueinfo'], item['pid'], 15, ctypes.create_string_buffer(128)",
             "syscall, item['nr']['rt_tgsigqueueinfo'], item['pid'], item['pid'], 15, ctypes.create_string_buffer(128)"),
    _blocked("S04", "fcntl.fcntl, r, 8, item['pid']", "fcntl.fcntl, r, 10, 9", "fcntl.fcntl, r, 4, 0o20000",
             "fcntl.fcntl, r, 15, ctypes.create_string_buffer(8).raw", before="import fcntl\nr, w = os.pipe()"),
    _blocked("S05", "resource.prlimit, item['pid'], resource.RLIMIT_NOFILE, (0, 0)",
             "resource.prlimit, os.getppid(), resource.RLIMIT_NOFILE",
             "os.setpriority, os.PRIO_PROCESS, item['pid'], 19", "os.sched_setaffinity, item['pid'], {0}",
             "os.sched_setaffinity, 0, {0, 1}", "os.sched_setscheduler, item['pid'], 3, os.sched_param(0)",
             before="import resource"),
)  # fmt: skip

CHILDREN = (
    Attack(id="X01", source=_G + "for _ in range(400):\n        if refused(os.fork):\n            return 1.0\n"
           "    import time\n    time.sleep(60)\n    return 0.0\n",
           processes=_COUNTED),
    Attack(id="X02", source=_G + "try:\n        if os.fork() == 0:\n            import time\n            time.sleep(60)\n"
           "    except OSError:\n        return 1.0\n    return 0.5\n", processes=("value 0.5",)),
    Attack(id="X03", source="import threading, time\n" + _G + "try:\n        for n in range(5000):\n"
           "            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
           "    except (RuntimeError, MemoryError):\n        return float(n < 2500)\n    return 0.0\n",
           processes=("value 1.0",)),
    # Small stacks, which the memory limit hardly counts.
    Attack(id="X03b", source="import threading, time\n" + _G + "threading.stack_size(32768)\n    wait = threading.Event().wait\n    for n in range(3000):\n"
           "        threading.Thread(target=wait, daemon=True).start()\n    time.sleep(60)\n    return 0.0\n", expect=("output",),
           processes=("output", "exception")),
    Attack(id="X04", source="import subprocess\n" + _G + "all_refused((os.posix_spawn, '/bin/true', ['true'], {}), (subprocess.run, ['/bin/true']))\n"
           "    return all_refused((os.execv, '/bin/sh', ['sh'])) if os.system('true') else 0.0\n",
           processes=("exception",)),
    _blocked("X05", "os.setuid, 0", "os.setgid, 0", "os.setgroups, [0]", "os.setresuid, 0, 0, 0",
             "syscall, item['nr']['capset'], 0, 0"),
    Attack(id="X06", source=_G + "nr = item['nr']\n    for number, *args in ((nr['fork'],), (nr['vfork'],), (nr['clone'], 17, 0, 0, 0, 0),\n"
           "                           (nr['clone3'], ctypes.create_string_buffer(88), 88), (nr['clone'], 0x10000000 | 17, 0, 0, 0, 0)):\n"
           "        if number is not None and not refused(syscall, number, *args):\n            os._exit(0)\n    return 1.0\n",
           processes=("no_result", "value 1.0")),
    _blocked("X07", "syscall, item['nr']['prctl'], 1, 0, 0, 0, 0", "syscall, item['nr']['prctl'], 36, 1, 0, 0, 0", "os.setsid,",
             "os.setpgid, 0, 0", "syscall, item['nr']['prctl'], 4, 1, 0, 0, 0", "syscall, item['nr']['prctl'], 22, 1, 0, 0, 0"),
    _blocked("X08", *(f"syscall, item['nr'][{name!r}], 0, 0, 0, 0, 0" for name in (
        "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "kcmp", "personality", "kexec_load",
        "reboot", "init_module", "swapon", "acct", "quotactl", "syslog", "settimeofday", "clock_settime", "adjtimex",
        "sethostname", "fanotify_init", "inotify_init1", "lookup_dcookie", "move_pages", "mbind", "seccomp",
        "landlock_create_ruleset", "pkey_alloc", "process_madvise", "vhangup", "timer_create"))),
)  # fmt: skip

MEMORY = (
    Attack(id="M01", source=_G + "kept = []\n    while True:\n        kept.append('x' * 1000000 + str(len(kept)))\n", expect=("memory",)),
    Attack(id="M02", source="import numpy\n" + _G + "return float(numpy.ones(1 << 30).sum())\n", expect=("memory",), full=True),
    Attack(id="M02b", source=_G + "bytearray(8 << 30)\n    return 0.0\n", expect=("memory",)),
    _blocked("M03", "os.memfd_create, 'x'", "syscall, item['nr']['shmget'], 0, 1 << 30, 0o1666",
             "syscall, item['nr']['msgget'], 0, 0o1666", "syscall, item['nr']['semget'], 0, 10, 0o1666"),
    Attack(id="M04", source="import mmap\n" + _G + "try:\n        mmap.mmap(-1, 8 << 30)\n    except OSError as error:\n"
           "        return float(error.errno == errno.ENOMEM)\n    return 0.0\n"),
    _blocked("M05", "syscall, item['nr']['mq_open'], b'/q', 0o102, 0o600, 0"),
    Attack(id="M06", source=_G + "kept = []\n    try:\n        while True:\n            r, w = os.pipe()\n            os.set_blocking(w, False)\n"
           "            os.write(w, b'x' * 65536)\n            kept.append(r)\n    except OSError:\n        return float(len(kept) < 64)\n"),
    # `resource` turns the kernel's EPERM into this ValueError, and only that.
    Attack(id="M07", source="import resource\n" + _G + "names = ['AS', 'NOFILE', 'FSIZE', 'CPU', 'CORE', 'MEMLOCK', 'MSGQUEUE', 'STACK']\n"
           "    for which in (getattr(resource, 'RLIMIT_' + name) for name in names):\n"
           "        before = resource.getrlimit(which)\n"
           "        for wanted in (resource.RLIM_INFINITY, before[1] + 1):\n            try:\n"
           "                resource.setrlimit(which, (before[0], wanted))\n                return 0.0\n"
           "            except ValueError as error:\n                if str(error) != 'not allowed to raise maximum limit':\n                    raise\n"
           "        if before[1] == resource.RLIM_INFINITY or resource.getrlimit(which) != before:\n            return 0.0\n    return 1.0\n"),
    Attack(id="M08", source=_G + "return float(len(str(10 ** 10 ** 9)))\n", expect=("timeout",)),
)  # fmt: skip

TIME = (
    Attack(id="C01", source=_G + "while True:\n        pass\n", expect=("timeout",)),
    Attack(id="C02", source="import re\n" + _G + "return float(bool(re.match(r'(a+)+$', 'a' * 60 + 'b')))\n", expect=("timeout",)),
    Attack(id="C03", source=_G + "return float((3 ** (10 ** 8)) % 7)\n", expect=("timeout",)),
    Attack(id="C04", source="import time\n" + _G + "time.sleep(3600)\n    return 1.0\n", expect=("timeout",)),
    Attack(id="C05", source="import signal\n" + _G + "for number in range(1, 65):\n        try:\n"
           "            signal.signal(number, signal.SIG_IGN)\n        except (OSError, ValueError):\n            pass\n"
           "    while True:\n        pass\n", expect=("timeout",)),
    Attack(id="C06", source="import signal\n" + _G + "os.kill(os.getpid(), signal.SIGSTOP)\n    return 1.0\n", expect=("timeout",)),
    Attack(id="C07", source="import threading\n" + _G + "def spin():\n        while True:\n            pass\n"
           "    for _ in range(8):\n        threading.Thread(target=spin).start()\n    spin()\n", expect=("timeout",)),
)  # fmt: skip

DISK = (
    Attack(id="D01", source=_G + "with open('big', 'wb') as file:\n        while True:\n            file.write(b'x' * (1 << 20))\n",
           expect=("exception",)),
    Attack(id="D02", source=_G + "for n in range(10 ** 6):\n        with open(f'f{n}', 'wb') as file:\n            file.write(b'x' * (1 << 20))\n",
           expect=("exception",), without_mounts=("output",)),
    # Names that are gone, and the file with them: open, mapped only, and open in a thread's own table.
    Attack(id="D02b", source=_G + "kept = []\n    while True:\n        kept.append(open('f', 'wb', buffering=0))\n        os.unlink('f')\n"
           "        for _ in range(8):\n            kept[-1].write(bytes(1 << 20))\n            __import__('time').sleep(0.01)\n",
           expect=("exception",), without_mounts=("output",)),
    Attack(id="D02c", source="import time\n" + _G + "libc.mmap.restype = ctypes.c_void_p\n    for n in range(50):\n"
           "        fd = os.open('f', os.O_RDWR | os.O_CREAT)\n        for _ in range(8):\n            os.write(fd, bytes(1 << 20))\n"
           "        libc.mmap(None, 4096, 1, 1, fd, 0)\n        os.close(fd)\n        os.unlink('f')\n        time.sleep(0.05)\n    return 0.0\n",
           expect=("exception",), without_mounts=("output",)),
    _blocked("D02d", "syscall, item['nr']['close_range'], 60, 63, 2", "syscall, item['nr']['clone'], 0x10900, 0, 0, 0, 0",
             "syscall, item['nr']['unshare'], 0x400"),
    # Decoys that move all the time, so that who counts loses the way.
    Attack(id="D02e", source="import threading, time\n" + _G + "moves = []\n    for n in range(6):\n"
           "        os.makedirs(f'q{n}/x/c')\n        os.makedirs(f'q{n}/y')\n        moves.append((f'q{n}/x/c', f'q{n}/y/c'))\n"
           "        for k in range(500):\n            open(f'q{n}/x/c/{k}', 'w').close()\n    os.mkdir('data')\n"
           "    def flip():\n        while True:\n            for a, b in moves:\n                os.rename(a, b)\n"
           "            for a, b in moves:\n                os.rename(b, a)\n    threading.Thread(target=flip, daemon=True).start()\n"
           "    for n in range(60):\n        with open(f'data/{n}', 'wb') as file:\n            file.write(bytes(1 << 20))\n    time.sleep(60)\n",
           expect=("exception",), without_mounts=("output",)),
    # The same with all of the way to what is counted.
    Attack(id="D02f", source="import threading, time\n" + _G + "fds = [os.open('.', os.O_RDONLY)]\n    for _ in range(14):\n"
           "        os.mkdir('a', dir_fd=fds[-1])\n        fds.append(os.open('a', os.O_RDONLY, dir_fd=fds[-1]))\n"
           "    def flip():\n        while True:\n            for a, b in ('ab', 'ba'):\n                for fd in fds[:-1]:\n"
           "                    os.rename(a, b, src_dir_fd=fd, dst_dir_fd=fd)\n    threading.Thread(target=flip, daemon=True).start()\n"
           "    for n in range(60):\n        fd = os.open(f'{n}', os.O_CREAT | os.O_WRONLY, dir_fd=fds[-1])\n"
           "        os.write(fd, bytes(1 << 20))\n        os.close(fd)\n    time.sleep(60)\n",
           expect=("exception",), without_mounts=("output",)),
    # Residual without a tmpfs of our own: inodes, until the watchdog comes round.
    Attack(id="D03", source=_G + "n = 0\n    while True:\n        open(f'f{n}', 'w').close()\n        n += 1\n",
           expect=("exception",), without_mounts=("output",)),
    Attack(id="D04", source=_G + "for _ in range(3000):\n        os.mkdir('d', 0o700)\n        os.chdir('d')\n"
           "    os.mkdir('x', 0)\n    os.mkdir('y', 0o111)\n    return 1.0\n"),
    # The names in a directory that cannot be read count as well.
    Attack(id="D04b", source=_G + "os.mkdir('d', 0o300)\n    os.chdir('d')\n    for n in range(10 ** 6):\n        open(f'f{n}', 'w').close()\n    return 0.0\n",
           expect=("exception",), without_mounts=("output",)),
    Attack(id="D05", source=_G + "with open('sparse', 'wb') as file:\n        file.truncate(1 << 40)\n    return 0.0\n", expect=("exception",)),
    Attack(id="D06", source=_G + "kept = []\n    try:\n        while True:\n            kept.append(open('/dev/null'))\n"
           "    except OSError:\n        return float(len(kept) <= 64)\n"),
)  # fmt: skip

OUTPUT = (
    Attack(id="O01", source=_G + "for _ in range(200):\n        print('x' * 1000000)\n    return 0.75\n", expect=("value 0.75",)),
    Attack(id="O02", source=_G + "for _ in range(200):\n        os.write(1, b'x' * 1000000)\n        os.write(2, b'x' * 1000)\n    return 0.75\n",
           expect=("value 0.75",)),
    Attack(id="O03", source=_G + "return 'x' * 500000000\n", expect=("bad_value",)),
    Attack(id="O04", source=_G + "raise ValueError('x' * 100000000)\n", expect=("exception",)),
    Attack(id="O05", source="class E(Exception):\n    def __str__(self):\n        os._exit(0)\n" + _G + "raise E\n", expect=("no_result",)),
    Attack(id="O05b", source="class E(Exception):\n    def __str__(self):\n        raise SystemExit\n" + _G + "raise E\n", expect=("exception",)),
    Attack(id="O06", source="class E(Exception):\n    def __str__(self):\n        while True:\n            pass\n" + _G + "raise E\n",
           expect=("timeout",)),
)  # fmt: skip

RESULT = (
    # Residual: a grader can forge its own score, which it could also simply return.
    Attack(id="R01", source="import struct\n" + _G + "os.write(3, struct.pack('=4sBdIII', b'GKR1', 1, 0.125, 0, 0, 0))\n    return 0.0\n",
           expect=("value 0.125",)),
    Attack(id="R02", source=_G + "os.write(3, b'garbage' * 100)\n    import time\n    time.sleep(60)\n", expect=("no_result",)),
    Attack(id="R03", source="import struct\n" + _G + "os.write(3, struct.pack('=4sBdIII', b'GKR1', 1, 0.125, 0, 4000000000, 0))\n"
           "    while True:\n        os.write(3, b'x' * 65536)\n", expect=("output",)),
    Attack(id="R03b", source=_G + "while True:\n        os.write(3, b'x' * 65536)\n", expect=("no_result",)),
    Attack(id="R03c", source="import struct\n" + _G + "os.write(3, struct.pack('=4sBdIII', b'GKR1', 1, 0.125, 0, 100000, 0))\n"
           "    import time\n    time.sleep(60)\n", expect=("timeout",)),
    Attack(id="R04", source=_G + "os.closerange(0, 64)\n    return 1.0\n", expect=("no_result",)),
    Attack(id="R05", source=_G + "os._exit(0)\n", expect=("no_result",)),
    Attack(id="R06", source=_G + "sys.exit(3)\n", expect=("exception",)),
    Attack(id="R07", source=_G + "raise KeyboardInterrupt\n", expect=("exception",)),
    Attack(id="R08", source="def f():\n    f()\n" + _G + "f()\n", expect=("exception",)),
    Attack(id="R09", source=_G + "ctypes.string_at(0)\n", expect=("no_result",)),
    # Python 3.11 runs off the C stack here; from 3.12 on it counts C calls as well.
    Attack(id="R10", source="def deeper(_):\n    return sorted([0], key=deeper)\n" + _G + "sys.setrecursionlimit(10 ** 9)\n    deeper(0)\n    return 0.0\n",
           expect=("no_result", "exception")),
    Attack(id="R11", source=_G + "os.kill(os.getpid(), 9)\n", expect=("no_result",)),
)  # fmt: skip


def _returns(
    id_: str, expression: str, expect: str, *, before: str = "", full: bool = False
) -> Attack:
    return Attack(
        id=id_, source=before + _G + f"return {expression}\n", expect=(expect,), full=full
    )


_LIAR = "class F(float):\n    def __float__(self):\n        return 9.0\n    def __getattribute__(self, name):\n        raise OSError\n"

VALUES = (
    _returns("V01", "float('nan')", "value nan"),
    _returns("V02", "float('inf')", "value inf"),
    _returns("V03", "'0.5'", "bad_value"),
    _returns("V04", "True", "value 1.0"),
    _returns("V05", "None", "bad_value"),
    _returns("V06", "1", "value 1.0"),
    _returns("V07", "10 ** 400", "bad_value"),
    _returns("V08", "numpy.float64(0.1)", "value 0.1", before="import numpy\n", full=True),
    _returns("V09", "numpy.float32(0.1)", "value 0.10000000149011612", before="import numpy\n", full=True),
    _returns("V09b", "numpy.bool_(True)", "value 1.0", before="import numpy\n", full=True),
    _returns("V09c", "numpy.ones(1)", "bad_value", before="import numpy\n", full=True),
    _returns("V10", "decimal.Decimal('0.5')", "bad_value", before="import decimal\n"),
    _returns("V11", "[1.0]", "bad_value"),
    _returns("V12", "-2.5", "value -2.5"),
    _returns("V13", "F(0.1)", "value 0.1", before=_LIAR),
    _returns("V20", "(x for x in ())", "bad_value"),
    _returns("V21", "M('X', (), {})()", "bad_value",
             before="class M(type):\n    __name__ = property(lambda self: 1 / 0)\n    def __instancecheck__(self, x):\n        return True\n"),
)  # fmt: skip

# Everything that the rows below change, as it must be found again by the next call.
_UNTOUCHED = (
    "import builtins, gc, json, random, struct, threading\nkept = getattr(random, 'count', None)\n"
    + _G
    + "names = [name for module in (builtins, os, json, struct, sys) for name, found in vars(module).items()\n"
    "             if found is None and not name.startswith('_') and name not in ('altsep', 'None', 'pycache_prefix')]\n"
    "    fresh = (not names, 'random' in sys.modules, kept is None, threading.active_count() == 1,\n"
    "             os.listdir('.') == [], os.getcwd() == os.environ['HOME'], os.umask(0o077) == 0o077, 'LEFT' not in os.environ,\n"
    "             sys.getrecursionlimit() == 1000, gc.isenabled())\n"
    "    assert all(fresh), (fresh, names)\n    return 1.0\n"
)

TAMPERING = (
    # The grader's own call loses its result: the interpreter that would report it has no `os.write`.
    Attack(
        id="T01",
        source="import builtins, json, struct\n" + _G + "for module in (builtins, os, json, struct, sys):\n"
        "        for name in list(vars(module)):\n            if not name.startswith('__'):\n"
        "                try:\n                    setattr(module, name, None)\n                except Exception:\n                    pass\n"
        "    return 0.5\n",
        expect=("no_result",),
        afterwards=_UNTOUCHED,
    ),
    Attack(id="T01b", source=_G + "sys.modules.clear()\n    return 0.5\n", expect=("value 0.5",), afterwards=_UNTOUCHED),
    Attack(id="T02", source="import random\ncount = getattr(random, 'count', 0)\nrandom.count = count + 1\n" + _G + "return float(random.count)\n",
           afterwards=_UNTOUCHED),
    Attack(id="T03", source="import threading, time\n" + _G + "threading.Thread(target=time.sleep, args=(60,)).start()\n    return 1.0\n",
           afterwards=_UNTOUCHED),
    Attack(id="T04", source="import atexit\n" + _G + "atexit.register(lambda: os.write(3, b'late'))\n"
           "    os.register_at_fork(before=lambda: 1 / 0)\n    return 1.0\n", afterwards=_UNTOUCHED),
    Attack(id="T05", source="import random, uuid\n" + _G + "return random.random() + random.Random().random() + uuid.uuid4().int % 1000\n",
           expect=("value",), differs=True, afterwards=_UNTOUCHED),
    Attack(id="T05b", source="import numpy\n" + _G + "return numpy.random.rand() + numpy.random.default_rng().random()\n",
           expect=("value",), differs=True, full=True),
    Attack(id="T06", source=_G + "open('left', 'w').write('x')\n    os.mkdir('.hidden')\n    os.symlink('/', 'link')\n    return 1.0\n",
           afterwards=_UNTOUCHED),
    Attack(id="T07", source=_G + "os.chdir('/')\n    os.umask(0)\n    os.environ['LEFT'] = '1'\n    os.environ['HOME'] = '/'\n"
           "    sys.setrecursionlimit(123)\n    __import__('gc').disable()\n    return 1.0\n", afterwards=_UNTOUCHED),
    Attack(id="T08", source=_G + "import gc\n    for thing in gc.get_objects():\n        if type(thing).__name__ == 'socket':\n"
           "            try:\n                thing.send(b'junk')\n                return 0.0\n            except OSError:\n                pass\n    return 1.0\n",
           afterwards=_UNTOUCHED),
)  # fmt: skip

LOADING = (
    Attack(id="L01", source="while True:\n    pass\n", expect=("timeout",)),
    Attack(id="L02", source="raise SystemExit(0)\n", expect=("exception",)),
    Attack(id="L03", source="import os\nos._exit(0)\n", expect=("no_result",)),
    Attack(id="L04", source="import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n" + _G + "return 1.0\n"),
    Attack(id="L05", source="import os, json\nos.fork = os._exit = json.loads = None\n" + _G + "return 1.0\n"),
    Attack(id="L06", source="while not refused(os.fork):\n    pass\n" + _G + "return 1.0\n",
           processes=_COUNTED),
    Attack(id="L07", source="x = bytearray(3 << 30)\n" + _G + "return 0.0\n", expect=("memory",)),
    # Descriptors above the result pipe were the zygote's; 4 was its control socket.
    Attack(id="L08", source=_G + "for fd in range(4, 64):\n        try:\n            os.write(fd, b'junk' * 20)\n            return 0.0\n"
           "        except OSError as error:\n            if error.errno != errno.EBADF:\n                raise\n    return 1.0\n"),
    Attack(id="L09", source="import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n" + _G + "import time\n    time.sleep(0.3)\n    return 1.0\n",
           expect=("no_result",)),
    Attack(id="L10", source="def grade(:\n", expect=("exception",)),
    Attack(id="L10b", source="x = " + "(" * 5000 + "\n", expect=("exception",)),
    Attack(id="L10c", source="x = " + "-" * 100000 + "1\n", expect=("exception",)),
    Attack(id="L10d", source="def grade(sample, item):\n    return 1.0\n\0", expect=("exception",)),
    # There is no template that could hand descriptors to the supervisor: nothing of ours is a socket.
    Attack(id="L11", source="import socket\n" + _G + "for fd in range(64):\n        try:\n            socket.socket(fileno=fd)\n            return 0.0\n"
           "        except OSError as error:\n            if error.errno not in (errno.EBADF, errno.ENOTSOCK):\n                raise\n    return 1.0\n"),
)  # fmt: skip

ATTACKS: tuple[Attack, ...] = (
    *NETWORK,
    *FILES,
    *PROCESSES,
    *SIGNALS,
    *CHILDREN,
    *MEMORY,
    *TIME,
    *DISK,
    *OUTPUT,
    *RESULT,
    *VALUES,
    *TAMPERING,
    *LOADING,
)
