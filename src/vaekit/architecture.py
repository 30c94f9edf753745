"""What a model is built of, as plain values: written down without code, and built again by name."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.utils import lazy_property
from torch.overrides import TorchFunctionMode

from vaekit import _checks

__all__ = [
    "UndescribedError",
    "bare",
    "build",
    "describe",
    "is_plain",
    "plain_arguments",
    "torch_class",
]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_RECURRENT = (
    *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"),
    "bidirectional",
)
_NOT_TOLD = ("self", "device", "dtype", "validate_args")
_TORCH = {"torch.nn": nn.Module, "torch.distributions": Distribution}
_OF_MODULES = frozenset(vars(nn.Module())) | frozenset(dir(nn.Module))
#: Classes of torch.nn that build others, or copies of what they are given: more than they say.
_BUILDERS = ("Module", "Transformer", "DataParallel", "AdaptiveLog", "Parameter", "Buffer")
_MOST_PARTS = 10_000  # each counted as often as it occurs
LEAST = 1000  # numbers that a tensor counts for: many small ones take long to make


class UndescribedError(TypeError):
    """A part does not tell what it was made with."""


def describe(part: Any, tensors: dict[str, Tensor], place: str = "model") -> Any:
    """Describe a module by its class and what it was made with, down to plain values.

    What a constructor took is read off the attributes of the same names, or is what the part's
    method ``init_args`` returns, where it has one. A module that occurs twice is described once.

    Args:
        part: The module.
        tensors: Where the tensors among the arguments are put, under names that the description
            uses.
        place: How errors name the part.

    Raises:
        UndescribedError: If a part does not keep an argument, or one is of another kind.
    """
    seen: dict[int, tuple[int, Any]] = {}  # with the object, so that its id stays its own

    def values(place: str, named: Mapping[str, Any]) -> list[Any]:
        return [[name, value(f"{place}.{name}", each)] for name, each in named.items()]

    def value(place: str, given: Any) -> Any:
        if given is None or isinstance(given, bool | int | float | str):
            return given
        if isinstance(given, Tensor):
            tensors[place] = given.detach()
            return {"tensor": place}
        if isinstance(given, nn.Module | Distribution):
            if id(given) in seen:
                return {"again": seen[id(given)][0]}
            described: dict[str, Any] = {"class": _class_name(type(given))}
            if isinstance(given, nn.Module) and type(given) in _CONTAINERS:
                described["children"] = values(place, given._modules)
            else:
                plain = bare(given) if isinstance(given, Distribution) else given
                described["arguments"] = values(place, _arguments(place, plain))
            seen[id(given)] = len(seen), given
            return described
        if isinstance(given, type):
            return {"type": _class_name(given)}
        if isinstance(given, Mapping):
            return {"named": values(place, given)}
        if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray | memoryview):
            items = [value(f"{place}.{index}", each) for index, each in enumerate(given)]
            return {"tuple": items} if isinstance(given, tuple) else items
        what = "a module, a distribution, a tensor or a plain value"
        raise UndescribedError(_checks.expected(place, what, repr(given)))

    return value(place, part)


def build(
    description: Any, tensors: Mapping[str, Tensor], find: Callable[[str], type], room: int
) -> Any:
    """Build what was described.

    Args:
        description: What `describe` returned.
        tensors: The tensors among the arguments.
        find: Returns the class of a name, or raises.
        room: How many numbers the parts may hold together, before they are given any: a description
            is not to be trusted.

    Raises:
        Exception: Whatever the constructors raise, or ``find``, or whatever a description leads to
            that `describe` did not write.
    """
    built: list[Any] = []
    sizes: list[int] = []  # in parts, each counted as often as it occurs
    count = 0

    def add(parts: int) -> None:
        nonlocal count
        count += parts
        if count > _MOST_PARTS:  # of a few that hold one another again and again
            raise MemoryError(f"it has more than {_MOST_PARTS} parts")

    def value(given: Any) -> Any:
        if isinstance(given, list):
            return [value(each) for each in given]
        if not isinstance(given, dict):
            return given
        if "tuple" in given:
            return tuple(map(value, given["tuple"]))
        if "tensor" in given:
            return tensors[given["tensor"]]
        if "again" in given:
            add(sizes[given["again"]])
            return built[given["again"]]
        if "type" in given:
            return find(given["type"])
        if "named" in given:
            return {name: value(each) for name, each in given["named"]}
        kind = find(given["class"])
        if not issubclass(kind, nn.Module | Distribution):
            raise TypeError(f"{given['class']} is neither a module nor a distribution")
        before = count
        named = given["children"] if kind in _CONTAINERS else given["arguments"]
        told = {name: value(each) for name, each in named}
        if not told.keys().isdisjoint(_NOT_TOLD):
            raise TypeError(f"{given['class']} is told {sorted(told.keys() & set(_NOT_TOLD))}")
        if issubclass(kind, Distribution):
            shapes = [each.shape for each in told.values() if isinstance(each, Tensor)]
            counting.take(math.prod(torch.broadcast_shapes(*shapes)))
        try:
            made = _made(kind, told)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{given['class']}: {error}") from error
        if isinstance(made, Distribution):
            _give_back(made, told)
        add(1)
        built.append(made)
        sizes.append(count - before)
        return made

    with torch.random.fork_rng([]), _Room(room) as counting:
        return value(description)


def torch_class(name: str) -> type | None:
    """Return a module or a distribution of torch's by its public name, None for any other name."""
    place, _, own = name.rpartition(".")
    kind = getattr(getattr(torch, place[6:]), own, None) if place in _TORCH else None
    if not isinstance(kind, type) or (own.startswith(_BUILDERS) and kind not in _CONTAINERS):
        return None
    return kind if issubclass(kind, _TORCH[place]) else None


