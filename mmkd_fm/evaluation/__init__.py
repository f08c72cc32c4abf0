"""Metrics that compare a student with its teacher."""

from mmkd_fm.evaluation.agreement import TeacherAgreement

__all__ = ['TeacherAgreement']
