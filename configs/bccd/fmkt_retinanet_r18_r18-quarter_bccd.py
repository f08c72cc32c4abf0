"""FM-KT^Theta (zero inference cost) on BCCD, RetinaNet R18 -> R18 of a quarter of the width.

Measured by us: docs/results/bccd.md. Train the teacher first, with retinanet_r18_bccd.py.

    python tools/train.py configs/bccd/fmkt_retinanet_r18_r18-quarter_bccd.py
"""

_base_ = './fmkt-wttm_retinanet_r18_r18-quarter_bccd.py'
model = dict(terms=['fmkt'])
