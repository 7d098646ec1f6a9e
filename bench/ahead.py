"""Begins as tomoni's verbs do (`run.start`): kernels that are still to be built are built while the rest is loaded.

Imported for that by our side's scripts. Every measured process has caches of its own, so each builds them anew.
"""

from __future__ import annotations

from tomoni.engine import kernels

kernels.build_ahead()
