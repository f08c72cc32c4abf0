"""FM-KT for any number of steps on BCCD: one checkpoint, with the flow or as the plain detector.

0 is among the steps drawn, so the head also learns to read the neck's own features. Measured by us:
docs/results/bccd.md. Train the teacher first, with retinanet_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-any-nfe_retinanet_r18_r18-quarter_bccd.py
    python tools/test.py CONFIG CKPT --nfe 0 1 2 4 8
    python tools/export_student.py CONFIG CKPT OUT_DIR    # NFE 0, the plain detector
"""

_base_ = './fmkt-neck_retinanet_r18_r18-quarter_bccd.py'
model = dict(
    student=dict(neck=dict(flow=dict(num_steps=[0, 1, 2, 4]))),
    losses=dict(fmkt=dict(theta_weight=4.0)),
)
