r"""FM-KT with the flow at inference on BCCD, GFL R18 -> MobileNetV2 of a quarter, 16 epochs.

Measured by us, with CWD as the metric: docs/results/bccd-gfl-mobilenetv2.md. Train the teacher
first, with gfl_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-neck_gfl_r18_mobilenetv2-quarter_bccd.py \
        --cfg-options model.losses.fmkt.metric.type=mmkd_fm.CWDLoss
    python tools/test.py CONFIG CKPT --nfe 1 2 4 8
"""

_base_ = './flowneck_gfl_mobilenetv2-quarter_bccd.py'
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/gfl_r18_bccd.py',
        checkpoint='work_dirs/gfl_r18_bccd/epoch_24.pth',
        cache=2,
    ),
    losses=dict(fmkt={{_base_.fmkt_neck}}),
)
