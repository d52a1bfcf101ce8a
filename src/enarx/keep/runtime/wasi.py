"""The operations of WASI preview 1 on the descriptors that Python serves, one method each, named as in witx.

A method gets the descriptor and the other arguments of its function, as unsigned numbers that nobody has checked:
addresses go through `GuestMemory`, flags are compared with what is known, and everything that is answered is written
before the method returns. Refusals leave as `Refused`; `enarx.keep.runtime.engine` turns them into numbers.
"""

from collections.abc import Callable
from typing import Final

from enarx.keep.runtime import poll
from enarx.keep.runtime.abi import (
    DIRENT,
    FDSTAT,
    FILESTAT,
    PEEK,
    PRESTAT,
    PRESTAT_DIRECTORY,
    PRESTAT_OTHER,
    SIGNATURES,
    U16,
    U32,
    U64,
    WAITALL,
    Errno,
    Refused,
    signed,
)
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.memory import GuestMemory
from enarx.keep.runtime.router import MAX_DESCRIPTORS, OPERATIONS, PYTHON
from enarx.keep.runtime.waiting import Waiter

_WITHOUT_DESCRIPTOR: Final = frozenset({"poll_oneoff", "proc_exit"})
_LAST_ADVICE: Final = 5  # noreuse
_FIRST_PREOPEN: Final = 3  # where programs begin to look for directories
_DESCRIPTOR_LATER: Final = frozenset({"path_symlink"})  # the descriptor stands between the other arguments


