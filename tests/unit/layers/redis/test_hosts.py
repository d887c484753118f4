"""Every spelling of a host, and what errors about it can show."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.layers.redis.hosts import Host, parse_hosts

LOCAL = {"host": "localhost", "port": 6379, "db": 0}
SENTINELS = [("a", 26379), ("b", 26380)]


def options_of(spelling: Any, **shared: Any) -> Mapping[str, Any]:
    """Return redis-py's arguments for a host."""
    (host,) = parse_hosts([spelling], connection_kwargs=shared or None)
    return host.options


# Spellings


@pytest.mark.parametrize(
    "spelling",
    [
        "redis://",
        "redis://localhost",
        "REDIS://localhost:6379/",
        "redis://localhost:6379/0/",
        "valkey://localhost",
        "VALKEY://localhost:6379/0",
        "redis://:@localhost?db=0&password=",
        ("localhost", 6379),
        ["localhost", "6379"],
        {},
        {"host": "localhost", "db": "0", "path": None, "password": None},
        {"port": 6379, "username": "", "ssl": False},
        {"address": "redis://localhost"},
        {"address": "redis://", "host": "localhost"},
    ],
    ids=repr,
)
def test_spellings_of_one_host_are_equal(spelling: Any) -> None:
    """All spellings of Redis on this machine give the same value."""
    (host,) = parse_hosts([spelling])
    (default,) = parse_hosts(None)
    assert host == default == Host("tcp", LOCAL)
    assert hash(host) == hash(default)
    assert dict(host.options) == LOCAL
    assert str(host) == "redis://localhost:6379/0"


@pytest.mark.parametrize(
    ("spelling", "options"),
    [
        ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
        ("redis://h/2?db=1", {"host": "h", "db": 1}),
        ("redis://[::1]:99", {"host": "::1", "port": 99}),
        ("redis://a%2eb", {"host": "a.b"}),
        ("redis://:p%40s%2Fs%25@h", {"host": "h", "password": "p@s/s%"}),
        ("redis://u%20s:a:b@h", {"host": "h", "username": "u s", "password": "a:b"}),
        ("redis://u@h", {"host": "h", "username": "u"}),
        (
            (
                "redis://h?socket_connect_timeout=1.5&socket_keepalive=no&client_name=a%20b"
                "&client_name=c&socket_read_size=9&username=u&password=p&empty="
            ),
            {
                "host": "h",
                "socket_connect_timeout": 1.5,
                "socket_keepalive": False,
                "client_name": "a b",
                "socket_read_size": 9,
                "username": "u",
                "password": "p",
            },
        ),
        ("redis://h?socket_keepalive=1", {"host": "h", "socket_keepalive": True}),
        ({"host": "h", "client_name": "me"}, {"host": "h", "client_name": "me"}),
        (
            {"address": "redis://:url@h/3", "db": 1, "password": "dict", "x": 1},
            {"host": "h", "db": 3, "password": "url", "x": 1},
        ),
    ],
    ids=repr,
)
def test_redis_py_gets_the_options_of_the_host(
    spelling: Any, options: dict[str, Any]
) -> None:
    """URLs are decoded and their queries typed, and a URL wins over its dict."""
    assert options_of(spelling) == {**LOCAL, **options}


@pytest.mark.parametrize(
    ("spelling", "options"),
    [
        ("unix:///run/a%20b", {"path": "/run/a b", "db": 0}),
        (
            "unix://u:p%40@/run/a?db=2&socket_keepalive=1",
            {"path": "/run/a", "db": 2, "username": "u", "password": "p@"},
        ),
        ({"path": "a.sock", "db": 1}, {"path": "a.sock", "db": 1}),
        ({"unix_socket_path": "/a", "x": 1}, {"path": "/a", "db": 0, "x": 1}),
        ({"address": "unix:///a", "socket_type": 1}, {"path": "/a", "db": 0}),
    ],
    ids=repr,
)
def test_host_may_be_a_unix_socket(spelling: Any, options: dict[str, Any]) -> None:
    """redis-py gets a path, and no argument that only TCP has."""
    (host,) = parse_hosts([spelling], connection_kwargs={"socket_keepalive": True})
    assert (host.kind, host.options, host.tls) == ("unix", options, False)


