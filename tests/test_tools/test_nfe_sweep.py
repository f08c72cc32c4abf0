"""The sweep over flow steps says what it needs."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

import nfe_sweep


def test_a_student_without_a_flow_ends_in_one_line(monkeypatch, tmp_path):
    Config(dict(a=1)).dump(tmp_path / 'config.py')
    (tmp_path / 'x.pth').touch()
    argv = ['test.py', str(tmp_path / 'config.py'), str(tmp_path / 'x.pth'), '--nfe', '0', '1']
    monkeypatch.setattr('sys.argv', argv)
    runner = SimpleNamespace(model=nn.Linear(1, 1), logger=SimpleNamespace(info=print))
    monkeypatch.setattr(nfe_sweep.Runner, 'from_cfg', lambda cfg: runner)
    with pytest.raises(SystemExit, match='^error: the student has no FlowNeck, so it costs'):
        nfe_sweep.main()
