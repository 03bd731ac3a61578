"""The lead's ports."""

from __future__ import annotations

import pytest

from duo.errors import AddressError
from lead import network
from lead.flags import parser


def test_clients_and_backs_have_different_ports() -> None:
    """Both can be bound. Only the second one to listen fails, which is after the model has been loaded."""
    with pytest.raises(AddressError, match="--port and --back-port are both 7000: choose two ports"):
        network.check_ports(parser().parse_args(["--port", "7000", "--back-port", "7000"]))
    network.check_ports(parser().parse_args(["--port", "0", "--back-port", "0"]))
    network.check_ports(parser().parse_args([]))
