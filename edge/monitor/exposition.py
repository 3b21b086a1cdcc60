"""Prometheus' text format (version 0.0.4), and the figures of our own process by its conventions. No PHI.

What is unknown has no sample: absent, never a made-up number.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
MetricSample = tuple[Labels, "float | None"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples. `kind`: counter, gauge or histogram; a histogram's samples come whole."""

    name: str
    kind: str
    text: str
    samples: Sequence[MetricSample]


def expose(families: Iterable[Family]) -> str:
    """The page that Prometheus scrapes."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.text}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        if value is not None:
            suffix = labels.get("__suffix__", "")
            shown = {name: each for name, each in labels.items() if name != "__suffix__"}
            yield f"{family.name}{suffix}{format_labels(shown)} {format_number(value)}"


def escape(value: str) -> str:
    """A label's value, escaped as the format requires."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def format_labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def format_number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def histogram(
    labels: Labels, bounds: Sequence[float], counts: Sequence[int], total_seconds: float
) -> list[MetricSample]:
    """The samples of one histogram: `counts` of each bucket and of what is above the last bound."""
    found: list[MetricSample] = []
    below = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        below += count
        edge = "+Inf" if bound == float("inf") else format_number(bound)
        found.append(({**labels, "le": edge, "__suffix__": "_bucket"}, below))
    return [*found, ({**labels, "__suffix__": "_sum"}, total_seconds), ({**labels, "__suffix__": "_count"}, below)]


def process_families() -> list[Family]:
    """Our process, by the names that Prometheus' client libraries use; children that receive are counted with it."""
    found = psutil.Process()
    with found.oneshot():
        family = [found, *found.children()]
        used = [use for each in family if (use := _use_of(each)) is not None]
        started = found.create_time()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def single(name: str, kind: str, text: str, value: float) -> Family:
        return Family(f"process_{name}", kind, text, [({}, value)])

    return [
        single("cpu_seconds_total", "counter", "Total user and system CPU time.", sum(each[0] for each in used)),
        single("resident_memory_bytes", "gauge", "Resident memory.", sum(each[1] for each in used)),
        single("virtual_memory_bytes", "gauge", "Virtual memory.", sum(each[2] for each in used)),
        single("start_time_seconds", "gauge", "Start time of the process since 1970.", started),
        single("open_fds", "gauge", "Open file descriptors.", len(os.listdir("/proc/self/fd"))),
        single("max_fds", "gauge", "Most open file descriptors.", limit),
        single("threads", "gauge", "Threads of the process.", len(os.listdir(Path("/proc/self/task")))),
    ]


def _use_of(process: psutil.Process) -> tuple[float, int, int] | None:
    """CPU seconds, resident and virtual bytes; None where the process has just ended."""
    try:
        times, memory = process.cpu_times(), process.memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return times.user + times.system, memory.rss, memory.vms
