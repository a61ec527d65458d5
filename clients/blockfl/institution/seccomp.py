"""A seccomp filter: no sockets but private pairs, no other processes, no namespaces, no ways around Landlock.

What Landlock does not see is refused here:

* UDP and unix sockets, System V shared memory, message queues, kernel keys;
* io_uring, whose requests pass no filter, and ``openat2``, whose flags no filter can read;
* permissions, attributes and times of files, through their path or a descriptor that is open for reading;
* emptying a file by opening it for reading (before Linux 6.2 Landlock does not see it);
* limits, priority and processors of other processes; signals to them by way of a descriptor's owner;
* watching files (inotify, dnotify), and outliving the agent.

Of device requests only those of terminals and descriptors are let through, and NVIDIA's where a GPU is to be used.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; asm/unistd_64.h; asm-generic/unistd.h; fcntl(2);
ioctl_list(2); prctl(2). NVIDIA's open kernel modules, nv-ioctl-numbers.h, uvm_ioctl.h and uvm_linux_ioctl.h.
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

from blockfl.institution.errors import ConfinementError

_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW{USER,PID,NET,IPC,UTS,CGROUP,NS} as clone's flags carry them."""
_LAST_KNOWN = 469
"""Newer system calls do not exist for the training process."""

_ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2")
"""Answered with ENOSYS, so that libraries fall back to what can be looked at."""
_TIMES = ("utimensat", "utime", "utimes", "futimesat")
"""Answered as done: times of files stay as they are, and programs that copy files go on."""
_SIGNALS = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_SELF_ONLY = {"prlimit64": 0, "sched_setaffinity": 0}
"""The argument that names a process, which must be this one."""
_OPENING = {"open": 1, "openat": 2}
"""The argument that carries the flags."""
_PRIORITIES = {"setpriority": 0, "ioprio_set": 1}
"""What the first argument must be so that the second names a process; 0 there is the caller."""
_CONDITIONAL = frozenset(
    {*_SIGNALS, *_ABSENT, *_TIMES, *_SELF_ONLY, *_OPENING, *_PRIORITIES}
    | {"tkill", "socketpair", "clone", "fcntl", "ioctl", "prctl"}
)
"""All others named below are refused with EPERM."""

