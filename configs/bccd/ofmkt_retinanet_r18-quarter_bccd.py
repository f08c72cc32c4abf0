"""OFM-KT on BCCD: the quarter-width student with a flow behind its neck teaches itself, 48 epochs.

No teacher: the single steps of the flow are drawn to their mean. Measured by us, without a gain:
docs/results/bccd.md.

    python tools/train.py configs/bccd/ofmkt_retinanet_r18-quarter_bccd.py
"""

_base_ = './flowneck_retinanet_r18-quarter_bccd.py'
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.OnlineDistiller',
    student={{_base_.model}},
    losses=dict(ofmkt=dict(type='mmkd_fm.OnlineFMKTLoss', tap='neck', loss_weight=4.0)),
)
