"""Admission: a gate that lets work in while its memory fits, and learns what work costs."""

from __future__ import annotations

from memguard.admission.gate import Gate
from memguard.admission.tickets import Ticket

__all__ = ["Gate", "Ticket"]
