"""`shudun data audit`: what is wrong or lopsided in labelled files, as findings with levels and one report.

`runner` reads the files once in chunks into `table`; the other modules each judge one thing from that table.
"""