class Exit(Exception):  # noqa: N818 - how a program ends, no error of ours
    """The program called proc_exit."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Descriptors:
    """The open descriptors of a program, by token; its threads share them."""

    def __init__(self, limit: int = MAX_DESCRIPTORS) -> None:
        self.limit = limit
        self.open: list[Descriptor | None] = []
        self.free: list[int] = []


class Wasi:
    """The state behind one running thread of a program: its memory, and what the tokens in the table mean."""

    def __init__(self, memory: GuestMemory, waiter: Waiter, descriptors: Descriptors | None = None) -> None:
        self.memory, self.waiter = memory, waiter
        self.mailbox = memoryview(bytearray(8 * 16)).cast("Q")  # the engine puts the router's in place
        self.table = memoryview(bytearray(4 * MAX_DESCRIPTORS)).cast("I")  # as above
        self.descriptors = descriptors or Descriptors()
        self._open, self._free = self.descriptors.open, self.descriptors.free

    # -- descriptors

    def adopt(self, table: memoryview) -> None:
        """Put what was placed before the start into the router's table, and use that from now on."""
        for number, entry in enumerate(self.table):
            if entry:
                table[number] = entry
        self.table = table

    def add(self, descriptor: Descriptor) -> int:
        """The token of a new descriptor. Refused(MFILE) beyond the limit."""
        if len(self._open) - len(self._free) >= self.descriptors.limit:
            descriptor.close()
            raise Refused(Errno.MFILE)
        if self._free:
            token = self._free.pop()
            self._open[token] = descriptor
            return token
        self._open.append(descriptor)
        return len(self._open) - 1

    def place(self, number: int, descriptor: Descriptor) -> None:
        """Give the program `descriptor` as number `number`, before it starts."""
        self.table[number] = PYTHON | self.add(descriptor)

    def close_all(self) -> None:
        for token, descriptor in enumerate(self._open):
            if descriptor is not None:
                self._open[token] = None
                descriptor.close()

    def get(self, token: int) -> Descriptor:
        """The descriptor of a token that the router found in its table."""
        descriptor = self._open[token]
        if descriptor is None:
            raise Refused(Errno.BADF)
        return descriptor

    def find(self, number: int) -> Descriptor | str | None:
        """What the program's descriptor `number` is: ours, NATIVE, or closed."""
        entry = self.table[number] if number < MAX_DESCRIPTORS else 0
        if not entry:
            return None
        return self.get(entry & ~PYTHON) if entry & PYTHON else poll.NATIVE

    def operations(self) -> tuple[Callable[[], int], ...]:
        """By operation number of the router, what serves it: takes its arguments from the mailbox, returns an errno."""
        return tuple(getattr(self, f"_{name}", None) or self._adapt(name) for name in OPERATIONS)

    def _adapt(self, name: str) -> Callable[[], int]:
        """Call the method of that name with the descriptor and the arguments that are in the mailbox."""
        method: Callable[..., None] = getattr(self, name)
        if name.startswith("path_"):
            method = _within(method)
        end = 3 + len(SIGNATURES[name])
        start = 3 if name in _WITHOUT_DESCRIPTOR or name in _DESCRIPTOR_LATER else 4
        has_descriptor = name not in _WITHOUT_DESCRIPTOR

        def operation() -> int:
            mailbox = self.mailbox
            self.memory.update(mailbox[2])
            if has_descriptor:
                method(self.get(mailbox[1]), *mailbox[start:end])
            else:
                method(*mailbox[start:end])
            return 0

        return operation

    # -- reads and writes, whose arguments the router has prepared

    def _read(self) -> int:
        mailbox, memory = self.mailbox, self.memory
        memory.update(mailbox[2])
        mailbox[3] = self.get(mailbox[1]).read(memory.slice(mailbox[3], mailbox[4]))
        return 0

    def _write(self) -> int:
        mailbox, memory = self.mailbox, self.memory
        memory.update(mailbox[2])
        mailbox[3] = self.get(mailbox[1]).write(memory.slice(mailbox[3], mailbox[4]))
        return 0

    def _readv(self) -> int:
        mailbox, memory = self.mailbox, self.memory
        memory.update(mailbox[2])
        mailbox[3] = self.get(mailbox[1]).readv(memory.iovecs(mailbox[3], mailbox[4]))
        return 0

    def _writev(self) -> int:
        mailbox, memory = self.mailbox, self.memory
        memory.update(mailbox[2])
        mailbox[3] = self.get(mailbox[1]).writev(memory.iovecs(mailbox[3], mailbox[4]))
        return 0

    def _fd_close(self) -> int:
        token = self.mailbox[1]
        descriptor = self.get(token)
        self._open[token] = None
        self._free.append(token)
        descriptor.close()
        return 0

    def _cross(self) -> int:
        """Something is to go from a directory of the host to this descriptor."""
        self.get(self.mailbox[1]).require_directory()
        return Errno.XDEV

    # -- everything else

    def poll_oneoff(self, source: int, target: int, count: int, result: int) -> None:
        poll.poll_oneoff(self.memory, self.waiter, self.find, (source, target, count, result))

    def proc_exit(self, status: int) -> None:
        raise Exit(status)

    def fd_advise(self, file: Descriptor, offset: int, length: int, advice: int) -> None:
        file.advise()
        if advice > _LAST_ADVICE or signed(offset) < 0 or signed(length) < 0:
            raise Refused(Errno.INVAL)

    def fd_allocate(self, file: Descriptor, offset: int, length: int) -> None:
        file.allocate(signed(offset), signed(length))

    def fd_datasync(self, file: Descriptor) -> None:
        file.sync()

    def fd_sync(self, file: Descriptor) -> None:
        file.sync()

    def fd_fdstat_get(self, file: Descriptor, target: int) -> None:
        self.memory.pack(FDSTAT, target, file.filetype, file.flags, file.rights, file.inheriting)

    def fd_fdstat_set_flags(self, file: Descriptor, flags: int) -> None:
        file.set_flags(flags)

    def fd_fdstat_set_rights(self, file: Descriptor, rights: int, inheriting: int) -> None:
        del rights, inheriting
        file.set_rights()

    def fd_filestat_get(self, file: Descriptor, target: int) -> None:
        self.memory.pack(FILESTAT, target, *file.stat())

    def fd_filestat_set_size(self, file: Descriptor, size: int) -> None:
        file.set_size(size)

    def fd_filestat_set_times(self, file: Descriptor, accessed: int, modified: int, flags: int) -> None:
        file.set_times(accessed, modified, flags)

    def fd_pread(self, file: Descriptor, iovecs: int, count: int, offset: int, result: int) -> None:
        self.memory.slice(result, 4)
        self.memory.pack(U32, result, file.pread(self.memory.iovecs(iovecs, count), signed(offset)))

    def fd_pwrite(self, file: Descriptor, iovecs: int, count: int, offset: int, result: int) -> None:
        self.memory.slice(result, 4)
        self.memory.pack(U32, result, file.pwrite(self.memory.iovecs(iovecs, count), signed(offset)))

    def fd_seek(self, file: Descriptor, offset: int, whence: int, result: int) -> None:
        self.memory.slice(result, 8)
        self.memory.pack(U64, result, file.seek(signed(offset), whence))

    def fd_tell(self, file: Descriptor, result: int) -> None:
        self.memory.pack(U64, result, file.seek(0, 1))

    def fd_prestat_get(self, file: Descriptor, target: int) -> None:
        name = file.preopened_as()
        if name is None and self.mailbox[3] < _FIRST_PREOPEN:
            raise Refused(Errno.BADF)
        if name is None:
            self.memory.pack(PRESTAT, target, PRESTAT_OTHER, 0)
        else:
            self.memory.pack(PRESTAT, target, PRESTAT_DIRECTORY, len(name.encode()))

    def fd_prestat_dir_name(self, file: Descriptor, target: int, length: int) -> None:
        name = file.preopened_as()
        if name is None:
            raise Refused(Errno.NOTDIR)
        if length < len(name.encode()):
            raise Refused(Errno.NAMETOOLONG)
        self.memory.write(target, name.encode())

    def fd_readdir(self, file: Descriptor, target: int, length: int, cookie: int, result: int) -> None:
        file.require_directory()
        buffer = self.memory.slice(target, length)
        self.memory.slice(result, 4)
        used = 0
        for index, (name, inode, kind) in enumerate(file.entries()[cookie:], start=cookie + 1):
            record = DIRENT.pack(index, inode, len(name.encode()), kind) + name.encode()
            part = record[: length - used]
            buffer[used : used + len(part)] = part
            used += len(part)
            if used == length:
                break  # a record that is cut off is asked for again, with its cookie
        self.memory.pack(U32, result, used)

    def path_create_directory(self, directory: Descriptor, path: int, length: int) -> None:
        directory.create_directory(self.memory.path(path, length))

    def path_filestat_get(self, directory: Descriptor, flags: int, path: int, length: int, target: int) -> None:
        del flags  # whether links are followed: there are none
        self.memory.pack(FILESTAT, target, *directory.stat_path(self.memory.path(path, length)))

    def path_filestat_set_times(
        self, directory: Descriptor, flags: int, path: int, length: int, accessed: int, modified: int, which: int
    ) -> None:
        del flags  # as above
        directory.set_path_times(self.memory.path(path, length), accessed, modified, which)

    def path_link(
        self, directory: Descriptor, flags: int, path: int, length: int, other: int, target: int, target_length: int
    ) -> None:
        if flags:
            raise Refused(Errno.INVAL)
        directory.link(self.memory.path(path, length), self._other(other), self.memory.path(target, target_length))

    def path_open(
        self,
        directory: Descriptor,
        lookup: int,
        path: int,
        length: int,
        oflags: int,
        rights: int,
        inheriting: int,
        flags: int,
        result: int,
    ) -> None:
        del lookup, inheriting
        self.memory.slice(result, 4)
        self.mailbox[3] = self.add(directory.open(self.memory.path(path, length), oflags, rights, flags))

    def path_readlink(
        self, directory: Descriptor, path: int, length: int, target: int, target_length: int, result: int
    ) -> None:
        self.memory.slice(target, target_length)
        self.memory.slice(result, 4)
        found = directory.readlink(self.memory.path(path, length))[:target_length]
        self.memory.write(target, found)
        self.memory.pack(U32, result, len(found))

    def path_remove_directory(self, directory: Descriptor, path: int, length: int) -> None:
        directory.remove_directory(self.memory.path(path, length))

    def path_rename(
        self, directory: Descriptor, path: int, length: int, other: int, target: int, target_length: int
    ) -> None:
        directory.rename(self.memory.path(path, length), self._other(other), self.memory.path(target, target_length))

    def path_symlink(
        self, directory: Descriptor, target: int, target_length: int, number: int, path: int, length: int
    ) -> None:
        del number
        self.memory.path(target, target_length)
        directory.symlink(self.memory.path(path, length))

    def path_unlink_file(self, directory: Descriptor, path: int, length: int) -> None:
        directory.unlink(self.memory.path(path, length))

    def _other(self, number: int) -> Descriptor:
        """The second descriptor of a function, a directory of ours."""
        found = self.find(number)
        if found is None:
            raise Refused(Errno.BADF)
        if not isinstance(found, Descriptor):  # one of wasmtime's own: between the two there is no way
            raise Refused(Errno.XDEV)
        found.require_directory()
        return found

    def sock_accept(self, listener: Descriptor, flags: int, result: int) -> None:
        self.memory.slice(result, 4)
        self.mailbox[3] = self.add(listener.accept(flags))

    def sock_recv(self, sock: Descriptor, iovecs: int, count: int, flags: int, result: int, result_flags: int) -> None:
        self.memory.slice(result, 4)
        self.memory.slice(result_flags, 2)
        buffers = self.memory.iovecs(iovecs, count)
        if flags & ~(PEEK | WAITALL):
            raise Refused(Errno.NOTSUP)
        received = sock.receive(buffers, peek=bool(flags & PEEK), wait_all=bool(flags & WAITALL))
        self.memory.pack(U16, result_flags, 0)
        self.memory.pack(U32, result, received)

    def sock_send(self, sock: Descriptor, iovecs: int, count: int, flags: int, result: int) -> None:
        self.memory.slice(result, 4)
        buffers = self.memory.iovecs(iovecs, count)
        if flags:
            raise Refused(Errno.NOTSUP)
        self.memory.pack(U32, result, sock.send(buffers))

    def sock_shutdown(self, sock: Descriptor, how: int) -> None:
        sock.shutdown(how)


def _within(method: Callable[..., None]) -> Callable[..., None]:
    """Whatever is done to a path is done in a directory: that is looked at first, as wasmtime does."""

    def checked(*arguments: object) -> None:
        next(found for found in arguments if isinstance(found, Descriptor)).require_directory()
        method(*arguments)

    return checked
