"""What a job does to the allocator is put back."""

from __future__ import annotations

import pyarrow as pa

from flows.memory import sparing_commit


def test_commits_of_several_views_put_arrows_pool_back_whichever_ends_first() -> None:
    usual = pa.default_memory_pool().backend_name
    one, other = sparing_commit(), sparing_commit()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert pa.default_memory_pool().backend_name == "system"
    other.__exit__(None, None, None)
    assert pa.default_memory_pool().backend_name == usual
