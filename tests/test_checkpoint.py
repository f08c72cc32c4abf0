"""Checkpoints are read without running code from them."""

import collections
import http.server
import io
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.optim import OneCycleLR
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from mmkd_fm import checkpoint as safe


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        loss = self.linear(torch.stack(list(inputs))).square().mean()
        return dict(loss=loss) if mode == 'loss' else loss


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory):
    """A checkpoint with log histories, optimizer state, NumPy values and the like."""
    folder = tmp_path_factory.mktemp('runner')
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        experiment_name='safe_loading',
        default_scope='mmdet',  # stays the default of the tests to come
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(2)) for _ in range(4)],
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1]),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        randomness=dict(seed=0),
    )
    runner.message_hub.update_info('numpy', [np.float64(0.5), np.int64(3), np.arange(3), 'name'])
    runner.message_hub.update_info('python', [{1, 2}, collections.Counter('aab'), slice(1, 2), 1j])
    runner.train()
    return str(folder / 'epoch_2.pth')


def as_bytes(value):
    """``value`` in a form that can be compared: pickled again."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return zipfile.ZipFile(buffer).read('archive/data.pkl')


def test_a_runners_checkpoint(runner_checkpoint):
    loaded = safe.load_from_local(runner_checkpoint, 'cpu')
    expected = torch.load(runner_checkpoint, map_location='cpu', weights_only=False)
    assert set(loaded) == {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'}
    assert as_bytes(loaded) == as_bytes(expected)
    assert type(loaded['message_hub']['log_scalars']['train/loss']).__name__ == 'HistoryBuffer'
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(loaded['state_dict'][name], tensor)
    assert loaded['message_hub']['runtime_info']['numpy'][2].tolist() == [0, 1, 2]


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_a_scheduler_that_keeps_a_function(tmp_path, strategy):
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    made = OneCycleLR(optimizer, eta_max=1.0, total_steps=5, anneal_strategy=strategy)
    torch.save(dict(param_schedulers=[made.state_dict()]), tmp_path / 'x.pth')
    loaded = safe.load_from_local(str(tmp_path / 'x.pth'))['param_schedulers'][0]
    assert loaded['anneal_func'] is made.anneal_func
    assert loaded == made.state_dict()


def test_the_meta_of_a_data_set(tmp_path):
    """Nested dicts in a config's `metainfo` are kept as ConfigDict."""
    meta = BaseDataset._load_metainfo(ConfigDict(classes=('a',), more=dict(x=dict(y=1))))
    torch.save(dict(meta=dict(dataset_meta=meta)), tmp_path / 'x.pth')
    loaded = safe.load_from_local(str(tmp_path / 'x.pth'))['meta']['dataset_meta']
    assert loaded == dict(classes=('a',), more=dict(x=dict(y=1)))


def test_it_is_what_mmengine_uses(runner_checkpoint, tmp_path, monkeypatch):
    assert CheckpointLoader._get_checkpoint_loader('file.pth') is safe.load_from_local
    for url in ('http://host/file.pth', 'https://host/file.pth'):
        assert CheckpointLoader._get_checkpoint_loader(url) is safe.load_from_http
    model = Toy()
    load_checkpoint(model, runner_checkpoint, strict=True)
    expected = torch.load(runner_checkpoint, weights_only=False)['state_dict']['linear.weight']
    assert torch.equal(model.linear.weight, expected)


@pytest.mark.parametrize('legacy', [False, True])
def test_tensors_only(legacy, tmp_path):
    state = dict(
        half=torch.ones(2, dtype=torch.float16),
        bfloat=torch.ones(2, dtype=torch.bfloat16),
        integer=torch.arange(3),
        boolean=torch.ones(1, dtype=torch.bool),
        scalar=torch.tensor(2.0),
        parameter=torch.nn.Parameter(torch.ones(2)),
        view=torch.arange(6.0).reshape(2, 3).t(),
    )
    torch.save(state, tmp_path / 'x.pth', _use_new_zipfile_serialization=not legacy)
    loaded = safe.load_from_local(str(tmp_path / 'x.pth'))
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in state.items())


