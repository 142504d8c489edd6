"""Calls ``endpoint`` graders: the adapter behind `graders.ports.EndpointCaller` (spec §3.7)."""

from service.endpoint_caller.addresses import AddressRefusedError, AddressRule
from service.endpoint_caller.caller import EndpointConfig, HttpEndpointCaller

__all__ = ["AddressRefusedError", "AddressRule", "EndpointConfig", "HttpEndpointCaller"]
