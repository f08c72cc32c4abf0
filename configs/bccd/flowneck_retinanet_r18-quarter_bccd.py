"""Control on BCCD: the quarter-width student with a flow behind its neck and no teacher, 48 epochs.

It has the parameters and the inference cost of fmkt-neck_*, so what a teacher adds can be told from
what the extra block adds.

    python tools/train.py configs/bccd/flowneck_retinanet_r18-quarter_bccd.py
    python tools/test.py configs/bccd/flowneck_retinanet_r18-quarter_bccd.py CKPT --nfe 1 2 4 8
"""

_base_ = ['./retinanet_r18-quarter_bccd.py', '../_base_/distill_runtime.py']
model = dict(
    neck=dict(
        _delete_=True,
        type='mmkd_fm.FlowNeck',
        neck={{_base_.model.neck}},
        flow={{_base_.flow}},
        levels=[0, 1, 2, 3],
        nfe=1,
    )
)
