"""How a node starts: what can never work is refused, and a start that fails leaves nothing."""

from __future__ import annotations

import contextlib
import socket

import pytest
from node_cases import Running, TargetServer, make_series

from kspacesr_rt.errors import InputError, KspaceSRError, OutputError
from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.runtime.backends import BACKENDS
from kspacesr_rt.services.log import Log
from kspacesr_rt.services.node.peers import (
    ANY_ON_THIS_MACHINE,
    bind_address,
    parse_peer,
    parse_target,
)
from kspacesr_rt.services.node.ports import bind_port, open_port
from kspacesr_rt.services.node.service import Node, NodeOptions

ZERO_FILL = InferOptions(backend="zero-fill")
TARGET = parse_target("PACS@192.0.2.1:104")
UNUSABLE = [name for name, info in BACKENDS.items() if info.why_not() is not None][:1]
"""A backend that cannot run here, if there is one."""


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as tried:
        tried.bind(("::1", 0))
        return socket.has_dualstack_ipv6()
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# Who can never come -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "*@10.0.0.0/8",
        "MRI*@10.0.0.0/8",
        "MRI?@10.1.2.3",
        "MRI[12]@10.1.2.3",
        "MRI1@0.0.0.0",
        "MRI1@::",
        "MRI1@224.0.0.1",
        "MRI1@255.255.255.255",
        "MRI1@ff02::1",
        "MRI1@10.1.2.3/8",
        "MRI1@[10.1.2.3",
    ],
)
def test_a_sender_that_can_never_come_is_refused_with_a_hint(text):
    """It would be silently turned away for ever."""
    with pytest.raises(InputError) as refused:
        parse_peer(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "address", "accepted"),
    [
        ("MRI1@::ffff:10.1.2.3", "10.1.2.3", True),
        ("MRI1@[::ffff:10.1.2.3]", "::ffff:10.1.2.3", True),
        ("MRI1@::ffff:10.1.2.0/120", "10.1.2.77", True),
        ("MRI1@::ffff:10.1.2.0/120", "10.1.3.77", False),
        ("MRI1@10.1.2.0/24", "::ffff:10.1.2.77", True),
        ("MRI1@10.1.2.0/24", "::10.1.2.77", False),
        ("MRI1@fd00:1::/32", "fd00:1:2::9", True),
        ("MRI1@[fd00:1::]/32", "fd00:1:2::9", True),
        ("MRI1@fd00:1::/32", "fd00:2::9", False),
        ("MRI1@fe80::/10", "fe80::1%eth0", True),
        ("MRI1@0.0.0.0/0", "::ffff:10.1.2.77", True),
        ("MRI1@0.0.0.0/0", "fd00::1", False),
        ("MRI1@::/0", "fd00::1", True),
    ],
)
def test_rules_of_both_kinds_meet_addresses_of_both_kinds(text, address, accepted):
    """A socket that hears both shows an IPv4 sender as ``::ffff:a.b.c.d``."""
    assert parse_peer(text).is_from("MRI1", address) is accepted


@pytest.mark.parametrize(
    ("accepted", "address"),
    [
        (("A@127.0.0.1",), "127.0.0.1"),
        (("A@::1",), "::1"),
        (("A@::ffff:127.0.0.1",), "127.0.0.1"),
        (("A@10.1.2.3", "B@127.0.0.1"), "0.0.0.0"),
        (("A@0.0.0.0/0",), "0.0.0.0"),
        (("A@fd00::1",), "::"),
        (("A@fd00::1", "B@10.1.2.3"), "::"),
        (("A@::1", "B@10.1.2.3"), "::"),
    ],
)
def test_a_node_listens_where_its_senders_can_come(accepted, address):
    """Left to itself; of an IPv6 sender, IPv4 alone would hear nothing."""
    assert bind_address(map(parse_peer, accepted)) == address


def test_two_kinds_of_loopback_are_no_reason_to_listen_everywhere():
    """Said instead: the user may open a port to the world, the node does not."""
    with pytest.raises(InputError, match="no one address"):
        bind_address([parse_peer("A@127.0.0.1"), parse_peer("B@::1")])


@pytest.mark.parametrize(
    ("bind", "accepted"),
    [
        ("127.0.0.1", "A@10.1.2.3"),
        ("0.0.0.0", "A@fd00::1"),
        ("127.0.0.1", "A@::1"),
        pytest.param("::1", "A@127.0.0.1", marks=needs_ipv6),
    ],
)
def test_a_sender_that_the_bound_address_cannot_hear_is_refused(tmp_path, bind, accepted):
    """Everything else would look well, and nothing would ever come."""
    peers = (parse_peer("B@" + bind) if bind == "127.0.0.1" else ANY_ON_THIS_MACHINE,)
    options = {"bind": bind, "peers": (*peers, parse_peer(accepted))}
    with pytest.raises(InputError, match="nobody there can connect") as refused:
        run(tmp_path / "spool", **options)
    assert accepted.partition("@")[0] in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["PACS@fd00::1:104", "PACS@a b:104", "PACS@a/b:104", "PACS@a@b\n:104"]
)
def test_a_target_that_is_mistyped_is_refused(text):
    """An IPv6 address without brackets would be taken for another, with its last group as port."""
    with pytest.raises(InputError):
        parse_target(text)


# What cannot work ---------------------------------------------------------------------------------


def run(spool, infer=ZERO_FILL, **how):
    options = {"ae_title": "KSPACESR", "targets": (TARGET,), "spool": spool, "port": 0} | how
    Node(NodeOptions(**options), infer, Log(quiet=True)).run()