_ACCESS_MODE, _WRITE_ONLY, _READ_WRITE, _TRUNCATE = 0o3, 0o1, 0o2, 0o1000
_SET_FLAGS, _ASYNC = 4, 0o20000
_DESCRIPTOR_OWNERS = (8, 10, 15, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: each has the kernel signal somebody, or hold somebody up."""
_DEVICE_REQUESTS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_GPU_REQUESTS = (0x30000001, 0x30000002)
"""UVM_INITIALIZE, UVM_DEINITIALIZE; other requests of /dev/nvidia-uvm are plain numbers below 256."""
_GPU_MAGIC = 0x4600
"""NV_IOCTL_MAGIC, 'F', where a request carries its type."""
_SET_PARENT_DEATH_SIGNAL = 1

_SHARED = {
    "process_madvise": 440, "process_mrelease": 448, "pidfd_getfd": 438, "pidfd_send_signal": 424,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435, "openat2": 437,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "move_mount": 429, "open_tree": 428,
    "mount_setattr": 442, "quotactl_fd": 443, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466,
    "open_tree_attr": 467, "file_setattr": 469,
}  # fmt: skip
_X86_64 = _SHARED | {
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "perf_event_open": 298,
    "bpf": 321, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272, "open_by_handle_at": 304,
    "name_to_handle_at": 303, "fanotify_init": 300, "quotactl": 179, "acct": 163, "swapon": 167, "swapoff": 168,
    "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227,
    "clock_adjtime": 305, "adjtimex": 159, "syslog": 103, "ioperm": 173, "iopl": 172, "vhangup": 153,
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "lchown": 94, "fchown": 93, "fchownat": 260,
    "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
    "fremovexattr": 199, "truncate": 76, "migrate_pages": 256, "move_pages": 279, "setsid": 112, "setpgid": 109,
    "kill": 62, "tgkill": 234, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "prlimit64": 302,
    "clone": 56, "fcntl": 72, "ioctl": 16, "prctl": 157, "open": 2, "openat": 257, "utimensat": 280, "utime": 132,
    "utimes": 235, "futimesat": 261, "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254,
    "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314, "sched_setaffinity": 203,
    "setpriority": 141, "ioprio_set": 251,
}  # fmt: skip
_AARCH64 = _SHARED | {
    "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "perf_event_open": 241,
    "bpf": 280, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219, "mount": 40, "umount2": 39,
    "pivot_root": 41, "chroot": 51, "setns": 268, "unshare": 97, "open_by_handle_at": 265, "name_to_handle_at": 264,
    "fanotify_init": 262, "quotactl": 60, "acct": 89, "swapon": 224, "swapoff": 225, "kexec_load": 104,
    "kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106, "reboot": 142,
    "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266,
    "adjtimex": 171, "syslog": 116, "vhangup": 58, "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190,
    "semop": 193, "semctl": 191, "semtimedop": 192, "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187,
    "mq_open": 180, "mq_unlink": 181, "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54, "setxattr": 5,
    "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "truncate": 45,
    "migrate_pages": 238, "move_pages": 239, "setsid": 157, "setpgid": 154, "kill": 129, "tgkill": 131, "tkill": 130,
    "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "prlimit64": 261, "clone": 220,
    "fcntl": 25, "ioctl": 29, "prctl": 167, "openat": 56, "utimensat": 88, "inotify_init1": 26, "inotify_add_watch": 27,
    "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274, "sched_setaffinity": 122,
    "setpriority": 140, "ioprio_set": 30,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor architecture: its audit number and the numbers of its system calls."""

    audit: int
    seccomp: int
    calls: dict[str, int]


_MACHINES = {
    "x86_64": Machine(audit=0xC000003E, seccomp=317, calls=_X86_64),
    "aarch64": Machine(audit=0xC00000B7, seccomp=277, calls=_AARCH64),
}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _load(argument: int) -> Instruction:
    """Load the low 32 bits of an argument: all that the kernel looks at where it expects an ``int``."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


_PERMIT: Instruction = (_RETURN, 0, 0, _ALLOW)
_DENY = _refuse(errno.EPERM)


def _when(number: int, body: list[Instruction]) -> list[Instruction]:
    """For one call: run a body that ends with a verdict."""
    return [(_EQUAL, 0, len(body), number), *body]


def _only(argument: int, allowed: tuple[int, ...], refusal: Instruction = _DENY) -> list[Instruction]:
    """Allow the call when the argument is one of these, else refuse it."""
    body = [_load(argument)]
    for value in allowed:
        body += [(_EQUAL, 0, 1, value), _PERMIT]
    return [*body, refusal]


def _none_of(argument: int, refused: tuple[int, ...]) -> list[Instruction]:
    """Refuse the call when the argument is one of these; what follows decides otherwise."""
    body = [_load(argument)]
    for value in refused:
        body += [(_EQUAL, 0, 1, value), _DENY]
    return body


def _opening(flags: int) -> list[Instruction]:
    """Refuse to empty a file that is not opened for writing."""
    return [
        _load(flags),
        (_BITS, 1, 0, _TRUNCATE),
        _PERMIT,
        (_AND, 0, 0, _ACCESS_MODE),
        (_EQUAL, 2, 0, _WRITE_ONLY),
        (_EQUAL, 1, 0, _READ_WRITE),
        _DENY,
        _PERMIT,
    ]


def _priority(kind: int) -> list[Instruction]:
    """Allow a process to change its own, named as 0."""
    return [_load(0), (_EQUAL, 1, 0, kind), _DENY, *_only(1, (0,))]


_DESCRIPTORS = [
    *_none_of(1, _DESCRIPTOR_OWNERS),
    (_EQUAL, 1, 0, _SET_FLAGS),
    _PERMIT,
    _load(2),
    (_BITS, 0, 1, _ASYNC),
    _DENY,
    _PERMIT,
]
# A datagram pair could be re-addressed to any named socket; a connected stream cannot.
_PAIRS = [
    _load(0),
    (_EQUAL, 0, 3, 1),
    _load(1),
    (_AND, 0, 0, 0xF),
    (_EQUAL, 1, 0, 1),
    _DENY,
    _PERMIT,
]
_FORKS = [_load(0), (_BITS, 0, 1, _NEW_NAMESPACES), _DENY, _PERMIT]


_OF_GPU = [
    (_AND, 0, 0, 0xFFFFFF00),
    (_EQUAL, 0, 1, 0),
    _PERMIT,
    (_AND, 0, 0, 0xFF00),
    (_EQUAL, 0, 1, _GPU_MAGIC),
    _PERMIT,
]
"""Permits NVIDIA's requests; the request is loaded."""


def compile_filter(machine: Machine, *, pid: int, signals_scoped: bool, gpu: bool = False) -> tuple[Instruction, ...]:
    """Return the filter's program. Pure.

    Args:
        machine: The architecture; calls of any other end the process.
        pid: The process itself, the only one whose limits it may change.
        signals_scoped: Whether Landlock keeps signals inside; if not, it may only signal itself.
        gpu: Whether NVIDIA's requests to devices are let through.
    """
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        (_AT_LEAST, 0, 1, _LAST_KNOWN + 1),
        _refuse(errno.ENOSYS),
    ]
    calls = machine.calls
    for name, number in calls.items():
        if name not in _CONDITIONAL:
            program += [(_EQUAL, 0, 1, number), _DENY]
    for name in _ABSENT:
        program += [(_EQUAL, 0, 1, calls[name]), _refuse(errno.ENOSYS)]
    for name in _TIMES:
        if name in calls:
            program += [(_EQUAL, 0, 1, calls[name]), _refuse(0)]
    for name, flags in _OPENING.items():
        if name in calls:
            program += _when(calls[name], _opening(flags))
    for name, kind in _PRIORITIES.items():
        program += _when(calls[name], _priority(kind))
    for name, argument in _SELF_ONLY.items():
        program += _when(calls[name], _only(argument, (0, pid)))
    program += _when(calls["socketpair"], _PAIRS)
    program += _when(calls["clone"], _FORKS)
    program += _when(calls["fcntl"], _DESCRIPTORS)
    requests = _only(1, _DEVICE_REQUESTS + (_GPU_REQUESTS if gpu else ()), _refuse(errno.ENOTTY))
    program += _when(calls["ioctl"], [*requests[:-1], *(_OF_GPU if gpu else ()), requests[-1]])
    program += _when(calls["prctl"], [*_none_of(0, (_SET_PARENT_DEATH_SIGNAL,)), _PERMIT])
    if not signals_scoped:
        for name in _SIGNALS:
            program += _when(calls[name], _only(0, (pid,)))
        program += [(_EQUAL, 0, 1, calls["tkill"]), _DENY]
    program.append(_PERMIT)
    return tuple(program)


def install(*, signals_scoped: bool, gpu: bool = False) -> None:
    """Filter the system calls of every thread of this process, for ever. Needs no_new_privs.

    Raises:
        ConfinementError: The architecture is not known, or the kernel refuses.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        known = ", ".join(sorted(_MACHINES))
        raise ConfinementError(f"no system call filter for {platform.machine()}: expected one of {known}")
    instructions = compile_filter(machine, pid=os.getpid(), signals_scoped=signals_scoped, gpu=gpu)
    array = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    program = _Program(len(instructions), array)
    library = ctypes.CDLL(None, use_errno=True)
    number, mode, flags = ctypes.c_long(machine.seccomp), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_FLAG_TSYNC)
    if library.syscall(number, mode, flags, ctypes.byref(program)) != 0:
        raise ConfinementError(f"the kernel refuses a seccomp filter: {os.strerror(ctypes.get_errno())}")
