"""The view that ``benchmarks.neighbours`` rebuilds, over the topic named in REFOLD_BENCH_TOPIC."""

from __future__ import annotations

import os

from benchmarks.views import by_minute

orders_by_minute = by_minute(os.environ["REFOLD_BENCH_TOPIC"])
