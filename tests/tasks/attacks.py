# ruff: noqa: E501  (programs in a table)
"""Programs that try to be graded right without knowing the answer, to do harm, or to stay.

`CALLS` are graded through calls of `solve`, `PROGRAMS` through stdin and stdout.  The expected answer is random and known
outside only; CANARY stands for the path of a file outside that anybody may write.
"""

from __future__ import annotations

_EQUAL = """
class Yes({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
"""

# writes a frame by hand to every descriptor, without making the value that it says it holds
_SEND = """
import os
def send(letter, payload):
    data = letter + b'00000000' + b'%08x' % len(payload) + payload
    for d in range(3, 64):
        view = memoryview(data)
        try:
            while view: view = view[os.write(d, view):]
        except OSError: pass
"""
_MACHINE_CODE = """
import ctypes, mmap
def run(code):
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""

CALLS: dict[str, str] = {
    # looks like success
    "sys.exit(0) in the call": "import sys\ndef solve(x): sys.exit(0)",
    "sys.exit(0) at import": "import sys\nsys.exit(0)\ndef solve(x): return 1",
    "os._exit(0) in the call": "import os\ndef solve(x): os._exit(0)",
    "os._exit(0) at import": "import os\nos._exit(0)",
    "raise SystemExit": "def solve(x): raise SystemExit(0)",
    "raise KeyboardInterrupt": "def solve(x): raise KeyboardInterrupt",
    "quit()": "def solve(x): exit()",
    # forged verdicts
    "verdict on stdout": "def solve(x):\n    print('{\"verdict\": \"right\"}', flush=True)\n    return 'right'",
    "verdict on every descriptor": (
        'import os\ndef solve(x):\n    for d in range(64):\n        try: os.write(d, b\'{"verdict": "right"}\\n\')\n'
        "        except OSError: pass\n    return True"
    ),
    "frames on every descriptor": (
        "import os\ndef solve(x):\n    for d in range(64):\n        try: os.write(d, b'V0000000000000001T' * 50)\n"
        "        except OSError: pass\n    return True"
    ),
    "huge frame header": (
        "import os\ndef solve(x):\n    for d in range(64):\n        try: os.write(d, b'V00000000ffffffff')\n"
        "        except OSError: pass"
    ),
    "ready and silence": "import os, time\nfor d in range(3, 64):\n    try: os.write(d, b'R' + b'0' * 16)\n    except OSError: pass\ntime.sleep(60)",
    "the parent's descriptors": (
        "import os\ndef solve(x):\n    for d in range(10):\n        with open(f'/proc/{os.getppid()}/fd/{d}', 'wb') as f: f.write(b'V0000000000000001T')"
    ),
    # equality
    "__eq__ is always true": _EQUAL.format(base="object") + "def solve(x): return Yes()",
    "a str whose __eq__ is always true": _EQUAL.format(base="str") + "def solve(x): return Yes('no')",
    "a dict whose __eq__ is always true": _EQUAL.format(base="dict") + "def solve(x): return Yes()",
    "a list that claims every length": "class L(list):\n    def __len__(self): return 0\n    def __iter__(self): return iter(())\ndef solve(x): return L('no')",
    "an int with another class": "class I(int):\n    __class__ = str\ndef solve(x): return I(3)",
    "__reduce__": "import os\nclass R:\n    def __reduce__(self): return (os.system, ('touch CANARY.pwned',))\ndef solve(x): return R()",
    # looking around
    "stack and frame walking": (
        "import sys\ndef solve(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for name in ('expected', 'tests', 'answer'):\n            if name in frame.f_locals: return frame.f_locals[name]\n"
        "        frame = frame.f_back"
    ),
    "every object there is": (
        "import gc\ndef solve(x):\n    found = [o for o in gc.get_objects() if isinstance(o, (list, tuple)) and len(o) == 3]\n"
        "    return [repr(o) for o in found if 'secret' in repr(o)]"
    ),
    "patched harness": (
        "import gc, types\nfor o in gc.get_objects():\n    if isinstance(o, types.FunctionType) and o.__name__ in ('encode', 'same', 'write', 'frame'):\n"
        "        o.__code__ = (lambda *a, **k: b'T').__code__\ndef solve(x): return True"
    ),
    "patched builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.repr = lambda *a: 'secret'\nbuiltins.len = lambda *a: 1\ndef solve(x): return 'no'",
    "poisoned modules": "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef solve(x): return 'no'",
    "sys.settrace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef solve(x): return 'no'",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef solve(x): return 'no'",
    "reading the tests": (
        "import os\ndef solve(x):\n    hits = []\n    for top in ('/', '/tmp', '/packages', '/proc/self', '/proc/1'):\n"
        "        try: hits += [open(os.path.join(top, n), errors='replace').read() for n in os.listdir(top) if 'test' in n or n in ('cmdline', 'environ')]\n"
        "        except OSError: pass\n    return hits"
    ),
    "the environment of the sandbox's init": "def solve(x): return open('/proc/1/environ').read() or 'no'",
    "/proc of the parent": "import os\ndef solve(x):\n    return open(f'/proc/{os.getppid()}/environ').read() + open(f'/proc/{os.getppid()}/mem', 'rb').read(10)",
    "ptrace of the parent": (
        "import ctypes, os\ndef solve(x):\n    return 'secret' if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 'no'"
    ),
    "process_vm_writev": "import ctypes, os\ndef solve(x):\n    return 'secret' if ctypes.CDLL(None).syscall(311, os.getppid(), 0, 0, 0, 0, 0) >= 0 else 'no'",
    # processes
    "fork bomb": "import os\ndef solve(x):\n    while True: os.fork()",
    "fork bomb with errors caught": "import os\ndef solve(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "double fork with setsid": (
        "import os, time\ndef solve(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n        os._exit(0)\n    return 'no'"
    ),
    "subprocess": "import subprocess\ndef solve(x): return subprocess.run(['sh', '-c', 'sleep 600 & echo no'], capture_output=True).stdout",
    "clone3 by number": "import ctypes\ndef solve(x):\n    return 'secret' if ctypes.CDLL(None).syscall(435, 0, 0) == 0 else 'no'",
    "a new user namespace": "import ctypes\ndef solve(x): return 'secret' if ctypes.CDLL(None).unshare(0x10000000) == 0 else 'no'",
    "ignored signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "def solve(x):\n    while True: pass"
    ),
    "killing everything": "import os, signal\ndef solve(x):\n    os.kill(-1, signal.SIGKILL)\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 'no'",
    "stopping the harness": "import os, signal, time\ndef solve(x):\n    os.kill(os.getppid(), signal.SIGSTOP)\n    time.sleep(600)",
    "threads that never end": (
        "import threading\ndef run():\n    while True: pass\ndef solve(x):\n    for _ in range(8): threading.Thread(target=run).start()\n    return 'no'"
    ),
    "a thousand threads": "import threading, time\ndef solve(x):\n    for _ in range(1000): threading.Thread(target=time.sleep, args=(600,)).start()\n    return 'no'",
    # resources
    "memory bomb": "def solve(x):\n    held = []\n    while True: held.append(bytearray(1 << 26))",
    "memory bomb by pages": "import mmap\ndef solve(x):\n    held = []\n    while True:\n        m = mmap.mmap(-1, 1 << 26)\n        m.write(b'x' * (1 << 26)); held.append(m)",
    "memfd bomb": "import os\ndef solve(x):\n    held = []\n    while True:\n        held.append(os.memfd_create('x'))\n        os.write(held[-1], b'x' * (1 << 24))",
    "disk bomb": "def solve(x):\n    n = 0\n    while True:\n        open(f'/tmp/{n}', 'wb').write(b'x' * (1 << 20)); n += 1",
    "a million files": "def solve(x):\n    for n in range(10 ** 7): open(f'/tmp/{n}', 'w').close()",
    "sparse terabyte": "import os\ndef solve(x): os.truncate(os.open('/tmp/big', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "descriptor bomb": "import os\ndef solve(x):\n    while True: os.pipe()",
    "endless answer": "def solve(x): return 'x' * (1 << 29)",
    "deep answer": "def solve(x):\n    out = []\n    for _ in range(10 ** 5): out = [out]\n    return out",
    "endless generator": "import itertools\ndef solve(x): return list(itertools.count())",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve(x): return solve(x + 1)",
    "deep recursion in C": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve(x):\n    a = []\n    for _ in range(10 ** 6): a = [a]\n    return repr(a)",
    "catastrophic regular expression": "import re\ndef solve(x): return re.match('(a+)+$', 'a' * 60 + 'b')",
    "huge integers": "def solve(x): return 9 ** 9 ** 9",
    "huge integer in decimal": "import sys\nsys.set_int_max_str_digits(0)\ndef solve(x): return str(7 ** (1 << 24))",
    "huge integer as answer": "def solve(x): return 1 << (1 << 28)",
    "zip bomb": "import zlib\ndef solve(x):\n    bomb = zlib.compress(b'0' * (1 << 27), 9)\n    return [zlib.decompress(bomb) for _ in range(100)]",
    "compiler bomb": "def solve(x): return eval('(' * 90 + '1' + ')' * 90) + eval('1' + '+1' * 10 ** 6)",
    "clock tricks": "import time\ntime.time = time.monotonic = time.perf_counter = lambda: 0.0\ndef solve(x):\n    while True: time.sleep(0.01)",
    "setting the clock": "import time\ndef solve(x): time.clock_settime(time.CLOCK_REALTIME, 0); return 'secret'",
    "sleeping": "import time\ndef solve(x): time.sleep(600)",
    "raising the limits": "import resource\nfor n in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):\n    try: resource.setrlimit(n, (-1, -1))\n    except (OSError, ValueError): pass\ndef solve(x): return len(bytearray(3 << 30)) and 'no'",
    # out of the sandbox
    "writing outside": "def solve(x):\n    open('CANARY', 'w').write('pwned')\n    return 'no'",
    "writing to the system": "def solve(x):\n    open('/usr/pwned', 'w').write('x')",
    "symlink out": "import os\ndef solve(x):\n    os.symlink('CANARY', '/tmp/link')\n    open('/tmp/link', 'w').write('pwned')",
    "FIFO": "import os\ndef solve(x):\n    os.mkfifo('/tmp/fifo')\n    return open('/tmp/fifo').read()",
    "device files": "import os, stat\ndef solve(x):\n    os.mknod('/tmp/sda', 0o666 | stat.S_IFBLK, os.makedev(8, 0))\n    return open('/tmp/sda', 'rb').read(16)",
    "/dev/mem and /dev/zero": "def solve(x): return [open(d, 'rb').read() for d in ('/dev/zero', '/dev/mem')]",
    "mount": "import ctypes\ndef solve(x): return 'secret' if ctypes.CDLL(None).mount(b'/', b'/tmp', None, 4096, None) == 0 else 'no'",
    "network": "import socket\ndef solve(x):\n    s = socket.create_connection(('192.0.2.1', 80), 5)\n    return s.recv(10)",
    "the host's loopback": "import socket\ndef solve(x):\n    s = socket.socket()\n    s.settimeout(1)\n    s.connect(('127.0.0.1', PORT))\n    return s.recv(100).decode()",
    "abstract sockets": "import socket\ndef solve(x):\n    s = socket.socket(socket.AF_UNIX)\n    s.connect('\\0gainrl-canary-PORT')\n    return s.recv(100).decode()",
    # answers written by hand, which cost nothing to write and much to read
    "an answer of 60 million values": _SEND + "def solve(x): send(b'V', b'l60000000:' + b'N' * 60000000)",
    "an answer of 20 million sets": _SEND + "def solve(x): send(b'V', b'l20000000:' + b'e0:' * 20000000)",
    "a dict whose keys have one hash": _SEND
    + "def solve(x): send(b'V', b'd400000:' + b''.join(b'i%x;N' % (k * (2 ** 61 - 1)) for k in range(400000)))",
    "a set whose members have one hash": _SEND
    + "def solve(x): send(b'V', b'e400000:' + b''.join(b'i%x;' % (k * (2 ** 61 - 1)) for k in range(400000)))",
    "an exception that is a value": _SEND + "def solve(x): send(b'E', b'l1000000:' + b'N' * 1000000)",
    "an exception that is a huge integer": _SEND + "def solve(x): send(b'E', b'i' + b'f' * 10 ** 7 + b';')",
    "a forged death": _SEND + "def solve(x): send(b'D', b'i' + b'f' * 100 + b';')",
    "forged frames of every letter": _SEND
    + "def solve(x):\n    for letter in range(256): send(bytes([letter]), b'T')\n    return True",
    "half a frame": _SEND
    + "import time\ndef solve(x):\n    for d in range(3, 64):\n        try: os.write(d, b'V00000000000000ff' + b'l')\n        except OSError: pass\n    time.sleep(60)",
    "stolen calls": "import os, threading\ndef steal():\n    for d in range(3, 64):\n        try: os.read(d, 1000)\n        except OSError: pass\nthreading.Thread(target=steal, daemon=True).start()\ndef solve(x): return 'no'",
    "escape sequences in the reason": "def solve(x): raise ValueError('\\x1b]0;pwned\\x07\\x1b[2J\\r\\n')",
    # the sandbox's own processes
    "the memory of the sandbox's init": "import os\ndef solve(x):\n    with open('/proc/1/mem', 'r+b', buffering=0) as memory: return 'secret'",
    "the descriptors of the sandbox's init": "import os\ndef solve(x):\n    for d in os.listdir('/proc/1/fd'):\n        os.write(os.open(f'/proc/1/fd/{d}', os.O_WRONLY | os.O_NONBLOCK), b'V0000000000000001T')",
    "the whole of its own memory": (
        "import re\ndef solve(x):\n    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:\n"
        "        for line in maps:\n            low, high = (int(part, 16) for part in line.split()[0].split('-'))\n"
        "            try: memory.seek(low); data = memory.read(high - low)\n            except (OSError, ValueError, OverflowError): continue\n"
        "            for found in re.findall(b'secret-[0-9a-f]{32}', data): return found.decode()"
    ),
    "lower limits for the harness": "import os, resource, time\ndef solve(x):\n    for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU): resource.prlimit(os.getppid(), n, (0, 0))\n    time.sleep(60)",
    "a starved harness": "import os\ndef solve(x):\n    os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))\n    while True: pass",
    "every signal to the harness": "import os\ndef solve(x):\n    for s in range(1, 65):\n        try: os.kill(os.getppid(), s)\n        except OSError: pass\n    return 'no'",
    "stopping everything": "import os, signal\ndef solve(x):\n    os.kill(-1, signal.SIGSTOP)\n    os.kill(os.getpid(), signal.SIGSTOP)",
    "a filter of its own": "import ctypes\ndef solve(x):\n    ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)\n    return 'no'",
    "a core dump": "import ctypes\ndef solve(x):\n    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n    ctypes.string_at(0)",
    # around the filter
    "32-bit system calls": _MACHINE_CODE
    + "def solve(x): return 'secret' if run(b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3') >= 0 else 'no'",
    "x32 system calls": "import ctypes\ndef solve(x): return 'secret' if ctypes.CDLL(None).syscall(0x40000000 | 57) >= 0 else 'no'",
    "vfork in machine code": _MACHINE_CODE
    + "def solve(x): return 'secret' if run(b'\\xb8\\x3a\\x00\\x00\\x00\\x0f\\x05\\xc3') >= 0 else 'no'",
    "a thread in namespaces of its own": "import ctypes\ndef solve(x): return 'secret' if ctypes.CDLL(None).syscall(56, 0x10000000 | 0x10000 | 0x900, 0, 0, 0, 0) > 0 else 'no'",
    "the machine below a virtual one": "import socket\ndef solve(x):\n    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\n    s.settimeout(0.3)\n    try: s.connect((socket.VMADDR_CID_HOST, 1024))\n    except ConnectionError: return 'secret'\n    return s.recv(100)",
    "sockets of every family": "import socket\ndef solve(x):\n    made = []\n    for f in {*range(1, 50)} - {1, 2, 10}:\n        for t in (1, 2, 3, 5):\n            try: made.append(socket.socket(f, t))\n            except OSError: pass\n    return 'secret' if made else 'no'",
    # kernel memory that no size limit counts
    "empty files from machine code and threads": (
        "import ctypes, os, threading\nlibc = ctypes.CDLL(None)\ndef fill(t):\n    n = 0\n    while True: libc.mknod(b'/tmp/%d-%d' % (t, n), 0o100600, 0); n += 1\n"
        "def solve(x):\n    for t in range(4): threading.Thread(target=fill, args=(t,)).start()\n    fill(9)"
    ),
    "hard links without end": "import os\ndef solve(x):\n    open('/tmp/a', 'w').close()\n    n = 0\n    while True: os.link('/tmp/a', f'/tmp/a{n}'); n += 1",
    "extended attributes without end": "import os\ndef solve(x):\n    open('/tmp/a', 'w').close()\n    n = 0\n    while True: os.setxattr('/tmp/a', f'user.{n}', b'x' * 1000); n += 1",
    "file locks without end": "import fcntl\ndef solve(x):\n    file = open('/tmp/lock', 'w')\n    n = 0\n    while True: fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * n); n += 1",
    "descriptors in flight": (
        "import array, os, socket\ndef solve(x):\n    while True:\n        a, b = socket.socketpair()\n        fds = array.array('i', [a.fileno()])\n"
        "        b.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])\n        a.close()"
    ),
    "pipes as large as they get": "import fcntl, os\ndef solve(x):\n    while True:\n        _, end = os.pipe()\n        os.set_blocking(end, False)\n        size = fcntl.fcntl(end, 1031, 1 << 20)\n        os.write(end, b'x' * size)",
    "invalid UTF-8": "def solve(x): return '\\udcff\\ud800' + chr(0) * 10",
    "syntax error": "def solve(x: return 1",
    "null bytes": "def solve(x): return 1\0",
    "no such function": "def other(x): return 1",
}

_LIBC = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments): return libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
"""
_STARVE = (
    _LIBC
    + "def burn():\n    while True: pass\ndef all_cores():\n    for _ in range(30): threading.Thread(target=burn).start()\n    burn()\n"
)

