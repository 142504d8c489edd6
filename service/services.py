"""What the routes use, put together once by `service.app`."""

from __future__ import annotations

import msgspec

from graders.ports import Ports
from service.adapters import Check
from service.auth import KeySource
from service.counting import Counts
from service.definitions import AdHocGraders, Definitions
from service.jobs import Jobs
from service.metrics import Metrics
from service.observing import Observer
from service.publishing import Publications
from service.settings import Settings
from service.shutdowns import Shutdowns


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a handler may reach, by way of ``request.app.state.services``.

    Attributes:
        publications: Finds definitions, those that were published over HTTP among them.
        jobs: Rewards that callers submit and poll.
        checks: Dependency → what ``/readyz`` shows of it, with ``ok`` among the fields.
        counts: What counts grades.
        shutdowns: What is known about the end of judge models.
        observer: Brings the metrics up to date.
    """

    settings: Settings
    definitions: Definitions
    publications: Publications
    adhoc: AdHocGraders
    ports: Ports
    metrics: Metrics
    counts: Counts
    keys: KeySource
    jobs: Jobs
    checks: dict[str, Check]
    shutdowns: Shutdowns
    observer: Observer