class Call:
    """Calls ``function`` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    'system': (lambda marker: Call(os.system, f'touch {marker}'), 'posix.system'),
    'mkdir': (lambda marker: Call(os.mkdir, marker), 'posix.mkdir'),
    'eval': (lambda marker: Call(eval, f'__import__("os").mkdir({marker!r})'), 'builtins.eval'),
    'exec': (lambda marker: Call(exec, f'import os; os.mkdir({marker!r})'), 'builtins.exec'),
    'import': (lambda marker: Call(__import__, 'antigravity'), 'builtins.__import__'),
    'getattr': (lambda marker: Call(getattr, collections.OrderedDict, 'fromkeys'), 'getattr'),
    'partial': (lambda marker: partial(os.mkdir, marker), 'functools.partial'),
    'open': (lambda marker: Call(open, marker, 'w'), 'io.open'),
    'numpy': (lambda marker: Call(np.save, marker, 1), 'numpy.save'),
    'torch.load': (lambda marker: Call(torch.load, marker), 'torch.serialization.load'),
    'script': (lambda marker: Call(torch.hub.load, '/x', 'y'), 'torch.hub.load'),
}


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('nested', [False, True], ids=['bare', 'nested'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_attacks_are_refused_by_name(attack, nested, legacy, tmp_path):
    marker = str(tmp_path / 'marker')
    make, name = ATTACKS[attack]
    content = dict(state_dict={}, meta=[[dict(x=make(marker))]]) if nested else make(marker)
    file = str(tmp_path / 'x.pth')
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(safe.UnsafeCheckpointError, match=f'x.pth: refused.*{name}'):
        safe.load_from_local(file)
    assert not os.path.exists(marker) and not os.path.exists(f'{marker}.npy')


def test_a_raw_pickle_is_refused(tmp_path):
    (tmp_path / 'x.pth').write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / 'marker'))))
    with pytest.raises((safe.UnsafeCheckpointError, OSError), match='x.pth'):
        safe.load_from_local(str(tmp_path / 'x.pth'))
    assert not (tmp_path / 'marker').exists()


def test_getattr_gives_the_methods_of_log_histories_only(tmp_path):
    for owner, name in (('mmengine.logging.history_buffer', 'HistoryBuffer'), ('torch', 'Size')):
        for method in ('mean', '__init__', '__class__'):
            raw = f'c__builtin__\ngetattr\n(c{owner}\n{name}\nS{method!r}\ntR.'.encode()
            unpickler = safe._SafeUnpickler(io.BytesIO(raw))
            if (name, method) == ('HistoryBuffer', 'mean'):
                assert unpickler.load().__name__ == 'mean'
                continue
            with pytest.raises(safe.UnsafeCheckpointError, match=f'refused: getattr.*{method}'):
                unpickler.load()
    of_a_list = safe._SafeUnpickler(io.BytesIO(b"c__builtin__\ngetattr\n(]S'append'\ntR."))
    with pytest.raises(safe.UnsafeCheckpointError, match=r"refused: getattr\(\[\], 'append'\)"):
        of_a_list.load()


def test_what_is_refused_can_be_trusted(tmp_path, monkeypatch):
    file = str(tmp_path / 'x.pth')
    torch.save(dict(x=collections.deque([1])), file)
    with pytest.raises(safe.UnsafeCheckpointError) as refused:
        safe.load_from_local(file)
    advice = str(refused.value).split('before loading: ')[1]
    assert advice == "mmkd_fm.checkpoint.SAFE_GLOBALS.add(('collections', 'deque'))"
    monkeypatch.setattr(safe, 'SAFE_GLOBALS', set(safe.SAFE_GLOBALS))
    exec(f'import mmkd_fm.checkpoint; {advice}')
    assert safe.load_from_local(file)['x'] == collections.deque([1])


@pytest.mark.parametrize('fraction', [0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_truncated_files(fraction, legacy, runner_checkpoint, tmp_path):
    content = torch.load(runner_checkpoint, weights_only=False)
    file = tmp_path / 'x.pth'
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    file.write_bytes(file.read_bytes()[: int(fraction * file.stat().st_size)])
    with pytest.raises(OSError, match='x.pth is truncated or not a checkpoint .* copy it again'):
        safe.load_from_local(str(file))


@pytest.mark.parametrize(
    'content', [b'<html>404</html>', b'version https://git-lfs', b'\x80\x04N.']
)
def test_other_files(content, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(OSError, match='x.pth is truncated or not a checkpoint'):
        safe.load_from_local(str(tmp_path / 'x.pth'))


def test_no_checkpoint(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'x.pth')
    with pytest.raises(OSError, match='x.pth is not a checkpoint: it holds a list'):
        safe.load_from_local(str(tmp_path / 'x.pth'))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'x.pth can not be found'):
        safe.load_from_local(str(tmp_path / 'x.pth'))


def test_a_path_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(state_dict={}), tmp_path / 'x.pth')
    assert safe.load_from_local('~/x.pth') == dict(state_dict={})


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / 'x.pth').touch()

    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(torch, 'load', refuse)
    with pytest.raises(PermissionError, match='Permission denied'):
        safe.load_from_local(str(tmp_path / 'x.pth'))


def test_tensors_go_where_they_are_asked_for(tmp_path, server, monkeypatch):
    """Of files and of URLs: else all processes would fill the GPU that the file was saved from."""
    url, folder, _ = server
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), folder / 'x.pth')
    asked = []
    for path in (str(folder / 'x.pth'), f'{url}/x.pth'):
        CheckpointLoader.load_checkpoint(path, lambda x, device: asked.append(device) or x)
    assert asked == ['cpu', 'cpu']  # as they are in the file


@pytest.mark.parametrize('names', [('numpy.core', 'numpy._core'), ('numpy._core', 'numpy.core')])
def test_files_written_under_another_numpy(names, tmp_path):
    """NumPy 2 moved `numpy.core` to `numpy._core`: either opens the files of the other."""
    file, (old, new) = tmp_path / 'x.pth', (name.encode() for name in names)
    value = dict(scalar=np.float64(0.5), array=np.arange(3.0), tensor=torch.ones(2))
    torch.save(value, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(old + b'.multiarray', new + b'.multiarray'))
    loaded = safe.load_from_local(str(file))
    assert loaded['scalar'] == 0.5 and loaded['array'].tolist() == [0, 1, 2]
    assert loaded['tensor'].tolist() == [1, 1]


@pytest.fixture
def server(tmp_path):
    """URL of a web server for a folder, the folder, and the paths that were asked for."""
    folder, asked = tmp_path / 'served', []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}', folder, asked
        httpd.shutdown()


def test_urls(server, tmp_path, monkeypatch):
    url, folder, asked = server
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    torch.save(dict(state_dict={}), folder / 'good.pth')
    torch.save(Call(os.mkdir, str(tmp_path / 'marker')), folder / 'bad.pth')
    for _ in range(2):  # the second time from the disk
        assert CheckpointLoader.load_checkpoint(f'{url}/good.pth?x=1') == dict(state_dict={})
    assert len(asked) == 1
    kept = [path.name for path in (tmp_path / 'hub' / 'checkpoints').iterdir()]
    assert kept == ['good.pth']  # without what is asked of the server
    with pytest.raises(safe.UnsafeCheckpointError, match='posix.mkdir'):
        CheckpointLoader.load_checkpoint(f'{url}/bad.pth')
    assert not (tmp_path / 'marker').exists()
    with pytest.raises(OSError, match='404'):
        CheckpointLoader.load_checkpoint(f'{url}/absent.pth')


@pytest.mark.parametrize(
    ('name', 'index'),
    [
        ('torchvision://', 'get_torchvision_models'),
        ('modelzoo://', 'get_torchvision_models'),
        ('open-mmlab://', 'get_external_models'),
        ('openmmlab://', 'get_external_models'),
        ('mmcls://', 'get_mmcls_models'),
    ],
)
def test_names_of_models_are_urls(name, index, server, tmp_path, monkeypatch):
    url, folder, _ = server
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    models = {kind: f'{url}/{kind}.pth' for kind in ('good', 'bad')}
    monkeypatch.setattr(mmengine_checkpoint, index, lambda: models)
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), folder / 'good.pth')
    torch.save(Call(os.mkdir, str(tmp_path / 'marker')), folder / 'bad.pth')
    assert 'state_dict' in CheckpointLoader.load_checkpoint(f'{name}good')
    with pytest.raises(safe.UnsafeCheckpointError, match='posix.mkdir'):
        CheckpointLoader.load_checkpoint(f'{name}bad')
    assert not (tmp_path / 'marker').exists()


ROOT = Path(__file__).resolve().parents[1]
NODES = """
import sys
import torch.distributed as dist
from mmengine.runner.checkpoint import CheckpointLoader
from mmkd_fm import checkpoint as safe

