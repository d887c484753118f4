"""List the names in fast_channels and their signatures.

To list the names of release 1.1.0, run it where that release is installed::

    cd tests/release_1
    python -m venv /tmp/release_1
    /tmp/release_1/bin/pip install 'fast-channels[redis]==1.1.0'
    /tmp/release_1/bin/python -I introspect.py > api.json
"""

import importlib
import inspect
import json
import logging
import pkgutil
import sys
import typing
from typing import Any

# The full name of a module, class, function or member, and its parameters as written,
# without annotations; None if it is not called.
Api = dict[str, str | None]


def find_modules(package: str) -> list[str]:
    """Return the names of a package and of all its modules, except for commands."""
    found = importlib.import_module(package)
    return [
        package,
        *(
            module.name
            for module in pkgutil.walk_packages(found.__path__, f"{package}.")
            if not module.name.endswith("__main__")
        ),
    ]


def introspect(module: str) -> Api:
    """Return the public names of a module."""
    imported = importlib.import_module(module)
    api: Api = {module: None}
    for name in getattr(imported, "__all__", dir(imported)):
        value = getattr(imported, name)
        if not name.startswith("_") and _is_own(value):
            # Parameters are listed once, where the object is defined.
            here = getattr(value, "__module__", None) == module
            api[f"{module}.{name}"] = find_parameters(value) if here else None
            for member in _members(value, module):
                found = getattr(value, member, None)
                api[f"{module}.{name}.{member}"] = find_parameters(found)
    return api


def find_parameters(value: object) -> str | None:
    """Return the parameters of a value; None if not callable or unknown."""
    home = str(getattr(value, "__module__", None))
    if not callable(value) or not home.startswith("fast_channels"):
        return None
    if typing.is_typeddict(value) or "Protocol" in type(value).__name__:
        return None
    try:
        signature = inspect.signature(value)
    except ValueError:
        return None
    empty = inspect.Signature.empty
    parameters = [
        parameter.replace(annotation=empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


def _is_own(value: Any) -> bool:
    """Return whether a name is not just imported from another library."""
    if inspect.ismodule(value) or isinstance(value, logging.Logger | typing.TypeVar):
        return False
    if isinstance(value, bool):
        return False
    home = getattr(value, "__module__", None)
    if inspect.isclass(value) or inspect.isfunction(value) or home == "typing":
        return str(home).startswith("fast_channels")
    return True


def _members(value: Any, module: str) -> list[str]:
    """Return the own members of a class, or none where it is imported."""
    if not isinstance(value, type) or value.__module__ != module:
        return []
    if typing.is_typeddict(value):
        return list(typing.get_type_hints(value))
    return [name for name in vars(value) if not name.startswith("_")]


if __name__ == "__main__":
    names: Api = {}
    for path in find_modules("fast_channels"):
        names |= introspect(path)
    lines = [f"{json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