def plain_arguments(part: nn.Module) -> dict[str, Any]:
    """Tell what a part was made with, of it the plain values; nothing if it does not tell."""
    try:
        told = _arguments("", part)
    except UndescribedError:
        return {}
    return {name: value for name, value in told.items() if is_plain(value)}


def is_plain(value: Any) -> bool:
    """Tell whether a value is one that JSON has, or a sequence of such values."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _class_name(kind: type) -> str:
    """Name a class: torch's and vaekit's by their public place, any other by its own name."""
    for place in _TORCH:
        if getattr(getattr(torch, place[6:]), kind.__name__, None) is kind:
            return f"{place}.{kind.__name__}"
    package, _, rest = kind.__module__.partition(".")
    return f"vaekit.{rest.split('.')[0]}.{kind.__name__}" if package == "vaekit" else kind.__name__


def _arguments(place: str, part: Any) -> Mapping[str, Any]:
    """Tell what a part was made with."""
    if hasattr(part, "init_args"):
        told: Mapping[str, Any] = part.init_args()
        return told
    if isinstance(part, nn.RNNBase):
        names = [*_RECURRENT, *(["proj_size"] if isinstance(part, nn.LSTM) else [])]
        names += ["nonlinearity"] if isinstance(part, nn.RNN) else []
        return {name: getattr(part, name) for name in names}
    own: Any = type(part).__init__
    if own is nn.Module.__init__ or isinstance(part, nn.Identity):  # which take nothing
        return {}
    found, given = {}, _given(part) if isinstance(part, Distribution) else ()
    for name, parameter in inspect.signature(own).parameters.items():
        if name in _NOT_TOLD or name.startswith("_"):
            continue
        kept = "base_dist" if name == "base_distribution" else name  # torch's own exception
        if isinstance(part, Distribution) and parameter.default is None and name not in given:
            continue  # another parameterisation, computed from the one that was given
        common = isinstance(part, nn.Module) and name in _OF_MODULES  # as ``training`` is
        if common or not hasattr(part, kept) or parameter.kind is parameter.VAR_KEYWORD:
            what = f"an attribute {name!r}, as {type(part).__name__} takes, or a method init_args"
            raise UndescribedError(_checks.expected(place, what, "neither"))
        found[name] = getattr(part, kept)
        if name == "bias" and own.__module__.startswith("torch.nn."):
            found[name] = found[name] is not None and found[name] is not False
    return found


def bare(distribution: Distribution) -> Distribution:
    """Copy a distribution without the parameterisations that were computed of the one it has.

    torch keeps those under their names once they were asked for, behind the one that was given.
    """
    copied = copy.copy(distribution)
    own = vars(copied)
    _forget_computed(copied)
    own.update({name: bare(each) for name, each in own.items() if isinstance(each, Distribution)})
    return copied


def _forget_computed(part: Distribution) -> None:
    own = vars(part)
    kinds = {name: inspect.getattr_static(type(part), name, None) for name in own}
    for name in [name for name, kind in kinds.items() if isinstance(kind, lazy_property)][1:]:
        del own[name]


def _given(part: Distribution) -> list[str]:
    """List what a distribution holds under names of its own, or of the one it is made with."""
    return [name for each in _made_with(part) for name in vars(each)]


def _made_with(part: Distribution) -> list[Distribution]:
    """List a distribution, and those of torch's that hold its parameters for it."""
    inner = vars(part).get("_categorical") or vars(part).get("base_dist")
    return [part, *(_made_with(inner) if isinstance(inner, Distribution) else ())]


