"""Names in a folder that others write to, too: the only code that gives, replaces or deletes one.

A target is filled beside its final name by one process, and takes that name when it is complete. Names in a folder are
given, completed and taken away under a lock, ``.resurgsam2.lock``. What a kill can leave, and what the next start that
wants the same name does about it:

==========================================  =====================================================
``<name>.partial``, empty or marked         thrown away, once somebody fills it anew
the same, with something of a person's      left alone; an error names it
``<name>.partial``, marked and complete     put in place of ``<name>``, if no work of a person's is there
``<name>``, complete but still marked       the marker is removed
``.resurgsam2.trash/``                      emptied: nothing is deleted under a name that counts
``.<name>.partial`` (a file)                overwritten
==========================================  =====================================================

The marker, ``.unfinished``, is locked while a process is filling the folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from resurgsam2_cli.errors import OutputError
from resurgsam2_cli.files.atomic import ELSEWHERE, writing
from resurgsam2_cli.files.kinds import PARTIAL, SUCCEEDS, UNFINISHED, Kind, check_free, is_empty
from resurgsam2_cli.files.locks import Lock, remove_empty

LOCK = ".resurgsam2.lock"
TRASH = ".resurgsam2.trash"
_PATIENCE = 60.0  # seconds to wait for a lock that is only held briefly


class Busy(OutputError):
    """Another process is filling the target."""


@contextmanager
def naming(folder: Path, elsewhere: str = ELSEWHERE) -> Iterator[Sequence[Path]]:
    """Keep other processes from giving, completing or taking away names in ``folder`` during the block.

    Makes the folder if it is missing; yields the folders that it made, which go again if nothing is put there. Hold
    the lock only briefly. Raises :class:`OutputError`.
    """
    with writing(folder, elsewhere):
        lock = Lock.inside(folder, LOCK)
        if not lock.acquire(_PATIENCE):
            raise OutputError(f"{folder}: another program has kept it locked for {_PATIENCE:.0f} s", "try again")
    try:
        yield lock.made
    finally:
        lock.release()


def is_busy(folder: Path) -> bool:
    """Whether a process is filling this partial folder."""
    marker = folder / UNFINISHED
    if not marker.exists():
        return False
    lock = Lock(marker)
    if not lock.acquire():
        return True
    lock.release(remove=False)
    return False


def partial_of(path: Path) -> Path:
    """Where ``path`` is filled."""
    return path.with_name(path.name + PARTIAL)


def settle(path: Path, kind: Kind) -> None:
    """Finish what a killed process left of ``path``; call it under :func:`naming`.

    Raises :class:`OutputError` if something that this program did not make is in the way.
    """
    if (path / UNFINISHED).exists() and kind.is_complete(path) and not is_busy(path):
        _unmark(path)
    partial = partial_of(path)
    if not os.path.lexists(partial) or is_busy(partial):
        return
    marked = (partial / UNFINISHED).exists()
    if partial.is_dir() and marked and kind.is_complete(partial):
        if path.exists() and not is_empty(path) and not (_may_go(path, kind) or kind.succeeds(partial, path)):
            raise OutputError(f"{partial}: is complete, but {path.name} is in the way", "move one of them away")
        _take_place(partial, path)
    elif not partial.is_dir() or not (marked or is_empty(partial)):
        raise OutputError(f"{partial}: is in the way", "rename it, or choose another folder with -o")


def _may_go(path: Path, kind: Kind) -> bool:
    """Whether nothing of a user's would be lost with it."""
    return kind.is_complete(path) and not kind.foreign(path) and not kind.touched(path)


def discard_leftovers(path: Path, kind: Kind | None = None) -> None:
    """Throw away what a killed process left beside a target that is complete; call it under :func:`naming`.

    What a person added or changed there is left alone.
    """
    partial = partial_of(path)
    if not partial.is_dir() or not (is_empty(partial) or (partial / UNFINISHED).exists()) or is_busy(partial):
        return
    if kind is None or not (kind.touched(partial) or kind.foreign(partial)):
        _to_trash(partial)