store, rank, size, url, shared = sys.argv[1:]
dist.init_process_group('gloo', init_method=f'file://{store}', rank=int(rank), world_size=int(size))
assert CheckpointLoader.load_checkpoint(f'{url}/own.pth') == dict(meta='own.pth')
assert safe.load_from_http(f'{url}/shared.pth', model_dir=shared) == dict(meta='shared.pth')
"""


@pytest.mark.slow
def test_urls_on_nodes_that_share_no_home(server, tmp_path):
    """Two nodes of two processes: each node downloads what it lacks, once."""
    url, folder, asked = server
    for name in ('own.pth', 'shared.pth'):
        torch.save(dict(meta=name), folder / name)
    processes = []
    for rank in range(4):
        home = tmp_path / f'node_{rank // 2}'
        env = dict(
            os.environ,
            TORCH_HOME=str(home),
            LOCAL_RANK=str(rank % 2),
            no_proxy='127.0.0.1',
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
        )
        arguments = [tmp_path / 'store', rank, 4, url, tmp_path / 'shared']
        command = [sys.executable, '-c', NODES, *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    try:
        output = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * 4, '\n'.join(output)[-3000:]
    assert sorted(asked) == ['/own.pth', '/own.pth', '/shared.pth']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_device_that_there_is_not_is_no_damage(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), tmp_path / 'x.pth')
    whole = (tmp_path / 'x.pth').read_bytes()
    with pytest.raises((RuntimeError, AssertionError), match='CUDA'):
        safe.load_from_local(str(tmp_path / 'x.pth'), 'cuda')
    (tmp_path / 'x.pth').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match='x.pth is truncated or not a checkpoint'):
        safe.load_from_local(str(tmp_path / 'x.pth'), 'cuda')
