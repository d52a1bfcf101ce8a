"""The numbers of WASI preview 1 (wasi_snapshot_preview1, witx) that the runtime needs, and the one way to say no.

An operation answers with an errno. Inside, a refusal is `Refused(Errno.X)`; errors of the host's operating system
are translated by `errno_of`. Nothing here does anything.
"""

import errno
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

MODULE: Final = "wasi_snapshot_preview1"


class Errno(IntEnum):
    """`errno` of preview 1."""

    SUCCESS = 0
    ACCES = 2
    AGAIN = 6
    BADF = 8
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    EXIST = 20
    FAULT = 21
    HOSTUNREACH = 23
    ILSEQ = 25
    INTR = 27
    INVAL = 28
    IO = 29
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    NAMETOOLONG = 37
    NETDOWN = 38
    NETRESET = 39
    NETUNREACH = 40
    NFILE = 41
    NOBUFS = 42
    NOENT = 44
    NOMEM = 48
    NOSPC = 51
    NOTCONN = 53
    NOTDIR = 54
    NOTEMPTY = 55
    NOTSOCK = 57
    NOTSUP = 58
    PERM = 63
    PIPE = 64
    ROFS = 69
    SPIPE = 70
    TIMEDOUT = 73
    XDEV = 75


class FileType(IntEnum):
    """`filetype` of preview 1."""

    UNKNOWN = 0
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_STREAM = 6


class Right:
    """Bits of `rights`. Preview 1 programs look at them to guess what a descriptor is."""

    FD_DATASYNC = 1 << 0
    FD_READ = 1 << 1
    FD_SEEK = 1 << 2
    FD_FDSTAT_SET_FLAGS = 1 << 3
    FD_SYNC = 1 << 4
    FD_TELL = 1 << 5
    FD_WRITE = 1 << 6
    FD_ADVISE = 1 << 7
    PATH_OPEN = 1 << 13
    FD_READDIR = 1 << 14
    PATH_READLINK = 1 << 15
    PATH_FILESTAT_GET = 1 << 18
    FD_FILESTAT_GET = 1 << 21
    POLL_FD_READWRITE = 1 << 27
    SOCK_SHUTDOWN = 1 << 28
    SOCK_ACCEPT = 1 << 29
    ALL = (1 << 30) - 1


APPEND: Final = 1  # fdflags
NONBLOCK: Final = 4

O_CREAT, O_DIRECTORY, O_EXCL, O_TRUNC = 1, 2, 4, 8  # oflags

PEEK, WAITALL = 1, 2  # riflags

SHUT_RD, SHUT_WR = 1, 2  # sdflags

CLOCK, FD_READ, FD_WRITE = 0, 1, 2  # eventtype
ABSOLUTE: Final = 1  # subclockflags
HANGUP: Final = 1  # eventrwflags
REALTIME, MONOTONIC = 0, 1  # clockid

FDSTAT: Final = struct.Struct("<BxHxxxxQQ")  # filetype, flags, rights, inheriting
FILESTAT: Final = struct.Struct("<QQB7xQQQQQ")  # dev, ino, filetype, nlink, size, atim, mtim, ctim
PRESTAT: Final = struct.Struct("<B3xI")  # tag, length of the name
DIRENT: Final = struct.Struct("<QQIB3x")  # next cookie, ino, length of the name, filetype; the name follows
SUBSCRIPTION: Final = struct.Struct("<QB7xQQQQ")  # userdata, type, then clock {id, timeout, precision, flags} or fd
EVENT: Final = struct.Struct("<QHB5xQH6x")  # userdata, errno, type, bytes, flags
IOVEC: Final = struct.Struct("<II")  # address, length
U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")

PRESTAT_DIRECTORY: Final = 0
PRESTAT_OTHER: Final = 1  # no such tag exists: start-up scans of C and Go go on to the next descriptor

