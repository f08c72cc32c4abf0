r"""FM-KT for any number of steps on BCCD, GFL R18 -> R18 of a quarter: with the flow or without.

Measured by us, with CWD as the metric: docs/results/bccd-gfl.md. Train the teacher
first, with gfl_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-any-nfe_gfl_r18_r18-quarter_bccd.py \
        --cfg-options model.losses.fmkt.metric.type=mmkd_fm.CWDLoss
    python tools/test.py CONFIG CKPT --nfe 0 1 2 4 8
    python tools/export_student.py CONFIG CKPT OUT_DIR    # NFE 0, the plain detector
"""

_base_ = './fmkt-neck_gfl_r18_r18-quarter_bccd.py'
model = dict(
    student=dict(neck=dict(flow=dict(num_steps=[0, 1, 2, 4]))),
    losses=dict(fmkt=dict(theta_weight=4.0)),
)
