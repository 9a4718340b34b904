"""A seccomp filter whose calls somebody else answers: what `epcgroup runtime` puts before an OCI runtime.

statfs, fstatfs, openat2 and bpf's attach, detach and query of programs are notified, all else is allowed; so is
everything of another architecture than x86-64 (i386 programs in a container see the plain truth). Who holds the
listener answers, see `supervisor`. The filter stays with the process and all its descendants for their lives.
"""

import ctypes
import os
import platform
import struct

STATFS, FSTATFS, OPENAT2, BPF = 137, 138, 437, 321
PROG_ATTACH, PROG_DETACH, PROG_QUERY = 8, 9, 16

_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19
_ALLOW, _USER_NOTIF = 0x7FFF0000, 0x7FC00000
_AUDIT_ARCH_X86_64 = 0xC000003E
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NR, _ARCH, _ARGUMENT_0 = 0, 4, 16  # offsets in struct seccomp_data


def missing() -> str | None:
    """Why `install` cannot work here."""
    if platform.machine() != "x86_64":
        return f"system calls are answered on x86_64 only, not on {platform.machine()}"
    if os.geteuid() != 0:
        return "root is needed"
    return None


def program(answers: dict[tuple[int, int | None], int]) -> bytes:
    """A filter: (system call of x86-64, its first argument or None for any) to the value seccomp shall return."""
    code = [(_LOAD, 0, 0, _ARCH), (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64), (_RETURN, 0, 0, _ALLOW)]
    for (number, argument), answer in answers.items():
        code.append((_LOAD, 0, 0, _NR))
        if argument is None:
            code.append((_JUMP_EQUAL, 0, 1, number))
        else:
            code += [(_JUMP_EQUAL, 0, 3, number), (_LOAD, 0, 0, _ARGUMENT_0), (_JUMP_EQUAL, 0, 1, argument)]
        code.append((_RETURN, 0, 0, answer))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def install() -> int:
    """Filter the calling thread from now on; the listener's descriptor. OSError (EBUSY: it has one already)."""
    calls: list[tuple[int, int | None]] = [(STATFS, None), (FSTATFS, None), (OPENAT2, None)]
    calls += [(BPF, PROG_ATTACH), (BPF, PROG_DETACH), (BPF, PROG_QUERY)]
    code = program(dict.fromkeys(calls, _USER_NOTIF))
    instructions = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    # A notified call that Go's own signals interrupt would be done twice; kernels before 5.19 do not know the flag.
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE_RECV, _NEW_LISTENER):
        listener: int = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, head)
        if listener >= 0:
            return listener
        number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
