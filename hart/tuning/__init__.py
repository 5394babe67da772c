"""Finding plans from a budget: measuring, solving, refining and verifying."""

from hart.lazy import lazy_names

TYPE_CHECKING = False  # type checkers take it for True
if TYPE_CHECKING:
    from hart.tuning.measurements import Measurements as Measurements
    from hart.tuning.measuring import measure as measure
    from hart.tuning.plan import TunedPlan as TunedPlan
    from hart.tuning.tuner import Tuner as Tuner
    from hart.tuning.verification import verify as verify

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "hart.tuning.measuring": ("measure",),
        "hart.tuning.verification": ("verify",),
        "hart.tuning.measurements": ("Measurements",),
        "hart.tuning.plan": ("TunedPlan",),
        "hart.tuning.tuner": ("Tuner",),
    },
)
