"""Features of all layers, and methods that a custom layer can omit."""

import collections
import enum
import re
from typing import TYPE_CHECKING, Any

import pytest

from fast_channels.layers import BaseChannelLayer

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = {"type": "test.message"}


class MyLayer(BaseChannelLayer):
    """A layer that implements nothing."""


@pytest.fixture
def layer() -> MyLayer:
    """Give a test a layer that has only the features of the base class."""
    return MyLayer()


# Names

VALID = ["a", "Z", "0", ".", "_", "-", "chat.room_1-A", "x" * 99]
INVALID = [
    "",
    "a b",
    "a\n",
    "\na",
    "a\0",
    "a/b",
    "a:b",
    "a!b!c",
    "!",
    "!a",
    "a!b\n",
    "caf\u00e9",
    "a!caf\u00e9",
    "\u0661",  # a digit, but not an ASCII one
    None,
    5,
    b"a",
    ["a"],
]
TOO_LONG = ["x" * 100, "x" * 1000]


@pytest.mark.parametrize("name", [*VALID, "a!b", "a!", "specific.a!" + "x" * 88])
def test_channel_name_can_have_one_mark(layer: MyLayer, name: str) -> None:
    """Names of letters, digits and ``._-``, with at most one '!', are valid."""
    assert layer.require_valid_channel_name(name) is True


@pytest.mark.parametrize("name", INVALID, ids=repr)
def test_other_channel_names_are_refused(layer: MyLayer, name: Any) -> None:
    """The error names the invalid name and the rule that it breaks."""
    rule = (
        f"{name!r} is not a channel name: it must be a str of ASCII letters, digits, "
        "'.', '_' and '-', optionally with one '!' after the first part"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(rule)}$"):
        layer.require_valid_channel_name(name)


@pytest.mark.parametrize("name", VALID)
def test_group_name_has_no_mark(layer: MyLayer, name: str) -> None:
    """Names of letters, digits and ``._-`` are valid."""
    assert layer.require_valid_group_name(name) is True


@pytest.mark.parametrize("name", [*INVALID, "a!b", "a!"], ids=repr)
def test_other_group_names_are_refused(layer: MyLayer, name: Any) -> None:
    """The error names the invalid name and the rule that it breaks."""
    rule = (
        f"{name!r} is not a group name: it must be a str of ASCII letters, digits, "
        "'.', '_' and '-'"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(rule)}$"):
        layer.require_valid_group_name(name)


@pytest.mark.parametrize("name", TOO_LONG, ids=len)
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_long_names_are_refused(layer: MyLayer, kind: str, name: str) -> None:
    """A name of a hundred characters or more is too long."""
    check: Callable[[str], bool] = getattr(layer, f"require_valid_{kind}_name")
    rule = (
        f"a {kind} name must be shorter than 100 characters; this one has {len(name)}"
    )
    with pytest.raises(TypeError, match=f"{rule}: '{name}'"):
        check(name)


def test_layer_can_have_its_own_limit() -> None:
    """The MAX_NAME_LENGTH of a subclass limits its names."""

    class Short(BaseChannelLayer):
        MAX_NAME_LENGTH = 4

    assert Short().require_valid_group_name("abc")
    with pytest.raises(TypeError, match="shorter than 4 characters; this one has 4"):
        Short().require_valid_group_name("abcd")


@pytest.mark.parametrize("name", ["a", "a!"])
def test_name_to_receive_on_ends_at_the_mark(layer: MyLayer, name: str) -> None:
    """receive() accepts a name without a local part."""
    assert layer.require_valid_channel_name(name, receive=True) is True


def test_name_to_receive_on_has_no_local_part(layer: MyLayer) -> None:
    """receive() refuses a name with a local part after the '!'."""
    with pytest.raises(TypeError, match=r"'a!b': .* must end at the '!'"):
        layer.require_valid_channel_name("a!b", receive=True)


@pytest.mark.parametrize(
    ("name", "process"), [("a", "a"), ("a!", "a!"), ("specific.a!b", "specific.a!")]
)
def test_non_local_name_ends_at_the_mark(
    layer: MyLayer, name: str, process: str
) -> None:
    """The non-local part of a name ends at the '!', or is the whole name."""
    assert layer.non_local_name(name) == process


# Messages


class Key(enum.StrEnum):
    """Message keys as an enum."""

    TYPE = "type"


@pytest.mark.parametrize(
    "message",
    [
        {},
        MESSAGE,
        {"": None, "nested": {b"1": 2}},
        {Key.TYPE: "a"},
        collections.OrderedDict(MESSAGE),
    ],
)
def test_message_is_a_dict_with_str_keys(layer: MyLayer, message: Any) -> None:
    """A dict with str keys is a message if every layer can carry its values."""
    layer.require_valid_message(message)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (None, "a message must be a dict, not NoneType: None"),
        ("text", "a message must be a dict, not str: 'text'"),
        ([("type", "a")], r"a message must be a dict, not list: \[\('type', 'a'\)\]"),
        ({1: "a"}, "keys of a message must be str, but 1 is of type int"),
        ({b"type": "a"}, "keys of a message must be str, but b'type' is of type bytes"),
        ({"type": "a", None: 1}, "must be str, but None is of type NoneType"),
        ({"type": "a", "b": {1: 2}}, r"the key 1 of message\['b'\] is of type int"),
        (["x" * 10**6], r"a message must be a dict, not list: \['x{1,80}\.\.\."),
    ],
)
def test_anything_else_is_not_a_message(
    layer: MyLayer, message: Any, error: str
) -> None:
    """The error names the value and says what a message is."""
    with pytest.raises(TypeError, match=error):
        layer.require_valid_message(message)


