"""A connection to a Ray cluster: the right words if there is none, and nothing of Ray's on standard output."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING

from resurgsam2_cli.errors import DeviceError, UsageError
from resurgsam2_cli.files.text import one_line
from resurgsam2_cli.process.interruption import uninterrupted

if TYPE_CHECKING:
    from types import ModuleType

_KNOCK = 10.0
"""Seconds in which a cluster has to take a connection."""


def ray_module() -> ModuleType:
    """Ray, which is imported only where it is wanted. Raises :class:`UsageError` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machines unasked
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed", "pip install 'ray[default]'") from error
    return ray


@contextmanager
def connected(ray: ModuleType, address: str, *, verbose: bool) -> Iterator[None]:
    """A connection to a cluster; one that the caller made stays. Raises :class:`DeviceError`."""
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        with uninterrupted():
            ray.init(address=address, log_to_driver=verbose, logging_level=logging.ERROR, include_dashboard=False)
    except ray.exceptions.AuthenticationError as error:
        raise _no_token(address) from error
    except OSError as error:
        if "AuthToken" in "".join(traceback.format_exception(error)):
            raise _no_token(address) from error
        raise _no_answer(address) from error
    except Exception as error:  # of an address, a version of Python or of Ray, a node that starts too slowly
        hint = "try again, and see docs/cluster.md"
        raise DeviceError(f"{address}: Ray cannot connect ({one_line(str(error))})", hint) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
    try:
        # Ray says on standard output what it sees of lost machines; there, a caller may read JSON.
        with open(os.devnull, "w") as nothing, redirect_stdout(sys.stderr if verbose else nothing):
            yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """See whether a cluster answers, for which Ray would wait for minutes, and whether it asks for a token.

    Ray must know that before it is imported. Raises :class:`DeviceError`, and :class:`UsageError` for what is no
    address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address in ("auto", "local"):
        return
    where = address.removeprefix("ray://")
    host, _, port = where.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or "/" in host:
        raise UsageError(f"--address {address!r} is none", "write HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK).close()
    except OSError as error:
        raise _no_answer(address) from error
    with suppress(ImportError):  # it comes with ray[default]
        import grpc

        with grpc.insecure_channel(where) as channel:
            try:
                channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=_KNOCK)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    os.environ.setdefault("RAY_AUTH_MODE", "token")
                elif error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # as the server of ray:// says
                    raise _no_answer(address) from error


def _no_token(address: str) -> DeviceError:
    return DeviceError(
        f"{address}: the cluster asks for another token than this machine has, or for one at all",
        "copy ~/.ray/auth_token from the machine that has it (see docs/cluster.md)",
    )


def _no_answer(address: str) -> DeviceError:
    where = "this machine is in no Ray cluster" if address == "auto" else f"{address}: no Ray cluster answers"
    return DeviceError(where, "start one as docs/cluster.md says, or name one: --address HOST:PORT")