@contextlib.contextmanager
def busy_port():
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("where", ["port", "http_port"])
@pytest.mark.parametrize("spool", ["new", "new/er", "empty"])
def test_a_busy_port_leaves_nothing_behind(tmp_path, where, spool):
    """The next start, with another user perhaps, finds the place as it was."""
    (tmp_path / "empty").mkdir()
    with busy_port() as port, pytest.raises(OutputError, match=f"port {port}") as refused:
        run(tmp_path / spool, **{where: port})
    assert ("--http-port" if where == "http_port" else "--port") in refused.value.hint
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize(
    "infer",
    [
        *(InferOptions(backend=name) for name in UNUSABLE),
        InferOptions(backend="zero-fill", model="no-such.onnx"),
        InferOptions(backend="zero-fill", model=__file__),
    ],
)
def test_what_cannot_compute_leaves_nothing_behind(tmp_path, infer):
    """Only a try tells, and that needs the spool; it is taken away again."""
    (tmp_path / "empty").mkdir()
    for spool in ("new/er", "empty"):
        with pytest.raises(KspaceSRError):
            run(tmp_path / spool, infer)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_spool_that_was_there_stays(tmp_path):
    """With everything in it, however a start ends."""
    spool = tmp_path / "spool"
    with Running(spool):
        pass
    (spool / "undelivered" / "of a person").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KspaceSRError):
        run(spool, InferOptions(backend="zero-fill", model="no-such.onnx"))
    with busy_port() as port, pytest.raises(OutputError):
        run(spool, port=port)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_port_is_taken_before_anybody_may_come():
    """Whoever comes early is told so, and does not wait for a model."""
    with bind_port("127.0.0.1", 0) as taken:
        place = taken.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, 5)
        open_port(taken, 1)
        with pytest.raises(OutputError):
            bind_port("127.0.0.1", place[1])
        socket.create_connection(place, 5).close()


def test_an_address_of_another_machine_is_not_told_as_a_busy_port(tmp_path):
    """Another port would not help."""
    for address in ("192.0.2.77", "no-such-name.invalid"):
        with pytest.raises(OutputError, match="cannot listen on") as refused:
            run(tmp_path / "spool", bind=address, peers=(parse_peer("A@0.0.0.0/0"),))
        assert "--bind" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", pytest.param("::", marks=needs_ipv6)])
def test_a_node_does_not_send_to_itself(tmp_path, bind):
    """Its results would be gone, as delivered."""
    with busy_port() as port:
        pass
    with pytest.raises(InputError, match="this node itself"):
        run(
            tmp_path / "spool",
            port=port,
            bind=bind,
            targets=(TARGET, parse_target(f"KSPACESR@localhost:{port}")),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("spool_gb", (0.0, -1.0, float("nan"), float("inf"))),
        ("series_timeout_s", (0.0, float("nan"), float("inf"))),
        ("released_timeout_s", (0.0, float("nan"), float("inf"))),
        ("retry_max_s", (0.0, float("nan"), float("inf"))),
        ("remember_days", (-1.0, float("nan"), float("inf"))),
        ("grace_s", (-1.0, float("nan"), float("inf"))),
        ("n_parts", (0, -1)),
        ("port", (-1, 65536)),
        ("http_port", (-1, 65536)),
        ("bind", ("", " ")),
        ("ae_title", ("", " ", "A" * 17, "A\\B", "A\nB", "Ä")),
    ],
)
def test_values_without_a_meaning_are_refused(tmp_path, name, values):
    """A timeout that is no number never passes, and no series would ever be complete."""
    for value in values:
        with pytest.raises(InputError):
            NodeOptions(
                **{"ae_title": "A", "targets": (TARGET,), "spool": tmp_path} | {name: value}
            )


# IPv6 ---------------------------------------------------------------------------------------------


@needs_ipv6
@pytest.mark.parametrize(
    ("bind", "accepted", "heard", "unheard"),
    [
        ("::1", "SENDER@::1", ("::1",), ("127.0.0.1",)),
        ("[::1]", "SENDER@[::1]", ("::1",), ()),
        (None, "SENDER@::1", ("::1",), ("127.0.0.1",)),
        ("::", "SENDER@127.0.0.1", ("127.0.0.1",), ("::1",)),
        ("::", "SENDER@::ffff:127.0.0.0/104", ("127.0.0.1",), ("::1",)),
        ("::", "SENDER@::1", ("::1",), ("127.0.0.1",)),
        ("::", None, ("::1", "127.0.0.1"), ()),
    ],
)
def test_senders_of_both_kinds_are_met_by_their_rules(tmp_path, bind, accepted, heard, unheard):
    """What a rule says of an address holds whichever way the address is shown."""
    [path] = make_series(tmp_path / "in", 1, 1)
    peers = (parse_peer(accepted),) if accepted else (ANY_ON_THIS_MACHINE,)
    with Running(tmp_path / "spool", bind=bind, peers=peers) as node:
        for host in heard:
            assert node.sends(host, path) == 0x0000, host
            assert accepted is None or node.sends(host, path, "OTHER") is None, host
        for host in unheard:
            assert node.sends(host, path) is None, host


@needs_ipv6
def test_a_target_may_have_an_ipv6_address(tmp_path):
    """Written with brackets."""
    [path] = make_series(tmp_path / "in", 1, 1)
    with TargetServer(address="::1") as target:
        forward = parse_target(f"PACS@[::1]:{target.port}")
        how = {"targets": (forward,), "series_timeout_s": 0.2}
        with Running(tmp_path / "spool", **how) as node:
            assert node.sends("127.0.0.1", path) == 0x0000
            target.wait_for(1)