@pytest.mark.parametrize(
    "spelling",
    [
        "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=False",
        "valkeys://h?ssl_cert_reqs=none&ssl_check_hostname=False",
        "redis://h?ssl=true&ssl_cert_reqs=none&ssl_check_hostname=no",
        {"host": "h", "ssl": 1, "ssl_cert_reqs": "none", "ssl_check_hostname": False},
    ],
    ids=repr,
)
def test_host_may_use_tls(spelling: Any) -> None:
    """Options of TLS don't include whether it is used."""
    (host,) = parse_hosts([spelling])
    assert host.tls is True
    tls = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert host.options == {**LOCAL, "host": "h", **tls}
    assert host != Host("tcp", host.options)


def test_several_hosts_keep_their_order() -> None:
    """Shards are numbered in the order of hosts, which can repeat."""
    hosts = parse_hosts([("b", 1), "redis://a", ("b", 1)])
    assert [host.options["host"] for host in hosts] == ["b", "a", "b"]
    assert hosts[0] == hosts[2] != hosts[1]


# Options


@pytest.mark.parametrize(
    "name",
    [
        "decode_responses",
        "max_connections",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "single_connection_client",
    ],
)
def test_options_that_layers_decide_are_dropped(name: str) -> None:
    """Options that would change how connections work never reach redis-py."""
    dropped: dict[str, Any] = {name: 3}
    sentinels = {"sentinels": SENTINELS, "master_name": "m", "sentinel_kwargs": dropped}
    spellings: list[Any] = [{**sentinels, **dropped}, ("h", 1), dropped]
    hosts = [
        *parse_hosts([f"redis://h?{name}=3", f"unix:///a?{name}=3"]),
        *parse_hosts(spellings, connection_kwargs=dropped),
    ]
    for host in [*hosts, *hosts[2].sentinels]:
        assert name not in host.options


