"""The report: one HTML file that needs no network, made from what the stages published.

It stands beside the evaluation, in data/report, and enters no digest and no key: it shows durations, and a change of
its looks makes no figure anew. No torch here.
"""

FOLDER = "report"
PAGE = "report.html"