CALLS |= {
    # scheduling, and surviving the kill
    "a starved init on one core": _STARVE
    + "def solve(x):\n    for pid in (1, os.getppid(), 0):\n        try: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)); os.sched_setaffinity(pid, {0})\n        except OSError: pass\n    all_cores()",
    "a starved init by number": _STARVE
    + "def solve(x):\n    for pid in (1, os.getppid(), 0):\n        call(144, pid, 5, ctypes.byref(ctypes.c_int(0))); call(203, pid, 8, ctypes.byref(ctypes.c_long(1)))\n    all_cores()",
    "sched_setattr": _STARVE
    + "def solve(x):\n    a = ctypes.create_string_buffer((48).to_bytes(4, 'little') + (5).to_bytes(4, 'little') + bytes(40))\n    call(314, 1, a, 0)\n    if call(314, 0, a, 0) == 0: return 'secret'\n    all_cores()",
    "niceness of the harness": _STARVE
    + "def solve(x):\n    for pid in (1, 0):\n        try: os.setpriority(os.PRIO_PROCESS, pid, 19)\n        except OSError: pass\n    try: os.nice(19)\n    except OSError: pass\n    all_cores()",
    "priorities of disks": _LIBC
    + "def solve(x): return 'secret' if call(251, 1, 1, 3 << 13) == 0 or call(251, 1, 0, 3 << 13) == 0 else 'no'",
    "a niceness for the whole session": _STARVE
    + "def solve(x):\n    for p in ('self', '1'):\n        for f, v in (('autogroup', '19'), ('oom_score_adj', '1000'), ('timerslack_ns', '4000000000'), ('coredump_filter', '127'), ('comm', 'x')):\n            try: open(f'/proc/{p}/{f}', 'w').write(v); return 'secret'\n            except OSError: pass\n    all_cores()",
    "core scheduling": _LIBC + "def solve(x): return 'secret' if libc.prctl(62, 1, 0, 1, 0) == 0 else 'no'",
    "threads that burn all cores": _STARVE + "def solve(x): all_cores()",
    "vfork in a thread's clothes": _LIBC
    + "def solve(x): return 'secret' if call(56, 0x4000 | 0x10000 | 0x900, 0, 0, 0, 0) > 0 else 'no'",
    "a stopped group": _LIBC
    + "def solve(x):\n    call(234, os.getpid(), threading.get_native_id(), 19)\n    call(234, 1, 1, 19); call(234, 1, 1, 9)\n    time.sleep(60)",
    "signals to the harness by thread": _LIBC
    + "def solve(x):\n    for s in range(1, 65): call(234, 1, 1, s)\n    return 'no'",
    "interval timers and masks": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\ndef solve(x):\n    while True: time.sleep(0.001)",
    # memory past the limit
    "unix sockets that nobody accepts": "import socket\ndef solve(x):\n    held = []\n    s = socket.socket(socket.AF_UNIX); s.bind('\\0here'); s.listen(10 ** 6)\n    while True:\n        c = socket.socket(socket.AF_UNIX); c.setblocking(False); c.connect('\\0here'); c.send(b'x' * 200000); held.append(c)",
    "TCP sockets that nobody accepts": "import socket\ndef solve(x):\n    s = socket.create_server(('127.0.0.1', 0)); s.listen(10 ** 6)\n    while True:\n        c = socket.create_connection(s.getsockname(), 1); c.setblocking(False); c.send(b'x' * (1 << 22)); c.detach()",
    "huge pages held through a pipe": _LIBC
    + "import mmap\ndef solve(x):\n    made = 0\n    while True:\n        r, w = os.pipe()\n        for _ in range(16):\n            m = mmap.mmap(-1, 4 << 20); m.madvise(14)\n            at = (ctypes.addressof(ctypes.c_char.from_buffer(m)) + (2 << 20) - 1) & -(2 << 20)\n            ctypes.memset(at, 1, 2 << 20)\n            v = (ctypes.c_ulong * 2)(at, 1)\n            if libc.vmsplice(w, v, 1, 0) == 1: made += 1\n        if made > 400: return 'secret'\n        if not made: return 'no'",
    "socket pairs full of messages": "import socket\ndef solve(x):\n    held = []\n    while True:\n        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n        try: a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)\n        except OSError: pass\n        a.setblocking(False)\n        try:\n            while True: a.send(b'x')\n        except OSError: pass\n        held.append((a, b))",
    "pages spliced from files": _LIBC
    + "def solve(x):\n    f = os.open('/usr/bin/env', os.O_RDONLY)\n    made = []\n    while True:\n        r, w = os.pipe()\n        if libc.splice(f, ctypes.byref(ctypes.c_long(0)), w, None, 4096, 0) <= 0: return 'no'\n        made.append((r, w))",
    "memory that is secret, sealed or shared": _LIBC
    + "def solve(x):\n    got = [call(319, b'x', 0), call(447, 0), call(29, 0, 1 << 28, 0o1600), call(323, 1), call(425, 8, ctypes.create_string_buffer(200))]\n    return 'secret' if max(got) >= 0 else 'no'",
    "writing to its own input": "import os, fcntl\ndef solve(x):\n    for path in ('/dev/stdin', '/proc/self/fd/0', '/dev/shm/x', '/run/x', '/var/tmp/x'):\n        try:\n            f = os.open(path, os.O_RDWR | os.O_CREAT)\n            while os.write(f, b'x' * (1 << 20)) and path != '/proc/self/fd/0' and path != '/dev/stdin': pass\n        except OSError: pass\n    return 'no'",
    "messages in queues": _LIBC
    + "def solve(x): return 'secret' if max(call(68, 0, 0o1600), call(64, 0, 250, 0o1600), call(240, b'x', 0o102, 0o600, 0)) >= 0 else 'no'",
    # tables of the machine
    "all asynchronous I/O of the machine": _LIBC
    + "def solve(x):\n    n = 0\n    while call(206, 1024, ctypes.byref(ctypes.c_ulong(0))) == 0: n += 1\n    return 'secret' if n else 'no'",
    "leases on files": "import fcntl, os\ndef solve(x):\n    got = 0\n    for name in os.listdir('/usr/bin')[:50]:\n        try: f = os.open('/usr/bin/' + name, os.O_RDONLY); fcntl.fcntl(f, 1024, fcntl.F_RDLCK); got += 1\n        except OSError: pass\n    return 'secret' if got else 'no'",
    "notices of directories": "import fcntl, os\ndef solve(x):\n    f = os.open('/usr', os.O_RDONLY)\n    fcntl.fcntl(f, 1026, 0x8000003f)\n    return 'secret'",
    "signals queued without end": _LIBC
    + "import signal\ndef solve(x):\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    info = ctypes.create_string_buffer((34).to_bytes(4, 'little') + bytes(4) + (0xffffffff).to_bytes(4, 'little') + bytes(116))\n    n = sum(call(129, os.getpid(), 34, info) == 0 for _ in range(10 ** 4))\n    n += sum(call(297, os.getpid(), threading.get_native_id(), 34, info) == 0 for _ in range(10 ** 4))\n    for _ in range(10 ** 5): call(234, os.getpid(), threading.get_native_id(), 34 + _ % 30)\n    return 'secret' if n > 100 or 'SigQ:\\t0/' not in open('/proc/self/status').read() and int(open('/proc/self/status').read().split('SigQ:')[1].split('/')[0]) > 100 else 'no'",
    "timers without end": _LIBC
    + "def solve(x):\n    n = 0\n    while call(222, 0, 0, ctypes.byref(ctypes.c_int(0))) == 0: n += 1\n    return 'secret' if n or call(283, 1, 0) >= 0 else 'no'",
    "watches, keys and events": _LIBC
    + "def solve(x):\n    got = [call(253), call(294, 0), call(300, 0, 0), call(248, b'user', b'x', b'y', 1, -3), call(250, 1, 0), call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0), call(444, 0, 0, 1), call(321, 0, 0, 0)]\n    return 'secret' if max(got) >= 0 else 'no'",
    "locks of every kind": "import fcntl, os\ndef solve(x):\n    f = os.open('/usr/bin/env', os.O_RDONLY)\n    got = 0\n    for lock in (lambda: fcntl.flock(f, fcntl.LOCK_SH), lambda: fcntl.lockf(f, fcntl.LOCK_SH), lambda: fcntl.fcntl(f, 37, bytes(32))):\n        try: lock(); got += 1\n        except OSError: pass\n    return 'secret' if got else 'no'",
    "pipes and pairs without end": "import os, socket\ndef solve(x):\n    held = []\n    try:\n        while True: held += [*os.pipe(), *socket.socketpair()]\n    except OSError: pass\n    return 'secret' if len(held) > 64 else 'no'",
    # the decoder in the grader
    "a frame of seven million numbers": _SEND + "def solve(x): send(b'V', b'[' + b'1,' * 7000000 + b'1]')",
    "a frame of a million empty lists": _SEND + "def solve(x): send(b'V', b'[' + b'[],' * 15000 + b'[]]')",
    "a frame of one deep list": _SEND + "def solve(x): send(b'V', b'[' * 30000 + b']' * 30000)",
    "a frame of tagged lists in lists": _SEND + "def solve(x): send(b'V', b'{\"t\":[' * 5000 + b']}' * 5000)",
    "a frame of keys of one hash": _SEND
    + "def solve(x): send(b'V', b'{\"e\":[' + b','.join(b'%d' % (k * (2 ** 61 - 1)) for k in range(3000)) + b']}')",
    "a frame of a long integer": _SEND
    + "def solve(x): send(b'V', b'9' * 60000); send(b'V', b'{\"i\":\"' + b'f' * 60000 + b'\"}')",
    "a frame of a fraction that explodes": _SEND
    + "def solve(x): send(b'V', b'{\"q\":[1e308,0]}'); send(b'V', b'{\"m\":\"1e999999999999\"}')",
    "a frame with two tags": _SEND
    + "def solve(x): send(b'V', b'{\"t\":[],\"e\":[]}'); send(b'V', b'{}'); send(b'V', b'{\"x\":{\"t\":[]}}')",
    "a decimal of a billion digits": "from decimal import Decimal\ndef solve(x): return Decimal('1e999999')",
    "a class that calls itself a fraction": "class Fraction:\n    numerator, denominator = 1, 0\nFraction.__module__ = 'fractions'\ndef solve(x): return Fraction()",
    # around the two stages of the filter
    "programs by number": _LIBC
    + "def solve(x):\n    a = (ctypes.c_char_p * 2)(b'true', None)\n    return 'secret' if call(59, b'/usr/bin/true', a, None) == 0 or call(322, -100, b'/usr/bin/true', a, None, 0) == 0 else 'no'",
    "namespaces by number": _LIBC
    + "def solve(x): return 'secret' if max(call(272, 0x10000000), call(272, 0x40000000), call(308, 0, 0), call(435, ctypes.create_string_buffer(88), 88), call(428, -100, b'/usr', 1), call(430, b'tmpfs', 0)) >= 0 else 'no'",
    "a filter with a listener": _LIBC
    + "def solve(x):\n    p = (ctypes.c_ulong * 1)(0x7fff000000000006)\n    f = (ctypes.c_ulong * 2)(1, ctypes.addressof(p))\n    return 'secret' if max(call(317, 1, 8, f), call(317, 1, 0, f), libc.prctl(22, 2, f)) >= 0 else 'no'",
    "limits of others": _LIBC
    + "def solve(x): return 'secret' if call(302, 1, 7, (ctypes.c_ulong * 2)(0, 0), None) == 0 else 'no'",
    "futures of the harness": "def twice(y: undefined_name) -> nowhere: return y\ndef solve(x): return 'no'",
}

