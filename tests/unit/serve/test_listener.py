"""The socket."""

from __future__ import annotations

import resource
import socket
from typing import Any

import pytest

from gptwo.base.errors import ConfigError
from gptwo.serve.listener import is_open_to_others, open_socket, url_of
from gptwo.serve.settings import ServeSettings


def opened(**settings: Any) -> socket.socket:
    return open_socket(ServeSettings(**{"port": 0, **settings}))


def test_a_free_port_and_its_address() -> None:
    with opened() as listener:
        host, port = listener.getsockname()
        assert url_of(listener) == f"http://{host}:{port}"
        assert port > 0
        assert not is_open_to_others(listener)
        with socket.create_connection((host, port), timeout=10):
            pass


def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with opened() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"cannot listen at port {port} on 127.0.0.1: Address already in use"
        ):
            opened(port=port)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_ours_is_said_in_a_line(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(host=host)
    assert host in str(caught.value)


def test_all_addresses_are_open_to_others() -> None:
    with opened(host="0.0.0.0") as listener:
        assert is_open_to_others(listener)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs a Python with IPv6")
def test_version_6() -> None:
    try:
        listener = opened(host="::1")
    except ConfigError:
        pytest.skip("needs a machine with an IPv6 loopback")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
        assert not is_open_to_others(listener)


def test_descriptors_are_asked_for_or_the_lack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append(limit))
    opened(max_connections=500).close()
    ((soft, hard),) = limits
    assert soft > 500
    assert hard == 1024
    with pytest.raises(ConfigError, match="expected --max-connections 896 or less"):
        opened(max_connections=1024)
    opened(max_connections=896).close()
