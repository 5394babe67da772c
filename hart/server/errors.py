"""What a client is told when it gets no pictures, in the form that OpenAI's clients understand."""

from __future__ import annotations

from typing import Any

INVALID, BUSY, FAILED = "invalid_request_error", "rate_limit_error", "server_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of the HTTP answer.
        message: what is wrong, and what would be right.
        kind: OpenAI's ``type`` of the error.
        param: the field of the request that it is about.
        code: a name for programs.
        retry_after_s: when it is worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self._kind, self._param, self._code = status, kind, param, code
        self._retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """The content of the answer."""
        about = {"type": self._kind, "param": self._param, "code": self._code}
        return {"error": {"message": str(self), **about}}

    @property
    def headers(self) -> dict[str, str]:
        wait_s = self._retry_after_s
        return {} if wait_s is None else {"Retry-After": str(wait_s)}