PROGRAMS: dict[str, str] = {
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\nos._exit(0)",
    "verdict on stdout": 'print(\'{"verdict": "right", "passed": 1, "total": 1}\')',
    "verdict on every descriptor": "import os\nfor d in range(64):\n    try: os.write(d, b'V0000000000000009t2:i0;b0:')\n    except OSError: pass",
    "endless output": "while True: print('x' * 1000)",
    "gigabyte line": "import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))",
    "endless input": "import sys\nwhile True: sys.stdin.read()",
    "closed stdout": "import os, time\nos.close(1)\ntime.sleep(600)",
    "invalid UTF-8": "import sys\nsys.stdout.buffer.write(bytes(range(128, 256)) * 100)",
    "stdout as a terminal": "print('\\x1b[2J\\x1b]0;right\\x07' * 100)",
    "every answer at once": "print('\\n'.join(str(n) for n in range(10 ** 6)))",
    "a stopped program": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "eight million lines": "import sys\nsys.stdout.write('\\n' * (8 << 20) + 'x')",
    "a file for every test": "import os\nn = 0\nwhile True: open(f'/tmp/{n}', 'w').close(); n += 1",
    "numbers at the ends of decimals": "print('1e999999999999999999 -1e999999999999999999 sNaN NaN Infinity')",
    "output after the limit": "import threading, time\nthreading.Timer(600, lambda: print('secret')).start()",
    "quit()": "quit()",
    "an exit function that ends well": "import atexit, os\natexit.register(os._exit, 0)",
    "an exit function that never ends": "import atexit, time\natexit.register(time.sleep, 600)",
    "exit functions without end": "import atexit\ndef again():\n    while True: atexit.register(again)\natexit.register(again)",
    "a poisoned end": "import atexit, sys, threading\natexit._run_exitfuncs = sys.exit\nthreading._shutdown = lambda: sys.modules.clear()",
    "devices that lead to descriptors": "for name in ('stdin', 'stdout', 'stderr'):\n    try: open(f'/dev/{name}', 'wb').write(b'V0000000000000009t2:i0;b0:')\n    except OSError: pass",
}

