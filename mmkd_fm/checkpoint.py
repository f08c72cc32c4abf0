"""Checkpoints are read without running code from them, on every torch.

mmengine's checkpoints hold more than tensors (log histories, NumPy values), so torch's
`weights_only=True` refuses them, and mmengine 0.10 lets anything be unpickled below torch 2.6 and
can't resume at all from 2.6 on. The loader here unpickles exactly what mmengine's checkpoints need
and refuses the rest by name. Importing this module installs it for files and URLs, and for the
`torchvision://`, `open-mmlab://` and `mmcls://` that mmengine turns into URLs. From `s3://`,
`petrel://` and `pavi://` mmengine still reads with torch.load as it is.
"""

import os
import os.path as osp
import pickle
import types
from typing import Any, Optional
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

_NUMPY_DTYPES = (
    'Bool', 'Int8', 'Int16', 'Int32', 'Int64', 'UInt8', 'UInt16', 'UInt32', 'UInt64',
    'Float16', 'Float32', 'Float64', 'Str', 'LongLong', 'ULongLong',
)  # fmt: skip

# NumPy 2 renamed numpy.core to numpy._core: either reads the files of the other.
_NUMPY_GLOBALS = {
    (f'numpy.{core}.multiarray', name): value.__reduce__()[0]
    for core in ('core', '_core')
    for name, value in (('_reconstruct', np.empty(0)), ('scalar', np.float64(0)))
}

SAFE_GLOBALS: set[tuple[str, str]] = {
    ('collections', 'OrderedDict'),
    ('collections', 'defaultdict'),
    ('collections', 'Counter'),
    ('builtins', 'set'),
    ('builtins', 'frozenset'),
    ('builtins', 'slice'),
    ('builtins', 'complex'),
    ('builtins', 'bytearray'),
    ('builtins', 'int'),
    ('builtins', 'float'),
    ('builtins', 'str'),
    ('builtins', 'bool'),
    ('builtins', 'list'),
    ('builtins', 'dict'),
    ('builtins', 'tuple'),
    ('_codecs', 'encode'),
    ('mmengine.config.config', 'ConfigDict'),
    ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    *(('numpy.dtypes', f'{name}DType') for name in _NUMPY_DTYPES),
    ('torch', 'Size'),
    ('torch', 'device'),
    ('torch._utils', '_rebuild_tensor'),
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch._utils', '_rebuild_parameter'),
    ('torch.nn.parameter', 'Parameter'),
    ('torch.serialization', '_get_layout'),
    *(('torch', name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    *(('torch', name) for name in vars(torch) if name.endswith('Storage')),
}
"""(module, name) pairs that may be unpickled; add to it what you trust."""


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint asks for an object that no checkpoint of mmengine needs."""


_ONE_CYCLE = ('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler')


class _OneCycle:
    """Stands in for the scheduler, of which files name the two functions and no more."""

    _annealing_cos = staticmethod(OneCycleParamScheduler._annealing_cos)
    _annealing_linear = staticmethod(OneCycleParamScheduler._annealing_linear)


_FUNCTIONS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    _OneCycle: ('_annealing_cos', '_annealing_linear'),
}


def _function_of(owner: Any, name: str) -> Any:
    """Stands in for `getattr`, which log histories and one scheduler use for their own alone."""
    if not isinstance(owner, type) or name not in _FUNCTIONS.get(owner, ()):
        raise UnsafeCheckpointError(f'refused: getattr({owner!r}, {name!r})')
    return getattr(owner, name)


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == '__builtin__':  # its name in pickles of protocol 2
            module = 'builtins'
        if (module, name) == ('builtins', 'getattr'):
            return _function_of
        if (module, name) == _ONE_CYCLE:
            return _OneCycle
        if (module, name) in _NUMPY_GLOBALS:
            return _NUMPY_GLOBALS[module, name]
        if (module, name) not in SAFE_GLOBALS:
            raise UnsafeCheckpointError(
                f'refused to unpickle {module}.{name}: only tensors, numbers, containers and log '
                f'histories are read from checkpoints, since anything else could run code. If you '
                f'trust the file, add it before loading: '
                f'mmkd_fm.checkpoint.SAFE_GLOBALS.add(({module!r}, {name!r}))'
            )
        return super().find_class(module, name)


def _load(file: Any, **kwargs: Any) -> Any:
    return _SafeUnpickler(file, **kwargs).load()


# what torch.load expects of a pickle module
_safe_pickle = types.ModuleType('mmkd_fm_safe_pickle')
_safe_pickle.Unpickler = _SafeUnpickler
_safe_pickle.load = _load
_safe_pickle.UnpicklingError = pickle.UnpicklingError


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a checkpoint file safely.

    Args:
        filename: Path of the file.
        map_location: As in `torch.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If the file asks for an object outside `SAFE_GLOBALS`.
        OSError: If the file is truncated or no checkpoint.

    Example:
        >>> load_from_local('work_dirs/run/epoch_12.pth', 'cpu')['state_dict']
    """
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise FileNotFoundError(f'{filename} can not be found.')
    try:
        loaded = torch.load(
            path, map_location=map_location, pickle_module=_safe_pickle, weights_only=False
        )
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f'{filename}: {error}') from None
    except PermissionError:
        raise
    except Exception as error:  # damaged files fail in many ways
        if map_location not in (None, 'cpu'):
            load_from_local(filename, 'cpu')  # says so if it is; else the device is at fault
            raise
        raise OSError(
            f'{filename} is truncated or not a checkpoint ({type(error).__name__}: '
            f'{str(error).splitlines()[0] if str(error) else "no more data"}); copy it again'
        ) from error
    if not isinstance(loaded, dict):
        raise OSError(f'{filename} is not a checkpoint: it holds a {type(loaded).__name__}')
    return loaded


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = None, model_dir: Optional[str] = None) -> Any:
    """Download a checkpoint, then read it safely.

    Rank 0 downloads it, and where nodes don't share the folder the first process of each other.

    Args:
        filename: URL.
        map_location: As in `torch.load`.
        model_dir: Folder to keep it in; torch hub's checkpoint folder by default.
    """
    folder = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(filename).path))
    # mmengine's own local rank needs a process group that its Runner doesn't make
    for downloads in (get_rank() == 0, int(os.environ.get('LOCAL_RANK', 0)) == 0):
        if downloads and not osp.isfile(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(filename, path)
        barrier()
    return load_from_local(path, map_location)


# its loaders of model names such as torchvision://resnet50 call this by name, past the schemes
mmengine_checkpoint.load_from_http = load_from_http
