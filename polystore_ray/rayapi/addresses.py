"""Addresses of clusters, checked before Ray is asked to connect."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError

from polystore_ray.deadline import Deadline
from polystore_ray.errors import StoreUnavailableError

__all__ = ["TokenRefusedError", "require_answer", "require_listener"]

_ANSWER_WITHIN = 5.0  # seconds


class TokenRefusedError(StoreUnavailableError):
    """Signal that a cluster wants a token that this process lacks."""


def require_listener(address: str, within: float = _ANSWER_WITHIN) -> None:
    """Raise at once where nothing listens at ``host:port``.

    Ray itself tries for a minute and then ends the process. Addresses of another form (``auto``,
    ``local``, ``ray://...``) are left to it.

    Raises `StoreUnavailableError` if no connection can be made within 5 s.
    """
    if not _is_host_and_port(address):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=max(within, 0.001)):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise StoreUnavailableError(f"no Ray cluster answers at {address!r} ({error})") from error


def require_answer(address: str, deadline: Deadline) -> None:
    """Raise by a deadline where no control store of a cluster answers at ``host:port``.

    A cluster that hangs, or another program at its port, accepts connections; Ray would wait for
    it for minutes. Addresses of another form are left to Ray, as by `require_listener`.

    Raises `StoreUnavailableError` if there is no answer, and `TokenRefusedError` if the cluster
    wants a token, and that of this process is missing or wrong.
    """
    require_listener(address, min(_ANSWER_WITHIN, deadline.left))
    if not _is_host_and_port(address):
        return
    answered: Future[None] = Future()
    threading.Thread(target=_ask, args=(address, answered), daemon=True).start()
    try:
        answered.result(deadline.left)
    except NotInTimeError as error:
        raise StoreUnavailableError(
            f"the Ray cluster at {address!r} does not answer within {deadline.timeout:g} s"
        ) from error
    except Exception as error:
        if type(error).__name__ == "AuthenticationError":  # of Ray, which need not be loaded here
            raise TokenRefusedError(
                f"the Ray cluster at {address!r} refused this process, whose token is missing or "
                f"wrong; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from error
        # Ray's own RpcError, or whatever else its client says of what is there.
        raise StoreUnavailableError(f"no Ray cluster answers at {address!r} ({error})") from error


def _is_host_and_port(address: str) -> bool:
    return address not in ("auto", "local") and "://" not in address


def _ask(address: str, answered: Future[None]) -> None:
    from polystore_ray.rayapi.private import greet  # loads Ray, which takes a second

    try:
        greet(address)
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        answered.set_exception(error)
    else:
        answered.set_result(None)
