"""What is said of a model that registries would answer with a bare error."""

import pytest
from mmengine.config import Config

from mmkd_fm.models import Distiller
from model_problems import model_problem

OWN = dict(student=dict(), teacher=dict(), losses=dict())
SAID = {
    'scope': (
        dict(OWN, type='Distiller'),
        r'would be one of mmdet; write type="mmkd_fm.Distiller"',
    ),
    'base': (
        dict(OWN, type='mmkd_fm.Distiller', backbone=dict(), neck=dict()),
        r"Distiller has no option 'backbone'.*model=dict\(_delete_=True, type='mmkd_fm.Distiller'",
    ),
    'misspelt': (dict(OWN, type=Distiller, term=['kd']), r"no option 'term'; did you mean 'terms'"),
}


@pytest.mark.parametrize('case', SAID)
def test_it_is_said(case):
    model, message = SAID[case]
    problem = model_problem(Config(dict(model=model, default_scope='mmdet')))
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


@pytest.mark.parametrize(
    'model',
    [
        dict(OWN, type='mmkd_fm.Distiller', terms=['kd'], seed=1),
        dict(OWN, type=Distiller),
        dict(type='RetinaNet', backbone=dict()),
        dict(type='mine.Distiller', backbone=dict()),
    ],
    ids=['ours', 'class', 'plain', "another's"],
)
def test_nothing_is_said_of(model):
    assert model_problem(Config(dict(model=model, default_scope='mmdet'))) is None
