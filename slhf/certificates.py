"""How good an answer is, measured, not promised: no solution leaves a solver without one."""

from __future__ import annotations

from typing import Any, NamedTuple


class Certificate(NamedTuple):
    """Evidence that comes with a solution of a (batch of) game(s) with batch shape ``...``, in its kind of array.

    Attributes:
        gap: ``(...)``, an upper bound on how far the objective is from its optimum, >= 0 up to
            rounding, in units of preference. For a saddle point it is the duality gap.
        residual: ``(...)``, how far the optimality conditions are from holding (sup norm).
        iterations: ``(...)`` or scalar, iterations of the method; 0 for a closed form.
        method: the method's name, for example ``"closed form"`` or ``"newton"``.
        exact: True when the answer was proved in rational arithmetic.
    """

    gap: Any
    residual: Any
    iterations: Any
    method: str
    exact: bool = False

    def worst(self) -> float:
        """The largest gap in the batch."""
        return float(self.gap.max() if hasattr(self.gap, "max") else self.gap)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, for ``json.dumps``."""

        def plain(value: Any) -> Any:
            return value.tolist() if hasattr(value, "tolist") else value

        return {
            "gap": plain(self.gap),
            "residual": plain(self.residual),
            "iterations": plain(self.iterations),
            "method": self.method,
            "exact": self.exact,
        }
