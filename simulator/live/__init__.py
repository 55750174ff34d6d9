"""The live comparison: policies with real processes, their measures, tables and pictures."""
