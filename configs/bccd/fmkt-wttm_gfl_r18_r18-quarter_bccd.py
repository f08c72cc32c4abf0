"""FM-KT + WTTM on scores and boxes on BCCD, GFL R18 -> R18 of a quarter of the width, 256x192.

`terms` chooses among the methods. Measured by us: docs/results/bccd-gfl.md, with
0.5 for WTTM, and docs/results/bccd-folds-weights.md. Train the teacher first, with gfl_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt-wttm_gfl_r18_r18-quarter_bccd.py
    ... --cfg-options "model.terms=[pkd]"
"""

_base_ = ['./gfl_r18-quarter_bccd.py', '../_base_/distill_runtime.py']
default_hooks = {{_base_.distill_hooks}}
model = dict(
    _delete_=True,
    type='mmkd_fm.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='{{fileDirname}}/gfl_r18_bccd.py',
        checkpoint='work_dirs/gfl_r18_bccd/epoch_24.pth',
        cache=2,  # gigabytes: flips alone give three views of an image, which all come again
    ),
    losses={{_base_.gfl_losses}},
    terms=['fmkt_cwd', 'wttm', 'wttm_boxes'],
)
