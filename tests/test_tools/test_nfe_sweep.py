"""What a test with several numbers of flow steps reports."""

from nfe_sweep import scores_of, table


def test_what_is_reported_of_a_sweep():
    cost = dict(steps=0, nfe=0, parameters=1, gflops=1.0, milliseconds=1.0)
    assert scores_of([cost]).keys['AP'] == 'coco/bbox_mAP'  # nothing was found
    found = dict(cost, **{'lvis/bbox_AP': 0.25, 'lvis/bbox_AP50': 0.5})
    scores = scores_of([cost, found])
    assert (scores.title, scores.keys, scores.factor) == (
        'lvis/bbox_AP',
        {'bbox_AP': 'lvis/bbox_AP'},
        100,
    )
    assert scores_of([dict(cost, **{'single-label/precision': 25.0})]).factor == 1
    assert [c.header for c in table([cost, found]).columns][:2] == ['NFE', 'bbox_AP']
    assert list(table([cost, found]).columns[1].cells) == ['0.0', '25.0']
