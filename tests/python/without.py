"""Runs a command on a kernel that lacks something: a seccomp filter answers for it.

without.py buffer-rings COMMAND...   as before Linux 5.19: IORING_REGISTER_PBUF_RING is unknown (EINVAL)
without.py io-uring COMMAND...       as in a container whose filter refuses io_uring_setup (EPERM)
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RETURN_ALLOW, RETURN_ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
# Offsets in struct seccomp_data: the call's number, and the lower half of its second argument (little endian).
NUMBER, SECOND = 0, 24
# Both calls have these numbers on every architecture.
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
REGISTER_PBUF_RING = 22

FILTERS = {
    "buffer-rings": [
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, IO_URING_REGISTER),
        (LOAD, 0, 0, SECOND),
        (EQUAL, 0, 1, REGISTER_PBUF_RING),
        (RETURN, 0, 0, RETURN_ERRNO | errno.EINVAL),
        (RETURN, 0, 0, RETURN_ALLOW),
    ],
    "io-uring": [
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, RETURN_ERRNO | errno.EPERM),
        (RETURN, 0, 0, RETURN_ALLOW),
    ],
}


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main():
    """Installs the filter and becomes the command."""
    instructions = FILTERS[sys.argv[1]]
    code = b"".join(struct.pack("=HBBI", *i) for i in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for arguments in [
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero),
    ]:
        if libc.prctl(*arguments) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[2], sys.argv[2:])


main()
