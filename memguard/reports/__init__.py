"""Reports of incidents: from what sinks wrote, in words and numbers; and what other rules would have decided."""

from __future__ import annotations

from memguard.reports.reading import stories_of, stories_of_lines
from memguard.reports.report import IncidentReport, report_of
from memguard.reports.story import Story

__all__ = ["IncidentReport", "Story", "report_of", "stories_of", "stories_of_lines"]
