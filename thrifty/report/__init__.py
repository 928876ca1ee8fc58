"""`thrifty report`: report.md with its pictures and one page with all of it, from the files of a run folder, after any stage."""

from thrifty.report.stage import run_stage

__all__ = ["run_stage"]
