"""What a training may be resumed from is what its checkpoint says."""

import pytest
import torch
from mmengine.config import Config

from mmkd_fm import registry  # noqa: F401 (installs the checkpoint loader)
from resumed import check_resumed

LOSSES = dict(fmkt=dict(type='FMKTLoss'), wttm=dict(type='WTTMLoss'))


@pytest.fixture
def folder(tmp_path):
    """A work dir with the checkpoint of a distillation with fmkt, and one of a plain training."""
    for name, state in (('epoch_1', dict(distill_state=dict(terms=['fmkt']))), ('plain', {})):
        torch.save(dict(state_dict={}, **state), tmp_path / f'{name}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    return tmp_path


def config(resume=False, load_from=None, **model):
    if 'type' not in model:
        model.update(type='mmkd_fm.Distiller', student=dict(type='GFL'))
    return Config(dict(model=dict(model), resume=resume, load_from=load_from))


SAME = [
    dict(losses=LOSSES, terms=['fmkt']),
    dict(losses=LOSSES, terms='fmkt'),
    dict(losses=dict(LOSSES, wttm=dict(type='WTTMLoss', loss_weight=0))),
]
OTHER = {
    'more': (dict(losses=LOSSES), 'trained with fmkt, not with fmkt wttm'),
    'another': (dict(losses=LOSSES, terms=['wttm']), 'trained with fmkt, not with wttm'),
    'none': (dict(losses=dict(fmkt=dict(LOSSES['fmkt'], loss_weight=0))), 'not with no term'),
    'plain': (
        dict(type='GFL'),
        'of a distillation with fmkt, which a plain config would not go on with: .*--teacher',
    ),
    'misspelt': (dict(losses=LOSSES, terms=['fmtk']), "there is no loss named 'fmtk'"),
}


@pytest.mark.parametrize('model', SAME, ids=str)
@pytest.mark.parametrize('asked', ['auto', 'epoch_1.pth'])
def test_the_same_terms_go_on(model, asked, folder):
    asked = asked if asked == 'auto' else str(folder / asked)
    check_resumed(config(**model), str(folder), asked)


@pytest.mark.parametrize('name', OTHER)
@pytest.mark.parametrize('how', ['auto', 'file', 'config', "config's file"])
def test_other_terms_are_refused(name, how, folder):
    model, message = OTHER[name]
    saved, asked = str(folder / 'epoch_1.pth'), dict(auto='auto', file=None).get(how)
    more = dict(resume=how.startswith('config'))
    if how == 'file':
        asked = saved
    if how == "config's file":
        more['load_from'] = saved
        (folder / 'last_checkpoint').unlink()
    with pytest.raises(ValueError, match=message):
        check_resumed(config(**model, **more), str(folder), asked)


def test_a_plain_checkpoint_is_not_resumed_by_a_distillation(folder):
    plain = str(folder / 'plain.pth')
    with pytest.raises(ValueError, match='plain.pth has no distillation state.*load_from='):
        check_resumed(config(losses=LOSSES), str(folder), plain)
    check_resumed(config(type='GFL'), str(folder), plain)
    check_resumed(config(type='Mine', losses=[dict()]), str(folder), plain)  # no distillation's


def test_what_does_not_resume_is_not_looked_at(folder):
    check_resumed(config(type='GFL'), str(folder), None)
    check_resumed(config(type='GFL', load_from=str(folder / 'epoch_1.pth')), str(folder), None)
    check_resumed(config(type='GFL'), str(folder / 'elsewhere'), 'auto')


def test_a_file_that_can_not_be_read_is_left_to_the_runner(folder):
    (folder / 'epoch_1.pth').write_bytes(b'broken')
    check_resumed(config(type='GFL'), str(folder), 'auto')
