"""A simulated GPU: tensors that report the device "cuda:0", compute on the CPU, and refuse what a GPU refuses.

A tensor on the simulated GPU wraps one on the CPU. Operations run on the wrapped tensor, after a check that no operand
was left on the CPU (zero-dimensional numbers may be, as on a real GPU). Every number that is transferred is
counted: copies to and from the GPU, and scalars that the program waits for. Not simulated: speed, memory, and
the last bits of sums, which a real GPU computes in another order.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("cuda:0")
#: Device reported to autograd's C++ code: it asks nothing of a device without a driver.
_INSIDE = torch.device("meta")


class CardTensor(torch.Tensor):
    """A tensor on the simulated GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_INSIDE,
            requires_grad=held.requires_grad,
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=CARD)

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"CardTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a card that is not there any more")


class SimulatedCard(TorchDispatchMode):
    """Creation of tensors on the simulated GPU, and operations with them.

    Attributes
    ----------
    crossings
        Number of transfers: "to the card", "to the processor", "scalar" (the program needs the
        value) and "shape" (it needs the size: nonzero, unique, masks).
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the compiler is imported, which takes seconds

    def __init__(self):
        super().__init__()
        self.crossings: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        flat, _ = tree_flatten((args, kwargs))
        tensors = [t for t in flat if isinstance(t, torch.Tensor)]
        on_card = [t for t in tensors if isinstance(t, CardTensor)]
        if any(not isinstance(t, CardTensor) and t.device.type == "meta" for t in tensors):
            raise RuntimeError(f"{func}: a Python list or number was turned into a tensor on the card by torch itself")
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        to_card = bool(on_card) if wanted is None else torch.device(wanted).type in ("meta", "cuda")
        self._count(packet, on_card, tensors, to_card)
        generator = kwargs.get("generator")
        if generator is not None and (generator._cdata in _CARD_GENERATORS) != to_card:
            raise RuntimeError(f"{func}: expected a generator on {'cuda' if to_card else 'cpu'}")
        if packet is torch.ops.aten.linalg_lstsq and on_card and kwargs.get("driver", "gels") != "gels":
            raise RuntimeError("linalg.lstsq: cards know the driver 'gels' only")
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if packet is torch.ops.aten._local_scalar_dense:
            return out
        # what was changed in place is returned as the object that it was
        known = {id(t.held): t for t in on_card} | {id(t): t for t in tensors if not isinstance(t, CardTensor)}

        def wrap(value):
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in known:
                return known[id(value)]
            return CardTensor(value) if to_card else value

        return tree_map(wrap, out)

    def _count(self, packet, on_card, tensors, to_card: bool) -> None:
        aten = torch.ops.aten
        if packet is aten._local_scalar_dense and on_card:
            self.crossings["scalar"] += 1
        elif packet in (aten._to_copy, aten.copy_, aten._copy_from):
            if len(on_card) != len(tensors) or (packet is aten._to_copy and to_card != bool(on_card)):
                towards = to_card if packet is aten._to_copy else isinstance(tensors[0], CardTensor)
                self.crossings["to the card" if towards else "to the processor"] += 1
        elif on_card:
            left = [t for t in tensors if not isinstance(t, CardTensor) and t.dim() > 0]
            if left:
                raise RuntimeError(
                    f"{packet}: expected all tensors on one device, found cuda:0 and a tensor of shape "
                    f"{tuple(left[0].shape)} on the CPU"
                )
            name = str(packet)
            if any(word in name for word in ("nonzero", "unique", "masked_select", "bincount")):
                self.crossings["shape"] += 1


#: Generators made for the GPU, by the address under which an operation finds them again.
_CARD_GENERATORS: dict[int, torch.Generator] = {}


class _AnyGenerator(torch.Generator):
    """A generator on the CPU that stores the device it was made for."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self._device = torch.device(device)
        if self._device.type == "cuda":
            _CARD_GENERATORS[self._cdata] = self

    device = property(lambda self: self._device)


def _held(value):
    return value.held if isinstance(value, CardTensor) else value


@contextmanager
def simulated_card():
    """A machine with one (simulated) GPU."""
    before = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: True))
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", lambda: 1))
        stack.enter_context(mock.patch.object(torch.cuda, "current_device", lambda: 0))
        stack.enter_context(mock.patch.object(torch, "Generator", _AnyGenerator))
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        stack.callback(_CARD_GENERATORS.clear)
        yield stack.enter_context(SimulatedCard())