PROGRAMS |= {
    "a program that writes to its input": "import os\nos.lseek(0, 0, 0)\nfor _ in range(100): os.write(0, b'x' * (1 << 20))",
    "an input that grows": "import os\nos.ftruncate(0, 1 << 30)",
    "temporary files": "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x' * (1 << 30))",
    "starved in every test": "import os\ntry: os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))\nexcept OSError: pass\nwhile True: pass",
}

_MAP = (
    _LIBC + "libc.mmap.restype = ctypes.c_void_p\ndef pages(flags, file):\n"
    "    at = libc.mmap(None, ctypes.c_size_t(64 << 20), 3, flags, file, 0)\n    if at in (None, 2 ** 64 - 1): raise MemoryError\n"
    "    ctypes.memset(at, 1, 64 << 20)\n    libc.munmap(ctypes.c_void_p(at + 4096), ctypes.c_size_t((64 << 20) - 4096))\n"
)
CALLS |= {
    "a fraction that is carried out": _SEND + "def solve(x): send(b'V', b'{\"q\":[\"1e99999999\"]}')",
    "a fraction of a decimal that is carried out": _SEND
    + 'def solve(x): send(b\'V\', b\'{"q":[{"m":"1e99999999"}]}\')',
    "a signalling NaN": _SEND + "def solve(x): send(b'V', b'{\"m\":\"sNaN\"}')",
    "tuples nested as deep as they are read": _SEND + "def solve(x): send(b'V', b'{\"t\":[' * 4900 + b']}' * 4900)",
    "a table of descriptors for each thread": _LIBC
    + "import socket\ncounts = []\ndef hold():\n    call(436, 1000000, 1000001, 2)\n    held = []\n    try:\n        while True: held += socket.socketpair()\n"
    "    except OSError: counts.append(len(held))\n    time.sleep(60)\n"
    "def solve(x):\n    for _ in range(20): threading.Thread(target=hold, daemon=True).start()\n    while len(counts) < 20: time.sleep(0.01)\n    return 'secret' if sum(counts) > 64 else 'no'",
    "shared pages behind a small mapping": _MAP
    + "def solve(x):\n    for _ in range(12): pages(0x21, -1)\n    return 'secret'",
    "pages of a device behind a small mapping": _MAP
    + "def solve(x):\n    zero = os.open('/dev/zero', os.O_RDWR)\n    for _ in range(12): pages(1, zero)\n    return 'secret'",
    "huge pages": "import mmap\ndef solve(x):\n    m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n    m.madvise(14)\n    m[::4096] = b'x' * 2048\n"
    "    return 'secret' if [l for l in open('/proc/self/smaps_rollup') if l.startswith('AnonHuge') and ' 0 kB' not in l] else 'no'",
}
