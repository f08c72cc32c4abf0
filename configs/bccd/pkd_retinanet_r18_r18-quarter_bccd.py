"""PKD on BCCD."""

_base_ = './fmkt-wttm_retinanet_r18_r18-quarter_bccd.py'
model = dict(losses=dict(_delete_=True, pkd={{_base_.pkd}}))
