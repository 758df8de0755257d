"""The system calls that a sandbox may make: two allow-lists by name, compiled by libseccomp.

Compiled outside the sandbox, for x86-64 and aarch64.  bubblewrap loads the first before it starts Python; the harness
loads the second in the candidate's process.  What is on no list does not exist (ENOSYS); the calls of other
architectures, x32 among them, kill.  So there are no processes, programs, namespaces and mounts, no sockets but
socketpair, no scheduling, no asynchronous I/O, leases, locks and timers of the kernel's tables, no kernel memory that
outlives or escapes the address-space limit (memfd, vmsplice, userfaultfd, io_uring, keys, System V IPC, descriptors in
flight), no watching of files, no signals to other processes.
"""

from __future__ import annotations

import functools
import os
import platform

# ruff: noqa: SIM905
# Names that a machine lacks are left out, as are those that its libseccomp does not know.
_CALLS = (
    # what Python and the C library start with and allocate by
    "access arch_prctl brk exit exit_group futex futex_waitv get_robust_list getrandom madvise mprotect mremap "
    "munmap restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "set_robust_list set_tid_address sigaltstack tgkill "
    # files, all of them read-only, and pipes
    "chdir close dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait faccessat "
    "faccessat2 fstat fstatfs getcwd getdents getdents64 lseek lstat newfstatat open openat pipe pipe2 poll ppoll "
    "pread64 preadv pselect6 pwrite64 read readlink readlinkat readv select stat statfs statx umask write writev "
    # who and when
    "alarm clock_getres clock_gettime clock_nanosleep getcpu getegid geteuid getgid getgroups getitimer getpgid "
    "getpgrp getpid getppid getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid nanosleep pause "
    "sched_getaffinity sched_yield setitimer setrlimit sysinfo time times uname wait4 waitid "
    # a pair of connected sockets, which asyncio makes
    "getpeername getsockname getsockopt recvfrom shutdown"
).split()
_HARNESS = "execve fork kill memfd_create mmap prctl prlimit64 seccomp vfork".split()

_NAMESPACES = 0x7E020000  # clone's flags for namespaces of its own
_FILES, _VFORK, _THREAD = 0x00000400, 0x00004000, 0x00010000
_PRIVATE, _KIND = 2, 0x0004000F  # mmap's flags: private, of what is shared, private or of the machine's huge pages
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)  # duplicates and flags; no locks, leases, notices, owners, seals and pipe sizes
_SEALS = 1033
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes waiting, flags
_AF_UNIX = 1
_NAMES = (15, 16)  # prctl: a thread's name


@functools.cache
def filters(machine: str = "") -> tuple[bytes, bytes]:
    """The two filters, as arrays of struct sock_filter.  Raises `OSError` or `ImportError` if they cannot be made."""
    import pyseccomp as seccomp

    kinds = {"x86_64": seccomp.Arch.X86_64, "aarch64": seccomp.Arch.AARCH64}
    machine = machine or platform.machine()
    kind = kinds.get(machine)
    if kind is None:
        raise OSError(f"the sandbox's system calls are not known for {machine} (x86_64 and aarch64 are)")
    whole = (1 << 32) - 1  # the kernel reads the low half of these arguments, whatever the high half holds

    def compiled(harness: bool) -> bytes:
        made = seccomp.SyscallFilter(seccomp.ERRNO(38))
        if not made.exist_arch(kind):
            made.add_arch(kind)
            made.remove_arch(seccomp.Arch.NATIVE)

        def allow(name: str, *arguments: seccomp.Arg) -> None:
            try:
                made.add_rule(seccomp.ALLOW, name, *arguments)
            except (ValueError, OSError):
                if name in ("read", "write", "execve"):
                    raise

        def allow_values(name: str, argument: int, values: tuple[int, ...], mask: int = whole) -> None:
            for value in values:
                allow(name, seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value))

        for name in _CALLS + (_HARNESS if harness else []):
            allow(name)
        allow_values("fcntl", 1, (*_FCNTL, _SEALS) if harness else _FCNTL)
        allow_values("ioctl", 1, _IOCTL)
        allow_values("close_range", 2, (0, 4))  # not into a table of the thread's own
        allow_values("socketpair", 0, (_AF_UNIX,))
        allow("sendto", seccomp.Arg(4, seccomp.EQ, 0))  # to the other end, not to an address
        if harness:
            allow_values("clone", 0, (0,), _NAMESPACES)
        else:
            # threads that share their table of descriptors, so that there is one limit for all of them
            allow_values("clone", 0, (_THREAD | _FILES,), _NAMESPACES | _VFORK | _THREAD | _FILES)
            allow_values("mmap", 3, (_PRIVATE,), _KIND)  # shared memory outlives the mapping that the limit counts
            allow_values("prctl", 0, _NAMES)
            allow_values("prlimit64", 0, (0,))  # its own limits, whose hard ones are fixed
        with open(os.memfd_create("filter"), "wb") as file:
            made.export_bpf(file)
            return os.pread(file.fileno(), 1 << 20, 0)

    return compiled(True), compiled(False)