def test_health_check_interval_sets_the_probes_of_tcp() -> None:
    """Unix sockets have no probes."""
    tcp, pair, unix = parse_hosts(
        ["redis://h?health_check_interval=20", ("h", 1), "unix:///a"],
        connection_kwargs={"health_check_interval": 0},
    )
    assert tcp.options["health_check_interval"] == 20
    assert pair.options["health_check_interval"] == 0
    assert "health_check_interval" not in unix.options
    for wrong, error in [(-1, ValueError), (40_000, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match=r"health_check_interval of .*h.* must"):
            parse_hosts([{"host": "h", "health_check_interval": wrong}])


@pytest.mark.parametrize(
    ("spelling", "timeout"),
    [
        ("redis://h?socket_timeout=3", 3.0),
        ("unix:///a?socket_timeout=0.5", 0.5),
        ({"host": "h", "socket_timeout": 3}, 3.0),
        ({"sentinels": SENTINELS, "master_name": "m", "socket_timeout": 3}, 3.0),
        ({"host": "h", "socket_timeout": None}, None),
        (("h", 6379), 9.0),
    ],
    ids=repr,
)
def test_timeout_applies_to_commands(spelling: Any, timeout: float | None) -> None:
    """socket_timeout does not reach redis-py, which would end waiting reads with it."""
    (host,) = parse_hosts([spelling], connection_kwargs={"socket_timeout": 9})
    assert host.command_timeout == timeout
    assert "socket_timeout" not in host.options


def test_connection_kwargs_are_for_all_hosts() -> None:
    """Options of a single host win."""
    shared: dict[str, Any] = {"password": "shared", "db": 1, "client_name": "me"}
    options = {**LOCAL, **shared}
    assert options_of(("localhost", 6379), **shared) == options
    assert options_of({"db": 2}, **shared) == {**options, "db": 2}
    assert options_of("redis://:own@/3", **shared) == {
        **options,
        "password": "own",
        "db": 3,
    }
    assert options_of("unix:///a", **shared) == {**shared, "path": "/a"}
    assert parse_hosts(None, connection_kwargs=shared)[0].options == options


def test_the_users_dict_is_copied() -> None:
    """Parsing doesn't change the dict, and a later change of the dict not the host."""
    spelling: dict[str, Any] = {
        "sentinels": [("a", 1)],
        "master_name": "m",
        "sentinel_kwargs": {"username": "u"},
        "ssl": True,
        "db": 1,
    }
    before = repr(spelling)
    (host,) = parse_hosts([spelling])
    assert repr(spelling) == before
    spelling["db"] = 2
    spelling["sentinel_kwargs"]["username"] = "v"
    assert host.options["db"] == 1
    assert host.sentinels[0].options["username"] == "u"
    with pytest.raises(TypeError, match=r"does not support item assignment"):
        host.options["db"] = 3  # type: ignore[index] # pyright: ignore[reportIndexIssue] # the point of the test


# Sentinel


def test_both_forms_of_sentinel_are_equal() -> None:
    """The keywords mean the same as the dict."""
    own = {"db": 1, "password": "redis", "ssl": True}
    to_sentinels = {"password": "sentinel", "socket_timeout": 1, "ssl": True}
    (host,) = parse_hosts(
        None,
        sentinels=SENTINELS,
        service_name="m",
        sentinel_kwargs=to_sentinels,
        connection_kwargs=own,
    )
    place = {"sentinels": SENTINELS, "master_name": "m"}
    assert parse_hosts([{**place, "sentinel_kwargs": to_sentinels, **own}]) == (host,)
    assert (host.kind, host.master_name, host.tls) == ("sentinel", "m", True)
    assert host.options == {"db": 1, "password": "redis"}
    assert host.sentinels == tuple(
        Host(
            "tcp",
            {"host": name, "port": port, "db": 0, "password": "sentinel"},
            tls=True,
            command_timeout=1,
        )
        for name, port in SENTINELS
    )


def test_sentinels_are_hosts() -> None:
    """They can be spelled like hosts, but have their own default port."""
    spellings: list[Any] = ["redis://a", {"host": "b"}, ["c", 1]]
    (host,) = parse_hosts(None, sentinels=spellings, service_name="m")
    found = [(s.options["host"], s.options["port"]) for s in host.sentinels]
    assert found == [("a", 26379), ("b", 26379), ("c", 1)]


def test_sentinels_share_the_socket_options_of_the_master() -> None:
    """Without sentinel_kwargs, socket options are for both; others are not."""
    own = {"socket_connect_timeout": 2, "socket_timeout": 3, "password": "p"}
    (host,) = parse_hosts([{"sentinels": [("a", 1)], "master_name": "m", **own}])
    (sentinel,) = host.sentinels
    assert host.options == {"db": 0, "socket_connect_timeout": 2, "password": "p"}
    assert sentinel.options == {
        "host": "a",
        "port": 1,
        "db": 0,
        "socket_connect_timeout": 2,
    }
    assert sentinel.command_timeout == host.command_timeout == 3


# Cluster


def test_a_cluster_is_one_host() -> None:
    """All nodes are reached as the first one is."""
    nodes: list[Any] = ["rediss://:secret@a", ("b", 1), {"host": "::1", "port": 2}]
    shared = {"client_name": "me", "socket_timeout": 3}
    (host,) = parse_hosts(None, cluster=nodes, connection_kwargs=shared)
    options = {"db": 0, "password": "secret", "client_name": "me"}
    assert (host.kind, host.tls, host.command_timeout) == ("cluster", True, 3)
    assert host.options == options
    places = [("a", 6379), ("b", 1), ("::1", 2)]
    assert (
        host.nodes
        == tuple(map(host.at, places))
        == tuple(
            Host(
                "tcp",
                {**options, "host": name, "port": port},
                tls=True,
                command_timeout=3,
            )
            for name, port in places
        )
    )
    assert str(host) == "cluster rediss://:***@a:6379,b:1,[::1]:2"
    assert repr(host) == f"<Host {host}>"


# What is shown

# Invalid hosts, and the beginning or the middle of the error.
NONSENSE: list[tuple[Any, str]] = [
    ("redis://me:secret@h:1", "TypeError: hosts must be a list, not 'redis://me:***@h"),
    ({"host": "h", "password": "secret"}, "not {'host': 'h', 'password': ***}; w"),
    (b"redis://:secret@h", "TypeError: hosts must be a list, not a value of type by"),
    (5, "TypeError: hosts must be a list, not 5; write"),
    ([], 'ValueError: hosts must not be empty; write ["redis://host:6379"], or l'),
    ((), "ValueError: hosts must not be empty"),
    ([None], 'TypeError: None is not a host; write "redis://host:6379", ("host"'),
    ([b"redis://:secret@h"], "TypeError: a value of type bytes is not a host"),
    ([("h",)], "TypeError: ('h',) is not a host"),
    ([["h", 1, "secret"]], "TypeError: ['h', 1, ...] is not a host"),
    ([{"h"}], "TypeError: a value of type set is not a host"),
    # URLs
    (["localhost"], "ValueError: a str that begins with another scheme, or none, is "),
    (
        ["localhost:6379"],
        "another scheme, or none, is not a host; write redis://host:63",
    ),
    (
        ["me:secret@h:1"],
        "another scheme, or none, is not a host; write redis://host:63",
    ),
    (["redis:h"], "another scheme, or none, is not a host; write redis://host:63"),
    (["http://:secret@h"], "another scheme, or none, is not a host"),
    (["redis://h:secret"], "'redis://h...' is not a valid URL; check what follows"),
    (["redis://h:0"], "the port of 'redis://h:0' must not be 0"),
    (["redis://h:65536"], "ValueError: 'redis://h:65536' is not a valid URL"),
    (["redis://[::1"], "ValueError: 'redis://...' is not a valid URL"),
    (["redis://h/abc"], "'redis://h...' has a path that is not the number of a db"),
    (["redis://me:secret/1@h"], "'redis://me:***@h' is not a valid URL"),
    (["redis://me:secret?1@h"], "'redis://me:***@...' is not a valid URL"),
    (["redis://me:secret#1@h"], "'redis://me:***@...' is not a valid URL"),
    (["redis://me:a://secret@h:x"], "'redis://me:***@h...' is not a valid URL"),
    (["redis://me:1/secret@h"], "'redis://me:***@h' is not a valid URL"),
    (["redis://me:a@secret#b@h"], "'redis://me:***@...' is not a valid URL"),
    (["redis://me:a@secret?b=@h"], "'redis://me:***@...' is not a valid URL"),
    (["unix://:/secret@/a"], "'unix://:***@/a' is not a valid URL"),
    (["redis://h?secret"], "'redis://h...' is not a valid URL"),
    (["redis://h?db=x"], "db of 'redis://h...' must be a number"),
    (["redis://h?db=-1"], "ValueError: the db of 'redis://h...' must not be -1"),
    (["redis://h?socket_timeout=x"], "socket_timeout of 'redis://h...' must be a nu"),
    (["redis://h?socket_timeout=0"], "must be positive and finite, not 0.0; None i"),
    (["redis://h?socket_timeout=inf"], "must be positive and finite, not inf"),
    (["unix://run/a"], "'unix://run/a' has a host where a path should begin; write u"),
    (["unix://"], "TypeError: the path of 'unix://' must be a str, and not empty"),
    # Options
    ([("", 1)], "TypeError: the host of ('', 1) must be a str, and not empty"),
    ([(5, 1)], "TypeError: the host of (5, 1) must be a str"),
    ([("redis://:secret@h", 1)], "ValueError: the host of ('redis://:***@h', 1) mu"),
    ([("h", "x")], "TypeError: the port of ('h', ***) must be an int, not a str"),
    ([["redis://h", "secret"]], "the host of ['redis://h', ***] must be a name or"),
    ([("me:secret@h", 1)], "the host of ('me:***@h', 1) must be a name or an addre"),
    ([("me:secret", 1)], "the host of ('me...', 1) must be a name or an address alo"),
    ([("a:b:secret", 1)], "must be a name or an address alone"),
    ([("h h", 1)], "must be a name or an address alone"),
    ([("h\n", 1)], "must be a name or an address alone"),
    (["redis://me%3Asecret%40h"], "the host of 'redis://...' must be a name or an ad"),
    (["redis://h?password=a@secret"], "'redis://h...@...' is not a valid URL"),
    (["redis://h:1?password=a@secret"], "'redis://h:***@...' is not a valid URL"),
    (["redis://h?socket_timeout=1?secret"], "of 'redis://h...' must be a number"),
    ([{"host": "h", "password": "secret\ud800"}], "the password of {'host': 'h', 'pa"),
    ([{"redis://:secret@h": 1, "db": "x"}], "the db of {...: ***, 'db': ***} must be"),
    ([{"host": "h", "pass": "secret", "db": -1}], "'pass': ***, 'db': -1} must not"),
    ([{"socket_timeout": 10**400}], "must be positive and finite, not inf; None is"),
    ([("h", True)], "TypeError: the port of ('h', True) must be an int, not True"),
    ([("h", None)], "TypeError: the port of ('h', None) must be an int, not None"),
    ([{"port": 70000}], "ValueError: the port of {'port': 70000} must not be 70000"),
    ([{"db": 1.5, "ssl_password": "secret"}], "{'db': 1.5, 'ssl_password': ***} mu"),
    ([{"socket_timeout": "3"}], "TypeError: socket_timeout of {'socket_timeout': '3"),
    ([{"socket_timeout": True}], "must be a number or None, not True"),
    ([{"path": 5}], "TypeError: the path of {'path': 5} must be a str"),
    ([{"path": "/a", "port": 1}], "has a path and a host or port; leave one out"),
    ([{"path": "/a", "ssl": True}], "has a path and TLS; Unix sockets have no TLS"),
    ([{"ssl_ca_certs": "a"}], "has 'ssl_ca_certs' but no TLS; write rediss:// or"),
    ([{"connection_class": int}], "has 'connection_class', which the layer chooses"),
    ([{1: 2}], "TypeError: the keys of a host must be str, names of redis-py's argu"),
    ([{"address": 5}], "TypeError: the address of a host must be a URL, not 5"),
    # Sentinel
    ([{"sentinels": [("h", 1)]}], "TypeError: sentinels need master_name, their na"),
    ([{"sentinels": [("h", 1)], "master_name": 5}], "as a str; not 5"),
    ([{"master_name": "m"}], "TypeError: master_name 'm' needs sentinels to ask: ["),
    ([{"master_name": "m", "sentinels": []}], "ValueError: sentinels must not be em"),
    ([{"master_name": "m", "sentinels": "h"}], "a list, not 'h'; write [(\"host\", 2"),
    ([{"master_name": "m", "sentinels": ["unix:///a"]}], "is not a sentinel; write"),
    (
        [{"master_name": "m", "sentinels": SENTINELS, "host": "h"}],
        "ValueError: master 'm' cannot have 'host': sentinels provide its address",
    ),
    (
        [{"master_name": "m", "sentinels": SENTINELS, "sentinel_kwargs": "secret:"}],
        "TypeError: sentinel_kwargs must be a dict, not 'secret...'",
    ),
    (
        [{"master_name": "m", "sentinels": SENTINELS, "ssl_ciphers": "x"}],
        "ValueError: master 'm' has 'ssl_ciphers' but no TLS",
    ),
]


@pytest.mark.parametrize(
    ("spelling", "shown"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://me:secret@h:1/2", "rediss://me:***@h:1/2"),
        ("redis://:secret@[::1]", "redis://:***@[::1]:6379/0"),
        ("redis://me@h", "redis://me@h:6379/0"),
        ("redis://h?password=secret&client_name=secret", "redis://:***@h:6379/0"),
        ("unix://me:secret@/run/a", "unix://me:***@/run/a?db=0"),
        (
            {
                "sentinels": [("a", 1), "redis://:secret@[::2]"],
                "master_name": "m",
                "password": "secret",
                "db": 3,
            },
            "sentinel://:***@a:1,[::2]:26379/m?db=3",
        ),
    ],
    ids=repr,
)
def test_host_shows_no_password(spelling: Any, shown: str) -> None:
    """The repr is a URL that hides everything but the place."""
    (host,) = parse_hosts([spelling])
    assert str(host) == shown
    assert repr(host) == f"<Host {shown}>"
    assert f"{[host]}" == f"[<Host {shown}>]"


@pytest.mark.parametrize(("hosts", "error"), NONSENSE, ids=repr)
def test_nonsense_is_refused(hosts: Any, error: str) -> None:
    """The error names the value and what was expected, but never a password."""
    with pytest.raises((TypeError, ValueError), match=r".") as caught:
        parse_hosts(hosts)
    text = f"{type(caught.value).__name__}: {caught.value}"
    assert error in text
    assert not re.search(r"secret(?!\.\.\.)", text)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            {"sentinels": SENTINELS},
            r"TypeError: sentinels need service_name, their name",
        ),
        (
            {"service_name": "m"},
            r"TypeError: service_name 'm' needs sentinels to ask: ",
        ),
        ({"service_name": "", "sentinels": SENTINELS}, r"as a str; not ''"),
        (
            {"hosts": ["redis://"], "sentinels": SENTINELS, "service_name": "m"},
            r"ValueError: hosts= and sentinels= cannot be given both",
        ),
        ({"hosts": [("h", 1)], "service_name": "m"}, r"cannot be given both"),
        (
            {"sentinel_kwargs": {}},
            r"ValueError: sentinel_kwargs are for sentinels=; a ",
        ),
        (
            {"connection_kwargs": ["a"]},
            r"connection_kwargs must be a dict, not \['a'\]",
        ),
        (
            {"connection_kwargs": {b"db": 1}},
            r"keys of connection_kwargs must be str, na",
        ),
        (
            {"connection_kwargs": {"host": "h"}},
            r"cannot have 'host'; write that into h",
        ),
        (
            {"sentinels": SENTINELS, "service_name": "m", "sentinel_kwargs": 5},
            r"TypeError: sentinel_kwargs must be a dict, not 5",
        ),
    ],
    ids=repr,
)
def test_arguments_must_fit_together(arguments: dict[str, Any], error: str) -> None:
    """The error says which of them do not, and what to do."""
    with pytest.raises((TypeError, ValueError), match=r".") as caught:
        parse_hosts(arguments.pop("hosts", None), **arguments)
    assert re.search(error, f"{type(caught.value).__name__}: {caught.value}")