def test_layer_that_does_not_count(layer: MyLayer) -> None:
    """A user's layer has the statistics of every layer, all of them 0."""
    assert layer.statistics() == {
        "channels": 0,
        "groups": 0,
        "waiting": 0,
        "delivered": 0,
        "dropped": 0,
        "undecodable": 0,
        "reconnects": 0,
    }


# Options


def test_options_have_defaults(layer: MyLayer) -> None:
    """By default a message is kept for a minute, and a channel holds a hundred."""
    assert layer.expiry == 60
    assert layer.capacity == 100
    assert layer.channel_capacity == []
    assert layer.extensions == []


@pytest.mark.parametrize("expiry", [1, 0.5, float("inf")])
def test_expiry_is_a_number_of_seconds(expiry: float) -> None:
    """Any positive number is an expiry."""
    assert BaseChannelLayer(expiry=expiry).expiry == expiry


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"expiry": 0}, ValueError, "expiry must be positive, not 0"),
        ({"expiry": "60"}, TypeError, "expiry must be a number, not '60'"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1, not 0"),
        ({"capacity": 1.5}, TypeError, "capacity must be an int, not 1.5"),
        (
            {"channel_capacity": {"a*": 0}},
            ValueError,
            r"channel_capacity\['a\*'\] must be at least 1, not 0",
        ),
        (
            {"channel_capacity": {"a*": "5"}},
            TypeError,
            r"channel_capacity\['a\*'\] must be an int, not '5'",
        ),
        (
            {"channel_capacity": {5: 5}},
            TypeError,
            r"globs or compiled patterns .* 5 is neither a str nor a re\.Pattern",
        ),
        ({"channel_capacity": 5}, TypeError, "channel_capacity must be .*, not 5"),
    ],
)
def test_other_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the invalid option and says what it should be."""
    with pytest.raises(error, match=message):
        BaseChannelLayer(**options)


def test_first_match_decides_the_capacity_of_a_channel() -> None:
    """Globs match whole names, patterns match prefixes, and the first match counts."""
    layer = BaseChannelLayer(
        capacity=9,
        channel_capacity={
            "http.request": 1,
            "http.*": 2,
            re.compile(r"websocket\.send!\d+"): 3,
            re.compile("web"): 4,
        },
    )
    assert layer.get_capacity("http.request") == 1
    assert layer.get_capacity("http.requests") == 2
    assert layer.get_capacity("websocket.send!123abc") == 3
    assert layer.get_capacity("websocket.send!abc") == 4
    assert layer.get_capacity("a.websocket.send!123") == 9


def test_capacities_are_compiled_in_order(layer: MyLayer) -> None:
    """compile_capacities() returns pairs of a pattern and a capacity."""
    pattern = re.compile("b")
    (glob, first), (second_pattern, second) = layer.compile_capacities(
        {"a*": 1, pattern: 2}
    )
    assert glob.match("abc")
    assert not glob.match("bac")
    assert (first, second_pattern, second) == (1, pattern, 2)


# What a custom layer can leave out


@pytest.mark.parametrize("method", ["send", "receive", "new_channel", "flush"])
async def test_method_that_is_not_implemented_says_so(
    layer: MyLayer, method: str
) -> None:
    """The error names the class and the missing method."""
    arguments = {"send": ("a", MESSAGE), "receive": ("a",)}.get(method, ())
    error = rf"^MyLayer does not implement {method}\(\)$"
    with pytest.raises(NotImplementedError, match=error):
        await getattr(layer, method)(*arguments)


@pytest.mark.parametrize(
    ("method", "argument"),
    [("group_add", "a"), ("group_discard", "a"), ("group_send", MESSAGE)],
)
async def test_layer_without_groups_says_so(
    layer: MyLayer, method: str, argument: object
) -> None:
    """The error names the class without groups."""
    with pytest.raises(NotImplementedError, match=r"^MyLayer has no groups$"):
        await getattr(layer, method)("group", argument)


async def test_optional_methods_do_nothing(layer: MyLayer) -> None:
    """By default, deleting and attaching channels and closing the layer do nothing."""
    await layer.delete_channel("a")
    assert layer.attach("a", lambda: None) is None
    await layer.close()


async def test_leaving_the_context_of_a_layer_closes_it() -> None:
    """``async with`` returns the layer, closes it, and propagates exceptions."""
    closed: list[BaseChannelLayer] = []

    class Closing(BaseChannelLayer):
        async def close(self) -> None:
            closed.append(self)

    layer = Closing()
    async with layer as entered:
        assert entered is layer
        assert closed == []
    assert closed == [layer]
    with pytest.raises(ValueError, match="broken"):
        async with layer:
            raise ValueError("broken")
    assert closed == [layer, layer]


def test_layer_is_truthy(layer: MyLayer) -> None:
    """A layer is always true, so that code can check for a missing one."""
    assert bool(layer) is True


def test_names_of_older_releases_of_channels() -> None:
    """Third-party layers can use the older names of the methods that check names."""
    layer = BaseChannelLayer()
    assert layer.valid_channel_name("a!b")
    assert layer.valid_group_name("a")
    with pytest.raises(TypeError, match="must end at the '!'"):
        layer.valid_channel_name("a!b", receive=True)
    with pytest.raises(TypeError, match="'a!b' is not a group name"):
        layer.valid_group_name("a!b")
    assert layer.match_type_and_length("x" * 99)
    assert not layer.match_type_and_length("x" * 100)
    assert not layer.match_type_and_length(5)
