"""The seccomp filter of the candidate's process, as the bytes of classic BPF instructions.

Denied (EPERM): making processes (threads are allowed), running other programs, namespaces and mounts, looking into
other processes, kernel memory that outlives or escapes the address-space limit (memfd, System V IPC, keys,
io_uring, bpf, userfaultfd), setting clocks, sockets other than internet and Unix ones (AF_VSOCK reaches the machine
that runs this virtual machine, whatever the network namespace).  What is not listed is allowed: the namespaces, limits
and read-only mounts around it are what isolates; this takes the tools away that stretch them.
"""

from __future__ import annotations

import platform
import struct

# number by architecture: (x86_64, aarch64); None where the call does not exist
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "personality": (135, 92),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "syslog": (103, 116), "process_madvise": (440, 440), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
# column, AUDIT_ARCH, clone, socket, socketpair
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 56, 41, 53), "aarch64": (1, 0xC00000B7, 220, 198, 199)}
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_CLONE3 = 435
_CLONE_THREAD = 0x00010000
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def supported() -> bool:
    """Whether this machine's system calls are known here."""
    return platform.machine() in _ARCHITECTURES


def program() -> bytes:
    """The filter: struct sock_filter (u16 code, u8 jump if true, u8 jump if false, u32 value), one after another."""
    column, audit, clone, *sockets = _ARCHITECTURES[platform.machine()]
    numbers = sorted(pair[column] for pair in _DENIED.values() if pair[column] is not None)  # type: ignore[type-var]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 0, 1, 0x40000000),  # the x32 calls, which have numbers of their own
        (_RETURN, 0, 0, _EPERM),
        (_EQUAL, 0, 1, _CLONE3),  # its flags lie in memory, out of a filter's sight; libc then uses clone
        (_RETURN, 0, 0, _ENOSYS),
        (_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, 16),  # low half of the first argument: the flags
        (_BITS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    for call in sockets:
        code += [(_EQUAL, 0, 6, call), (_LOAD, 0, 0, 16)]
        code += [(_EQUAL, 3 - place, 0, family) for place, family in enumerate(_FAMILIES)]
        code += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for number in numbers:
        assert number is not None
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
