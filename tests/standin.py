"""A stand-in for a GPU, in pure Python: a device of its own, on which real numbers are computed by the CPU.

torch's PrivateUse1 is the type for devices that torch does not know. Its tensors have shape, strides, dtype and the device
'standin:0'; the numbers lie in a CPU tensor that only this module sees. An operation that mixes devices raises, as on a GPU.
"""
import contextlib
from collections import Counter
from functools import cache
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
GB = 2**30
CONVOLUTION = aten.convolution.default
COPIES = aten._to_copy.default, aten.copy_.default
MAY_MIX = *COPIES, aten.index.Tensor, aten.index_put_.default
WAITS = aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default
OFF = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
H100, T4 = dict(name='Stand-in H100', capability=(9, 0)), dict(name='Stand-in T4', capability=(7, 5))


class Backend(_DummyBackendModule):
    "What torch.cuda is for CUDA, as far as it is asked"
    def __init__(self): self.gpu = dict(H100, free=70*GB, reserved=0, allocated=0)
    def get_amp_supported_dtype(self): return [torch.bfloat16, torch.float16]
    def get_device_capability(self, device=None): return self.gpu['capability']
    def get_device_name(self, device=None): return self.gpu['name']
    def mem_get_info(self, device=None): return self.gpu['free'], 80*GB
    def memory_reserved(self, device=None): return self.gpu['reserved']
    def memory_allocated(self, device=None): return self.gpu['allocated']
    def synchronize(self, device=None): pass
    def get_rng_state(self, device=None): return torch.get_rng_state()
    def set_rng_state(self, state, device=None): pass


@cache
def backend():
    "Make torch know the device, with kernels for autocast; return its module"
    _setup_privateuseone_for_python_backend('standin', module := Backend())
    everything = torch.library.Library('_', 'IMPL', 'AutocastPrivateUse1')
    everything.fallback(torch.library.fallthrough_kernel)
    lib = torch.library.Library('aten', 'IMPL', 'AutocastPrivateUse1')
    for op in aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.addmm.default, aten.mm.default:
        lib.impl(op.name().removeprefix('aten::').removesuffix('.default'), _autocast(op))
    torch.serialization.register_package(0, lambda x: None, lambda x, location: x if 'standin' in location else None)
    module.libraries = everything, lib  # they end with their object
    return module


def _autocast(op):
    def kernel(*args, **kwargs):
        dtype = torch.get_autocast_dtype('standin')
        def cast(x):
            return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() and x.device.type == 'standin' else x
        with torch._C._ExcludeDispatchKeyGuard(OFF):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))
    return kernel


