"""From trial records to statistics, tables, figures and one self-contained page."""