_I, _L = "i32", "i64"
SIGNATURES: Final[Mapping[str, tuple[str, ...]]] = {
    # every function but proc_exit returns an errno as i32
    "args_get": (_I, _I),
    "args_sizes_get": (_I, _I),
    "clock_res_get": (_I, _I),
    "clock_time_get": (_I, _L, _I),
    "environ_get": (_I, _I),
    "environ_sizes_get": (_I, _I),
    "fd_advise": (_I, _L, _L, _I),
    "fd_allocate": (_I, _L, _L),
    "fd_close": (_I,),
    "fd_datasync": (_I,),
    "fd_fdstat_get": (_I, _I),
    "fd_fdstat_set_flags": (_I, _I),
    "fd_fdstat_set_rights": (_I, _L, _L),
    "fd_filestat_get": (_I, _I),
    "fd_filestat_set_size": (_I, _L),
    "fd_filestat_set_times": (_I, _L, _L, _I),
    "fd_pread": (_I, _I, _I, _L, _I),
    "fd_prestat_dir_name": (_I, _I, _I),
    "fd_prestat_get": (_I, _I),
    "fd_pwrite": (_I, _I, _I, _L, _I),
    "fd_read": (_I, _I, _I, _I),
    "fd_readdir": (_I, _I, _I, _L, _I),
    "fd_renumber": (_I, _I),
    "fd_seek": (_I, _L, _I, _I),
    "fd_sync": (_I,),
    "fd_tell": (_I, _I),
    "fd_write": (_I, _I, _I, _I),
    "path_create_directory": (_I, _I, _I),
    "path_filestat_get": (_I, _I, _I, _I, _I),
    "path_filestat_set_times": (_I, _I, _I, _I, _L, _L, _I),
    "path_link": (_I, _I, _I, _I, _I, _I, _I),
    "path_open": (_I, _I, _I, _I, _I, _L, _L, _I, _I),
    "path_readlink": (_I, _I, _I, _I, _I, _I),
    "path_remove_directory": (_I, _I, _I),
    "path_rename": (_I, _I, _I, _I, _I, _I),
    "path_symlink": (_I, _I, _I, _I, _I),
    "path_unlink_file": (_I, _I, _I),
    "poll_oneoff": (_I, _I, _I, _I),
    "proc_exit": (_I,),
    "proc_raise": (_I,),
    "random_get": (_I, _I),
    "sched_yield": (),
    "sock_accept": (_I, _I, _I),
    "sock_recv": (_I, _I, _I, _I, _I, _I),
    "sock_send": (_I, _I, _I, _I, _I),
    "sock_shutdown": (_I, _I),
}

_FROM_HOST: Final[Mapping[int, Errno]] = {
    errno.EACCES: Errno.ACCES,
    errno.EAGAIN: Errno.AGAIN,
    errno.EBADF: Errno.BADF,
    errno.ECONNABORTED: Errno.CONNABORTED,
    errno.ECONNREFUSED: Errno.CONNREFUSED,
    errno.ECONNRESET: Errno.CONNRESET,
    errno.EHOSTUNREACH: Errno.HOSTUNREACH,
    errno.EINTR: Errno.INTR,
    errno.EINVAL: Errno.INVAL,
    errno.EIO: Errno.IO,
    errno.EMFILE: Errno.MFILE,
    errno.ENETDOWN: Errno.NETDOWN,
    errno.ENETRESET: Errno.NETRESET,
    errno.ENETUNREACH: Errno.NETUNREACH,
    errno.ENFILE: Errno.NFILE,
    errno.ENOBUFS: Errno.NOBUFS,
    errno.ENOMEM: Errno.NOMEM,
    errno.ENOSPC: Errno.NOSPC,
    errno.ENOTCONN: Errno.NOTCONN,
    errno.ENOTSUP: Errno.NOTSUP,
    errno.EPERM: Errno.PERM,
    errno.EPIPE: Errno.PIPE,
    errno.ETIMEDOUT: Errno.TIMEDOUT,
}


class Refused(Exception):  # noqa: N818 - an answer to the program, no error of ours
    """The operation answers the program with this errno."""

    def __init__(self, number: Errno) -> None:
        super().__init__(number.name)
        self.number = number


def errno_of(error: OSError) -> Errno:
    """The preview 1 errno of an error of the host's operating system; IO where there is no better one."""
    return _FROM_HOST.get(error.errno or 0, Errno.IO)


def signed(value: int) -> int:
    """An i64 that travelled as an unsigned number."""
    return value - (1 << 64) if value >> 63 else value