class Tensor(torch.Tensor):
    "A tensor on the stand-in; `inner`, on the CPU, holds its numbers"
    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), dtype=inner.dtype,
                                                   device='standin:0')
        self.inner = inner
        return self

    def __reduce_ex__(self, protocol):
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (self.cpu(), self.dtype, 'standin:0', self.requires_grad)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if cls is not Tensor: return super().__torch_function__(func, types, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass(): return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # also in the threads of the backward pass
        return compute(func, args, kwargs or {})


def there(x): return isinstance(x, torch.Tensor) and x.device.type == 'standin'


def compute(func, args, kwargs):
    "Compute `func` on the CPU; what comes out lies on the stand-in if what goes in does, or if that is asked for"
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
    device = kwargs.get('device')
    to = torch.device(device).type if device is not None else None
    with _disable_current_modes():
        if to != 'standin' and not any(map(there, tensors)): return func(*args, **kwargs)
        if gpu := StandIn.current: gpu.look(func, tensors, kwargs)
        if func not in MAY_MIX and (here := [x for x in tensors if not there(x) and x.ndim]):
            raise RuntimeError(f'{func}: tensors on standin:0 and on the CPU (of shape {tuple(here[0].shape)})')
        known = {id(x.inner): x for x in tensors if there(x)}
        out = func(*tree_map(inside, args), **{k: 'cpu' if k == 'device' else tree_map(inside, v) for k, v in kwargs.items()
                                               if k not in ('pin_memory', 'non_blocking')})
        if to == 'cpu' or func is aten.copy_.default and not there(args[0]): return out
        return tree_map(lambda x: (known[id(x)] if id(x) in known else Tensor(x)) if isinstance(x, torch.Tensor) else x, out)


def inside(x): return x.inner if there(x) else x


kinds: dict = {}
def kind(cls):
    "`Tensor` that is a `cls` too, such as fastai's `TensorImage`"
    if issubclass(cls, Tensor): return cls
    if cls in (torch.Tensor, torch.nn.Parameter): return Tensor
    return kinds.setdefault(cls, type(cls.__name__, (cls, Tensor), dict(set_meta=lambda self, *args, **kwargs: None)))


def as_subclass(x, cls, real=torch.Tensor.as_subclass):
    if not there(x):
        plain = next((k for k, v in kinds.items() if v is cls), torch.Tensor)
        return real(x, plain if issubclass(cls, Tensor) else cls)
    new = aten.alias.default(x)
    new.__class__ = kind(cls)
    return new


def tolist(x, real=torch.Tensor.tolist): return real(x.cpu() if there(x) else x)


def swap_tensors(a, b):
    "torch.utils.swap_tensors without its questions: `a` becomes what `b` is, and stays the same object"
    for name in '__class__', '__dict__':
        was = getattr(a, name)
        setattr(a, name, getattr(b, name))
        setattr(b, name, was)
    torch._C._swap_tensor_impl(a, b)


class StandIn(TorchDispatchMode):
    """Context in which the device works; `gpu` describes it, such as `H100` or `T4`. It notes what is seen:
    `seen` counts copies and reads, `dtypes` those of convolutions, `shapes` their inputs while cuDNN searches for algorithms."""
    current = None

    def __init__(self, gpu=H100):
        super().__init__()
        self.gpu, self.seen, self.dtypes, self.shapes = gpu, Counter(), Counter(), Counter()

    def look(self, func, tensors, kwargs):
        if func in WAITS: self.seen['read'] += 1
        to = torch.device(kwargs.get('device') or tensors[0].device).type if tensors else None
        if func in COPIES and len({x.device.type for x in tensors} | {to}) > 1:
            self.seen['fetched' if there(tensors[-1]) else 'sent'] += 1
        if func is CONVOLUTION:
            self.dtypes[tensors[0].dtype] += 1
            if torch.backends.cudnn.benchmark: self.shapes[tuple(tensors[0].shape), tuple(tensors[1].shape)] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.is_inference_mode_enabled() and func.namespace == 'aten' and func._can_decompose():  # done by autograd elsewhere
            super().__enter__()
            try: return func.decompose(*args, **kwargs or {})
            finally: super().__exit__(None, None, None)
        return compute(func, args, kwargs or {})

    def __enter__(self):
        backend().gpu.update(self.gpu)
        StandIn.current, self.stack, seen = self, contextlib.ExitStack(), self.seen
        def pin_memory(x, device=None):
            if there(x): raise RuntimeError("cannot pin 'standin:0': only dense CPU tensors can be pinned")
            seen['pinned'] += x.numel()*x.itemsize
            return x.clone()
        for name, new in {'torch.Tensor.pin_memory': pin_memory, 'torch.Tensor.as_subclass': as_subclass,
                          'torch.Tensor.tolist': tolist,
                          'torch.utils.swap_tensors': swap_tensors, 'pet_classifier.core.device.GPUS': ('cuda', 'standin'),
                          'pet_classifier.core.device.default_device': lambda: torch.device('standin', 0)}.items():
            self.stack.enter_context(patch(name, new))
        self.stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # lists are made tensors on the CPU, and copied
        future = torch.__future__
        self.stack.callback(future.set_swap_module_params_on_conversion, future.get_swap_module_params_on_conversion())
        future.set_swap_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        StandIn.current = None
        self.stack.close()
