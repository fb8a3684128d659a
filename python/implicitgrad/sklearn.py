"""scikit-learn estimators whose penalties, one a feature or one a group, are tuned by gradients of the
cross-validated loss. Needs the extra ``sklearn``; nothing else imports this module."""

try:
    from ._group_logistic import GroupLogisticRegressionCV
    from ._group_ridge import GroupRidgeCV
except ImportError as error:
    raise ImportError(
        "implicitgrad.sklearn needs scikit-learn >= 1.6: pip install 'implicitgrad[sklearn]'"
    ) from error

__all__ = ["GroupLogisticRegressionCV", "GroupRidgeCV"]
