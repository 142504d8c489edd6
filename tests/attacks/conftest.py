"""What attacks share with the other tests of the sandbox."""

from tests.sandbox.conftest import shared

__all__ = ["shared"]