def _give_back(made: Distribution, told: Mapping[str, Any]) -> None:
    """Put parameters in the place of what a constructor made of them but for rounding.

    Logits are made to sum to one again, in the last digit to something else.
    """
    for part in _made_with(made):
        own = vars(part)
        for name, value in told.items():
            held = own.get(name)
            if not isinstance(value, Tensor) or not isinstance(held, Tensor):
                continue
            alike = held.shape == value.shape and held.dtype == value.dtype
            if alike and held.is_floating_point() and torch.allclose(held, value):
                own.update({key: value for key, each in own.items() if each is held})
        _forget_computed(part)


def _made(kind: type, named: dict[str, Any]) -> Any:
    if kind is nn.Sequential or kind is nn.ModuleDict:
        made: Any = kind()
        for name, child in named.items():
            made.add_module(name, child)
        return made
    if kind is nn.ModuleList:
        return nn.ModuleList(named.values())
    parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    several = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
    known = any(each.name == "bias" or each.kind is each.VAR_KEYWORD for each in parameters)
    if not known and kind.__module__.startswith("torch.nn."):
        named.pop("bias", None)  # of a newer torch; whether there is one, the weights tell
    spread = [each for name in several for each in named.pop(name, [])]
    return kind(*spread, **named)


class _Room(TorchFunctionMode):
    """Refuses to make tensors of more numbers than there is room for."""

    _makers = (
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye),
        *(torch.arange, torch.linspace, torch.tril_indices, torch.triu_indices, torch.randperm),
        *(torch.randint, torch.logspace, torch.empty_strided),
        *(torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like),
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full),
    )

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if func in self._makers:
            self.take(func(*map(_without_values, args), **{**options, "device": "meta"}).numel())
        elif getattr(func, "__name__", "") not in ("__get__", "__set__"):
            self._look(func, args, options)
        return func(*args, **options)

    def _look(self, func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Say so where what is computed would by itself be larger than what is left."""
        try:
            named = {name: _without_values(each) for name, each in options.items()}
            made = func(*map(_without_values, args), **named)
        except Exception:  # of values, which it is not given
            return
        found = made if isinstance(made, tuple | list) else [made]
        if any(isinstance(each, Tensor) and each.numel() > self._room for each in found):
            raise MemoryError("its parts compute more than the weights that are there for them")

    def take(self, numbers: int) -> None:
        """Take room for numbers, or say that there is none left."""
        self._room -= max(numbers, LEAST)
        if self._room < 0:
            raise MemoryError("its parts are larger than the weights that are there for them")


def _without_values(value: Any) -> Any:
    """Return a tensor's shape and dtype as a tensor, or what is none as it is."""
    if type(value) in (tuple, list):
        return type(value)(map(_without_values, value))
    return value.detach().to("meta") if isinstance(value, Tensor) else value
