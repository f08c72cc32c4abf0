"""Forms: how the logits of a row are read as distributions. All in log space.

Multiplying logits by gamma power transforms the distribution, whatever the form, since
``p^gamma / sum p^gamma`` is a temperature of 1 / gamma. What divergences compute is independent of
the form too. So every loss is written once, and a form says what its logits mean.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) of the softmaxes over the last dimension: shapes (..., C) to (...)."""
    log_q = F.log_softmax(student_logits, dim=-1)
    log_p = F.log_softmax(teacher_logits, dim=-1)
    return F.kl_div(log_q, log_p, reduction='none', log_target=True).sum(dim=-1)


class Form(ABC):
    """A reading of logits (..., C); what it returns has one value for each distribution."""

    @staticmethod
    @abstractmethod
    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        """KL(p || q), the teacher's distribution p first."""

    @staticmethod
    @abstractmethod
    def log_power_sum(logits: Tensor, gamma: float) -> Tensor:
        """``log U``, ``U = sum_j p_j^gamma``."""

    @staticmethod
    @abstractmethod
    def entropy(logits: Tensor) -> Tensor:
        """Shannon entropy in nats."""

    @classmethod
    def power_sum(cls, logits: Tensor, gamma: float) -> Tensor:
        """``U_gamma``, between 1 (one-hot) and C^(1 - gamma) (uniform over C classes)."""
        return cls.log_power_sum(logits, gamma).exp()

    @classmethod
    def renyi_entropy(cls, logits: Tensor, order: float) -> Tensor:
        """Renyi entropy ``log U_order / (1 - order)``, in nats; that of order 1 is Shannon's."""
        if order == 1:
            return cls.entropy(logits)
        return cls.log_power_sum(logits, order) / (1 - order)


class Softmax(Form):
    """One distribution over the C classes of a row; values of shape (...)."""

    @staticmethod
    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        """KL(p || q)."""
        return kl_divergence(precise(student), precise(teacher))

    @staticmethod
    def log_power_sum(logits: Tensor, gamma: float) -> Tensor:
        """``log U``."""
        return torch.logsumexp(gamma * F.log_softmax(precise(logits), dim=-1), dim=-1)

    @staticmethod
    def entropy(logits: Tensor) -> Tensor:
        """Shannon entropy."""
        log_p = F.log_softmax(precise(logits), dim=-1)
        return -(log_p.exp() * log_p).sum(dim=-1)


def with_background(logits: Tensor) -> Tensor:
    """Sigmoid logits and one background logit fixed at 0: shapes (..., C) to (..., C + 1).

    As a softmax, ``p_k = exp(z_k) / (1 + sum_j exp(z_j))``.
    """
    return F.pad(logits, (0, 1))


class BackgroundSoftmax(Softmax):
    """Sigmoid logits as one distribution over C classes and the background; values (...)."""

    @staticmethod
    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        """KL(p || q)."""
        return Softmax.kl(with_background(student), with_background(teacher))

    @staticmethod
    def log_power_sum(logits: Tensor, gamma: float) -> Tensor:
        """``log U``."""
        return Softmax.log_power_sum(with_background(logits), gamma)

    @staticmethod
    def entropy(logits: Tensor) -> Tensor:
        """Shannon entropy."""
        return Softmax.entropy(with_background(logits))


class Bernoulli(Form):
    """Sigmoid logits as C distributions over "yes" and "no"; values of shape (..., C).

    Each is a two-class softmax of (z, 0): ``p_hat = sigmoid(gamma z)`` and
    ``U = p^gamma + (1 - p)^gamma``.
    """

    @staticmethod
    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        """KL(p || q)."""
        s, t = precise(student), precise(teacher)
        # log p = z + log(1 - p): half the logarithms of the definition
        return t.sigmoid() * (t - s) + F.logsigmoid(-t) - F.logsigmoid(-s)

    @staticmethod
    def log_power_sum(logits: Tensor, gamma: float) -> Tensor:
        """``log U``."""
        z = precise(logits)
        # p^gamma + (1 - p)^gamma = (1 - p)^gamma (e^(gamma z) + 1)
        return gamma * F.logsigmoid(-z) - F.logsigmoid(-gamma * z)

    @staticmethod
    def entropy(logits: Tensor) -> Tensor:
        """Shannon entropy."""
        z = precise(logits)
        return -z.sigmoid() * z - F.logsigmoid(-z)


FORMS = dict(softmax=Softmax, background_softmax=BackgroundSoftmax, bernoulli=Bernoulli)


def get_form(name: str) -> type[Form]:
    """The form of that name.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    if name not in FORMS:
        raise ValueError(f'unknown form {name!r}; valid forms: {", ".join(sorted(FORMS))}')
    return FORMS[name]


def row_divergence(form: str, student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p || q) of each row, summed over its distributions: shapes (N, C) to (N,)."""
    divergence = get_form(form).kl(student, teacher)
    return divergence if divergence.ndim < student.ndim else divergence.sum(dim=-1)