def _take_place(partial: Path, path: Path) -> None:
    """Give ``partial`` its final name, then remove its marker. What had that name is thrown away."""
    old = _to_trash(path) if os.path.lexists(path) else None
    try:
        os.rename(partial, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    _unmark(path)


def _unmark(path: Path) -> None:
    """Remove the signs that a folder was being filled."""
    for name in (SUCCEEDS, UNFINISHED):
        (path / name).unlink(missing_ok=True)


def _to_trash(path: Path) -> Path:
    """Rename to a name that means nothing, so that a kill may interrupt deleting it at any point."""
    trash = path.parent / TRASH
    while True:
        if trash.is_symlink():
            raise FileExistsError(errno.EEXIST, "is a link to somewhere else", str(trash))
        trash.mkdir(exist_ok=True)
        target = trash / uuid4().hex
        try:
            os.rename(path, target)
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            continue  # another process has just removed the empty trash folder
        return target


def empty_trash(folder: Path) -> None:
    """Delete what was thrown away in ``folder``, as far as that is possible."""
    trash = folder / TRASH
    try:
        thrown_away = [] if trash.is_symlink() else list(trash.iterdir())
    except OSError:
        return
    for path in thrown_away:
        _delete(path)
    with suppress(OSError):
        trash.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def tidy(folder: Path) -> None:
    """Remove the lock and the trash that a killed process left."""
    with naming(folder):
        pass
    empty_trash(folder)


def throw_away(path: Path) -> None:
    """Delete a file or folder of this program; a kill on the way never leaves half of it. Raises ``OSError``."""
    with naming(path.parent):
        _to_trash(path)
    empty_trash(path.parent)


class Filling:
    """A target that this process alone fills, in the folder ``partial``, until :meth:`complete`.

    Leaving the block before that throws the partial folder away, unless :meth:`keep` was called.
    """

    def __init__(self, path: Path, kind: Kind, *, overwrite: bool, made: Sequence[Path] = ()) -> None:
        """``made`` are folders around it that were not there, the innermost first; empty ones go with what failed."""
        self.path, self.partial = path, partial_of(path)
        self._kind, self._overwrite, self._made = kind, overwrite, made
        self.lock = Lock(self.partial / UNFINISHED)
        """Held until it is over."""
        self._over = False

    def begin(self) -> None:
        """Make the partial folder anew; call it under :func:`naming`, after :func:`settle`.

        Raises :class:`Busy`, and ``OSError``.
        """
        check_free(self.path, self._kind, overwrite=self._overwrite)
        if is_busy(self.partial):
            raise self._busy()
        if os.path.lexists(self.partial):
            if (foreign := self._kind.foreign(self.partial)) or self._kind.touched(self.partial):
                named = f" ({foreign[0]})" if foreign else ""
                raise OutputError(
                    f"{self.partial}: holds what a person changed or added{named}, so it is not thrown away",
                    f"rename it, or {self._kind.elsewhere}",
                )
            _to_trash(self.partial)
        self.partial.mkdir()
        try:
            if not self.lock.acquire(_PATIENCE):  # somebody may be looking at it just now
                raise self._busy()
        except BaseException:
            _delete(self.partial)
            raise

    def _busy(self) -> Busy:
        return Busy(f"{self.path}: another run is writing it", f"wait for it, or {self._kind.elsewhere}")

    def __enter__(self) -> Filling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            self.abandon()

    def keep(self) -> None:
        """Leave the partial folder where it is: what it holds is useful, though not complete."""
        self._over = True
        self.lock.release(remove=False)

    def complete(self, single_file: str = "") -> None:
        """Give the target its final name. If the target is a file, ``single_file`` is the one that becomes it.

        Raises :class:`OutputError` if something else has taken the name meanwhile; a folder is then kept.
        """
        elsewhere = self._kind.elsewhere
        with naming(self.path.parent, elsewhere), writing(self.path, elsewhere):
            try:
                check_free(self.path, self._kind, overwrite=self._overwrite)
            except OutputError as error:
                if not single_file:
                    self.keep()
                    raise OutputError(f"{error.message}; all is kept in {self.partial}", error.hint) from error
                raise
            if single_file:
                os.replace(self.partial / single_file, self.path)
                self._over = True
                self.lock.release(remove=False)
                _to_trash(self.partial)
            else:
                self._over = True
                self.lock.release(remove=False)
                _take_place(self.partial, self.path)
        empty_trash(self.path.parent)

    def abandon(self) -> None:
        """Throw the partial folder away."""
        try:
            with naming(self.path.parent):
                self.abandon_now()
        except OutputError:
            self.abandon_now()
        empty_trash(self.path.parent)
        remove_empty(self._made)

    def abandon_now(self) -> None:
        """The same, for callers that hold :func:`naming` already."""
        self._over = True
        self.lock.release(remove=False)
        with suppress(OSError):
            if self._kind.foreign(self.partial):  # somebody has put something of his own there meanwhile
                return
        try:
            _to_trash(self.partial)
        except OSError:  # no room even for a name in the trash: delete it here, the marker last
            for path in [x for x in _children(self.partial) if x.name != UNFINISHED]:
                _delete(path)
            _delete(self.partial)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def fill(path: Path, kind: Kind, *, overwrite: bool) -> Filling:
    """Claim ``path`` for filling. Raises :class:`OutputError`, and :class:`Busy` if another process fills it."""
    path = Path(os.path.abspath(path))
    if path.name.lower().endswith(PARTIAL):
        raise OutputError(f"{path}: names that end in {PARTIAL} are for what is unfinished", kind.elsewhere)
    if path in (here := Path.cwd(), *here.parents):
        raise OutputError(f"{path}: is the present folder, or one around it", f"leave it first, or {kind.elsewhere}")
    try:
        with naming(path.parent, kind.elsewhere) as made, writing(path, kind.elsewhere):
            settle(path, kind)
            filling = Filling(path, kind, overwrite=overwrite, made=made)
            filling.begin()
    finally:
        empty_trash(path.parent)
    return filling


@contextmanager
def new_file(path: Path, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write; it becomes ``path`` when the block completes. Raises :class:`OutputError`."""
    path = Path(os.path.realpath(path))
    with fill(path, kind, overwrite=overwrite) as filling, writing(path):
        content = filling.partial / path.name
        yield content
        filling.complete(content.name)


def claim_folder(folder: Path) -> Lock:
    """Lock a folder that a command adds to for as long as it runs. Raises :class:`Busy`."""
    with writing(folder):
        lock = Lock.inside(folder, UNFINISHED)
        if not lock.acquire():
            raise Busy(f"{folder}: another program is working in it", "wait for it, or choose another folder with -o")
    return lock
